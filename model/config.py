"""Defines the settings of a Transformer and of an LSTM, with their defaults."""

import dataclasses
import math

from model import kernels, layers

POSITIONS = ("sinusoidal", "learned", "relative", "rotary", "alibi", "none")
DTYPES = ("float32", "bfloat16", "float16")

# Settings with a set of values, with a smallest value (None passes), and from 0 to below 1.
KNOWN = dict(
  activation=layers.ACTIVATIONS,
  norm=layers.NORMS,
  norm_position=("pre", "post"),
  positions=POSITIONS,
  attention_impl=kernels.IMPLS,
  remat=layers.REMAT,
  dtype=DTYPES,
)
SMALLEST = dict(vocab_size=1, dim=1, num_heads=1, num_kv_heads=1, head_dim=1, mlp_dim=1, window=1)
SMALLEST |= dict(embedding_dim=1, token_types=0, position_offset=0, global_tokens=0)
SMALLEST |= dict(max_len=1, relative_buckets=2, relative_max_distance=1, norm_eps=0, init_std=0)
LARGEST = 2**31 - 1  # a size is an int32
POSITIVE = ("rope_theta", "logits_scale", "attention_scale")
RATES = ("dropout", "attention_dropout", "activation_dropout")


def _fits(value, kind) -> bool:
  """Returns whether a value has a type such as float | None; a float may be given as an int."""
  if type(value) is int and isinstance(0.0, kind):
    return True
  return isinstance(value, kind) and (not isinstance(value, bool) or kind is bool)


class _Config:
  """The checks and sizes that the models' settings share."""

  def __post_init__(self):
    given = vars(self)
    for field in dataclasses.fields(self):
      value = given[field.name]
      if not _fits(value, field.type):
        kind = getattr(field.type, "__name__", field.type)
        raise TypeError(f"model.{field.name} is {value!r}: expects {kind}")
      if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"model.{field.name} is {value}: expects a finite number")
      if isinstance(value, int) and value > LARGEST:
        raise ValueError(f"model.{field.name} is {value}: expects a number of at most {LARGEST}")
    for field, known in KNOWN.items():
      if field in given and given[field] not in known:
        raise ValueError(f"model.{field} is {given[field]!r}; known: {', '.join(known)}")
    for field, least in SMALLEST.items():
      if (size := given.get(field)) is not None and size < least:
        raise ValueError(f"model.{field} is {size}; it must be at least {least}")
    for field in POSITIVE:
      if (value := given.get(field)) is not None and value <= 0:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(_Config):
  """The settings of a Transformer; raises ValueError where they describe no model."""

  vocab_size: int
  dim: int = 512
  num_heads: int = 8
  num_kv_heads: int | None = None  # None: as many as heads; fewer: grouped-query attention
  head_dim: int | None = None  # None: dim / num_heads
  mlp_dim: int = 2048
  encoder_layers: int = 6  # 0 for a decoder-only model
  decoder_layers: int = 6  # 0 for an encoder-only model
  activation: str = "relu"  # relu, gelu, gelu_tanh, silu, tanh
  gated: bool = False
  norm: str = "layer"  # layer, rms
  norm_position: str = "post"  # post: after the residual sum (Vaswani); pre: before each sublayer
  norm_eps: float = 1e-5
  embedding_dim: int | None = None  # of an encoder's table, projected to dim (ELECTRA); None: dim
  embedding_norm: bool = False  # a norm right after the embeddings (BERT, BART)
  token_types: int = 0  # of an encoder's words: a first and a second text (BERT); 0: no types
  bias: bool = True  # in attention and feed-forward
  positions: str = "sinusoidal"  # sinusoidal, learned, relative, rotary, alibi, none
  max_len: int = 512  # number of learned positions
  position_offset: int = 0  # rows of that table before the first position's row (RoBERTa, BART: 2)
  relative_buckets: int = 32
  relative_max_distance: int = 128
  rope_theta: float = 10000.0
  share_embeddings: bool = True  # one table for source and target
  tie_output: bool = True  # output matrix = the decoder's (encoder-only: the encoder's) table
  output_bias: bool = False
  embed_scale: bool = True  # embeddings times sqrt(dim)
  logits_scale: float = 1.0
  attention_scale: float | None = None  # None: head size ** -0.5 (T5: 1)
  window: int | None = None  # a token attends to tokens at less than this distance; None: to all
  global_tokens: int = 0  # this many first tokens of a row attend to all and are attended to by all
  init_std: float | None = None  # None: Glorot uniform, embeddings dim ** -0.5
  dropout: float = 0.1  # on embeddings and on each sublayer's output
  attention_dropout: float = 0.0
  activation_dropout: float = 0.0
  attention_impl: str = "einsum"  # einsum (ours); xla; cudnn (NVIDIA), splash (TPU): kernels.py
  # activations of a layer that are computed again in the backward pass: none; full: all of them;
  # dots: all but products; sublayers: all but the sublayers' outputs
  remat: str = "none"
  scan_layers: bool = False  # one program for all layers, their weights stacked: compiles faster
  dtype: str = "float32"  # of activations; weights, norms, softmax and logits stay float32

  def __post_init__(self):
    super().__post_init__()
    if self.head_dim is None and self.dim % self.num_heads:
      raise ValueError(f"model.dim {self.dim} is no multiple of model.num_heads {self.num_heads}")
    if self.num_heads % self.kv_heads:
      raise ValueError(
        f"model.num_heads {self.num_heads} is no multiple of num_kv_heads {self.kv_heads}"
      )
    if self.positions == "rotary" and self.head_size % 2:
      raise ValueError(f"model.head_dim {self.head_size} is odd: rotary positions turn pairs")
    if self.positions == "relative" and self.relative_max_distance <= self.relative_buckets // 2:
      raise ValueError("model.relative_max_distance must be more than half of relative_buckets")
    if self.global_tokens and self.window is None:
      raise ValueError("model.global_tokens has an effect with a window alone: set model.window")
    if self.decoder_layers and (self.token_types or self.table_dim != self.dim):
      raise ValueError("model.token_types and model.embedding_dim need model.decoder_layers=0")
    if self.attention_dropout and not kernels.IMPLS[self.attention_impl].dropout:
      raise ValueError("model.attention_dropout needs model.attention_impl='einsum'")

  @property
  def kv_heads(self) -> int:
    """Returns the number of heads of keys and values."""
    return self.num_kv_heads or self.num_heads

  @property
  def head_size(self) -> int:
    """Returns the size of a head's vectors."""
    return self.head_dim or self.dim // self.num_heads

  @property
  def scale(self) -> float:
    """Returns the factor of the logits of attention."""
    return self.head_size**-0.5 if self.attention_scale is None else self.attention_scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSTMConfig(_Config):
  """The settings of an LSTM (model/lstm.py); raises ValueError where they describe no model."""

  vocab_size: int
  dim: int = 512  # of states and of words' vectors
  encoder_layers: int = 2  # 0 for a language model
  decoder_layers: int = 2  # 0 for an encoder alone
  bidirectional: bool = True  # the encoder: half of dim from the left, half from the right
  share_embeddings: bool = True  # one table for source and target
  tie_output: bool = True  # output matrix = the decoder's (encoder-only: the encoder's) table
  output_bias: bool = False
  forget_bias: float = 1.0  # of the forget gates at the start (Jozefowicz et al. 2015)
  init_std: float | None = None  # None: uniform, fan-in ** -0.5 at most; embeddings dim ** -0.5
  dropout: float = 0.2  # on what each layer reads and on what is returned, not on the recurrence
  dtype: str = "float32"  # of activations; weights, cells, softmax and logits stay float32

  # settings that heads and logits read of any model
  activation = "gelu"
  norm = "layer"
  norm_eps = 1e-5
  logits_scale = 1.0
  embedding_dim = None

  def __post_init__(self):
    super().__post_init__()
    if self.encoder_layers and self.bidirectional and self.dim % 2:
      raise ValueError(f"model.dim {self.dim} is odd: model.bidirectional halves it")
