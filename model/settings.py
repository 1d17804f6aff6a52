"""Checks the settings of models: their types, known values and ranges."""

import dataclasses
import math

from model import kernels, layers

POSITIONS = ("sinusoidal", "sinusoidal_t2t", "learned", "relative", "learned_relative")
POSITIONS += ("disentangled", "learned_disentangled", "rotary", "alibi", "none")
# Those with a table of positions, of distances' biases, and of distances' states.
LEARNED = ("learned", "learned_relative", "learned_disentangled")
RELATIVE = ("relative", "learned_relative")
DISENTANGLED = ("disentangled", "learned_disentangled")
TERMS = ("c2p+p2c", "c2p", "p2c")
NORM_POSITIONS = ("post", "pre", "both")
# The settings of which a decoder may have its own, and the names of its own.
DECODER = dict(num_heads="decoder_heads", num_kv_heads="decoder_kv_heads")
DECODER |= dict(head_dim="decoder_head_dim", mlp_dim="decoder_mlp_dim")
DECODER |= dict(window="decoder_window", max_len="decoder_max_len")
DTYPES = ("float32", "bfloat16", "float16")

# Settings with a set of values, with a smallest value (None passes), and from 0 to below 1.
KNOWN = dict(
  activation=layers.ACTIVATIONS,
  norm=layers.NORMS,
  norm_position=NORM_POSITIONS,
  positions=POSITIONS,
  disentangled_terms=TERMS,
  convolution_activation=layers.ACTIVATIONS,
  output_transform=("none", *layers.ACTIVATIONS),
  attention_impl=kernels.IMPLS,
  remat=layers.REMAT,
  dtype=DTYPES,
)
SMALLEST = dict(vocab_size=1, dim=1, num_heads=1, num_kv_heads=1, head_dim=1, mlp_dim=1, window=1)
SMALLEST |= dict(embedding_dim=1, token_types=0, position_offset=0, global_tokens=0)
SMALLEST |= dict(max_len=1, relative_buckets=2, relative_max_distance=1, norm_eps=0, init_std=0)
SMALLEST |= dict.fromkeys(DECODER.values(), 1) | dict(rotary_dim=2, global_blocks=1, convolution=1)
SMALLEST |= dict(rope_original_len=1)
LARGEST = 2**31 - 1  # a size is an int32
POSITIVE = ("rope_theta", "rope_scale", "rope_low_turns", "rope_high_turns")
POSITIVE += ("logits_scale", "attention_scale")
POSITIVE += ("attention_softcap", "logits_softcap")
RATES = ("dropout", "attention_dropout", "activation_dropout")
# Those that change no output of a trained model, or only how it is computed.
FREE = (*RATES, "attention_impl", "remat", "scan_layers", "dtype", "init_std")


def _fits(value, kind) -> bool:
  """Returns whether a value has a type such as float | None; a float may be given as an int."""
  if type(value) is int and isinstance(0.0, kind):
    return True
  if isinstance(value, tuple) and isinstance(value, kind):  # a pattern of layers
    return bool(value) and all(_fits(x, kind) and not isinstance(x, tuple) for x in value)
  if isinstance(value, bool):
    return kind in (bool, bool | None)
  return isinstance(value, kind)


def values_of(given, field) -> list:
  """Returns the values of a setting, or of a pattern's layers, without None."""
  value = given.get(field)
  return [x for x in (value if isinstance(value, tuple) else (value,)) if x is not None]


class Settings:
  """The checks and sizes that the models' settings share."""

  def __post_init__(self):
    given = vars(self)
    for field in dataclasses.fields(self):
      if not _fits(given[field.name], field.type):
        kind = getattr(field.type, "__name__", field.type)
        raise TypeError(f"model.{field.name} is {given[field.name]!r}: expects {kind}")
      for value in values_of(given, field.name):
        if isinstance(value, float) and not math.isfinite(value):
          raise ValueError(f"model.{field.name} is {value}: expects a finite number")
        if isinstance(value, int) and value > LARGEST:
          raise ValueError(f"model.{field.name} is {value}: expects a number of at most {LARGEST}")
    for field, known in KNOWN.items():
      if field in given and given[field] not in known:
        raise ValueError(f"model.{field} is {given[field]!r}; known: {', '.join(known)}")
    for field, least in SMALLEST.items():
      for size in values_of(given, field):
        if size < least:
          raise ValueError(f"model.{field} is {size}; it must be at least {least}")
    for field in POSITIVE:
      for value in values_of(given, field):
        if value <= 0:
          raise ValueError(f"model.{field} is {value}; it must be above 0")
    for field in RATES:
      if not 0 <= given.get(field, 0) < 1:
        raise ValueError(f"model.{field} is {given[field]}; it must be at least 0 and below 1")
    encoder, decoder = self.encoder_layers, self.decoder_layers
    if min(encoder, decoder) < 0 or encoder == decoder == 0:
      raise ValueError(
        f"model.encoder_layers is {encoder}, model.decoder_layers {decoder}: set one above 0"
      )

  @property
  def table_dim(self) -> int:
    """Returns the size of the words' vectors."""
    return self.embedding_dim or self.dim

  @property
  def table_std(self) -> float:
    """Returns the standard deviation with which embedding tables start."""
    return self.dim**-0.5 if self.init_std is None else self.init_std
