"""Defines the tables of Gemma, Gemma 2 and Gemma 3 (its language model), whose norms multiply by
1 + w."""

import dataclasses

from train.common.errors import UserError
from train.interop.families import rope
from train.interop.families.base import ACTIVATIONS, changed, field, gains
from train.interop.families.decoders import BLOCK, LLAMA, classes

# config.json of Gemma has gelu for the approximation that it was trained with.
_GELU = ACTIVATIONS | dict(gelu="gelu_tanh")
_NAMES = {ours: name for name, ours in reversed(ACTIVATIONS.items())} | dict(
  gelu_tanh="gelu_pytorch_tanh"
)
_LAYER = "layers.{}"
_ATTENTION_AND_MLP = tuple(row for row in LLAMA.rows if "norm" not in row.theirs)


def inverse_root(number) -> float:
  """Returns number ** -0.5."""
  if number <= 0:
    raise TypeError(number)
  return number**-0.5


def inverse_square(scale) -> int:
  """Returns the whole number whose `inverse_root` is `scale`; raises KeyError if none is."""
  number = 0 if scale is None else round(scale**-2)
  if not number or abs(inverse_root(number) / scale - 1) > 1e-6:
    raise KeyError(scale)
  return number


GEMMA = dataclasses.replace(
  LLAMA,
  model_type="gemma",
  classes=classes("Gemma", "causal", "classification", "tagging"),
  settings=(
    *changed(
      LLAMA.settings,
      dict(
        vocab_size=256000,
        hidden_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=256,
        intermediate_size=24576,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
      ),
      without=("hidden_act", "mlp_bias"),
    ),
    field("hidden_act", "activation", "gelu_pytorch_tanh", _GELU.__getitem__, _NAMES.__getitem__),
  ),
  constants=LLAMA.constants | dict(mlp_bias=False, embed_scale=True),
  fixed=dict(use_bidirectional_attention=False),
  ignored=(*rope.NAMES, "hidden_activation"),
  rows=(
    *_ATTENTION_AND_MLP,
    *gains(f"{_LAYER}.input_layernorm", f"{BLOCK}/self_norm"),
    *gains(f"{_LAYER}.post_attention_layernorm", f"{BLOCK}/mlp_norm"),
    *gains("norm", "decoder/norm"),
  ),
  write=lambda model: dict(rope_parameters=rope.write(model), attention_bias=model["bias"]),
)


def _alternating(index: int) -> str:
  return rope.FULL if index % 2 else rope.SLIDING


def read_gemma2(config, tensors):
  """Returns the fields of rotary positions and windows."""
  types = rope.layer_types(config, config.get("num_hidden_layers", 26), _alternating)
  window = rope.windows(types, config.get("sliding_window", 4096))
  return LLAMA.read(config, tensors) | dict(window=window)


def write_gemma2(model):
  """Returns the fields of rotary positions, windows and biases."""
  return GEMMA.write(model) | rope.write_windows(model, 4096)


GEMMA2 = dataclasses.replace(
  GEMMA,
  model_type="gemma2",
  classes=classes("Gemma2", "causal", "classification", "tagging"),
  settings=(
    *changed(
      GEMMA.settings,
      dict(
        hidden_size=2304,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=9216,
      ),
      without=("hidden_act",),
    ),
    field(
      "hidden_activation",
      "activation",
      "gelu_pytorch_tanh",
      ACTIVATIONS.__getitem__,
      _NAMES.__getitem__,
    ),
    field("query_pre_attn_scalar", "attention_scale", 256, inverse_root, inverse_square),
    field("attn_logit_softcapping", "attention_softcap", 50.0),
    field("final_logit_softcapping", "logits_softcap", 30.0),
  ),
  constants=GEMMA.constants | dict(norm_position="both"),
  ignored=(*rope.NAMES, *rope.WINDOWS, "hidden_act", "cache_implementation"),
  rows=(
    *_ATTENTION_AND_MLP,
    *gains(f"{_LAYER}.input_layernorm", f"{BLOCK}/self_norm"),
    *gains(f"{_LAYER}.post_attention_layernorm", f"{BLOCK}/self_output_norm"),
    *gains(f"{_LAYER}.pre_feedforward_layernorm", f"{BLOCK}/mlp_norm"),
    *gains(f"{_LAYER}.post_feedforward_layernorm", f"{BLOCK}/mlp_output_norm"),
    *gains("norm", "decoder/norm"),
  ),
  read=read_gemma2,
  write=lambda model: (
    write_gemma2(model)
    | dict(
      attn_logit_softcapping=model["attention_softcap"],
      final_logit_softcapping=model["logits_softcap"],
    )
  ),
)


def _read_gemma3(config, tensors):
  """Returns windows, and rotary positions by the layers' types."""
  del tensors
  rope.check_whole(config)
  period = config.get("sliding_window_pattern")
  period = 6 if period is None else period
  types = rope.layer_types(
    config,
    config.get("num_hidden_layers", 26),
    lambda i: rope.SLIDING if (i + 1) % period else rope.FULL,
  )
  given = config.get("rope_parameters") or {}
  if unknown := sorted(given.keys() - {rope.SLIDING, rope.FULL}):
    raise UserError(
      f"rope_parameters has {unknown[0]!r}; a gemma3_text has {rope.SLIDING} and {rope.FULL}"
    )
  scaling = config.get("rope_scaling") or {}
  usual = {
    rope.SLIDING: config.get("rope_local_base_freq", rope.THETA),
    rope.FULL: config.get("rope_theta", 1e6),
  }
  fields = {}
  for kind, theta in usual.items():
    own = (given.get(kind) or {}) | (scaling if kind == rope.FULL else {})
    fields[kind] = rope.read_one(config, own, f"rope_parameters.{kind}", theta)
  if both := sorted({field for kind in types for field in fields[kind]} - {*rope.PATTERNS}):
    raise UserError(f"rope_type 'llama3' has no counterpart in a gemma3_text ({both[0]})")
  return dict(
    window=rope.windows(types, config.get("sliding_window", 4096)),
    **{name: rope.shortest([fields[kind][name] for kind in types]) for name in rope.PATTERNS},
  )


def _write_gemma3(model):
  windows = rope.write_windows(model, 4096)
  types = windows["layer_types"]
  parameters = {
    kind: rope.write(model, types.index(kind) if kind in types else 0)
    for kind in (rope.SLIDING, rope.FULL)
  }
  return (
    GEMMA.write(model)
    | windows
    | dict(rope_parameters=parameters, final_logit_softcapping=model["logits_softcap"])
  )


GEMMA3 = dataclasses.replace(
  GEMMA2,
  model_type="gemma3_text",
  classes={"Gemma3ForCausalLM": "causal"} | classes("Gemma3Text", "classification"),
  settings=changed(
    GEMMA2.settings,
    dict(vocab_size=262208, max_position_embeddings=131072, final_logit_softcapping=None),
    without=("attn_logit_softcapping",),
  ),
  constants=GEMMA2.constants | dict(qk_norm=True),
  # transformers has the soft cap of attention in the settings, and no effect of it
  fixed=dict(use_bidirectional_attention=False, attn_logit_softcapping=None),
  ignored=(
    *GEMMA2.ignored,
    "rope_local_base_freq",
    "sliding_window_pattern",
    "_sliding_window_pattern",
  ),
  rows=(
    *GEMMA2.rows,
    *gains(f"{_LAYER}.self_attn.q_norm", f"{BLOCK}/self_attention/query_norm"),
    *gains(f"{_LAYER}.self_attn.k_norm", f"{BLOCK}/self_attention/key_norm"),
  ),
  read=_read_gemma3,
  write=_write_gemma3,
)

FAMILIES = (GEMMA, GEMMA2, GEMMA3)
