"""Defines the settings of a Transformer and of an LSTM, with their defaults."""

import dataclasses
import math

from model import kernels
from model.settings import DECODER, DISENTANGLED, RELATIVE, Settings, values_of


@dataclasses.dataclass(frozen=True)
class LayerSettings:
  """The settings in which the layers of a stack may differ."""

  window: int | None
  rope_theta: float
  rope_scale: float
  norm: bool  # whether self-attention has a norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(Settings):
  """The settings of a Transformer; raises ValueError where they describe no model.

  A tuple is a pattern that the layers of a stack repeat, from the first one on.
  """

  vocab_size: int
  dim: int = 512
  num_heads: int = 8
  num_kv_heads: int | None = None  # None: as many as heads; fewer: grouped-query attention
  head_dim: int | None = None  # None: dim / num_heads
  mlp_dim: int = 2048
  encoder_layers: int = 6  # 0 for a decoder-only model
  decoder_layers: int = 6  # 0 for an encoder-only model
  decoder_heads: int | None = None  # the decoder's num_heads; None, here and below: num_heads
  decoder_kv_heads: int | None = None
  decoder_head_dim: int | None = None
  decoder_mlp_dim: int | None = None
  share_layers: bool = False  # the layers of a stack have one set of weights (ALBERT)
  activation: str = "relu"  # relu, gelu, gelu_tanh, silu, tanh
  gated: bool = False
  norm: str = "layer"  # layer, rms
  # post: after the residual sum (Vaswani); pre: before each sublayer; both: before each sublayer
  # and on its output (Gemma 2)
  norm_position: str = "post"
  norm_bias: bool = True  # of norm=layer
  first_norm: bool = True  # False: no norm before the first layer's self-attention (ModernBERT)
  norm_eps: float = 1e-5
  embedding_dim: int | None = None  # of an encoder's table, projected to dim (ELECTRA); None: dim
  embedding_norm: bool = False  # a norm right after the embeddings (BERT, BART)
  token_types: int = 0  # of an encoder's words: a first and a second text (BERT); 0: no types
  bias: bool = True  # in attention and feed-forward
  qkv_bias: bool | None = None  # of queries, keys and values; None: as `bias` (Qwen2: True)
  mlp_bias: bool | None = None  # of the feed-forward network; None: as `bias`
  qk_norm: bool = False  # norms of each head's queries and keys, before they turn (Qwen3)
  parallel: bool = False  # attention and feed-forward read the same states (GPT-NeoX)
  # sinusoidal, sinusoidal_t2t (M2M-100's wavelengths), learned, relative (T5), learned_relative
  # (both: MPNet), disentangled (DeBERTa-v2), learned_disentangled (both), rotary, alibi, none
  positions: str = "sinusoidal"
  max_len: int = 512  # number of learned positions
  decoder_max_len: int | None = None  # the decoder's number
  # the first position's row of that table (RoBERTa, BART: 2), or its number in sinusoidal_t2t
  position_offset: int = 0
  relative_buckets: int = 32  # of both directions (T5); disentangled: of each
  relative_max_distance: int | None = 128  # None: buckets are single distances (disentangled)
  relative_per_layer: bool = False  # a table of distances for each layer, not for a stack (umT5)
  # disentangled: the logits of a content with a position, of a position with a content, or both
  disentangled_terms: str = "c2p+p2c"
  disentangled_projections: bool = False  # layers have own ones for distances (DeBERTa-v2: shared)
  disentangled_norm: bool = True  # of the states of distances
  # so many embeddings around a token are added to an encoder's first layer's output (DeBERTa-v2)
  convolution: int | None = None
  convolution_activation: str = "tanh"
  rope_theta: float | tuple = 10000.0
  rope_scale: float | tuple = 1.0  # rotary positions are divided by it (Gemma 3: 8)
  # Llama 3's scaling of longer texts than this: pairs that turn rope_high_turns times or more in
  # them are not scaled, those that turn rope_low_turns times or less are scaled; None: all are
  rope_original_len: int | None = None
  rope_low_turns: float = 1.0
  rope_high_turns: float = 4.0
  rotary_dim: int | None = None  # so many first numbers of a head turn; None: all (GPT-NeoX: part)
  share_embeddings: bool = True  # one table for source and target
  tie_output: bool = True  # output matrix = the decoder's (encoder-only: the encoder's) table
  output_bias: bool = False
  # none, or the activation of a dense layer with a norm between a decoder's states and its words
  output_transform: str = "none"
  embed_scale: bool = True  # embeddings times sqrt(dim)
  logits_scale: float = 1.0
  logits_softcap: float | None = None  # cap * tanh(logits / cap) (Gemma 2); None: no cap
  attention_scale: float | None = None  # None: head size ** -0.5 (T5: 1)
  attention_softcap: float | None = None  # the same of the logits of attention
  # a token attends to tokens at less than this distance; None, or None in a pattern: to all
  window: int | tuple | None = None
  decoder_window: int | tuple | None = None  # the decoder's; None: as `window`; (None,): no window
  global_tokens: int = 0  # this many first tokens of a row attend to all and are attended to by all
  global_projections: bool = False  # an encoder's have own queries, keys, values (Longformer)
  # an encoder's tokens also attend to a summary of each so many tokens (LongT5); None: to none
  global_blocks: int | None = None
  init_std: float | None = None  # None: Glorot uniform, embeddings dim ** -0.5
  dropout: float = 0.1  # on embeddings and on each sublayer's output
  attention_dropout: float = 0.0
  activation_dropout: float = 0.0
  # einsum (ours); xla; cudnn (NVIDIA), splash (TPU): kernels.py; auto: einsum, but where a run's
  # devices have a kernel that can compute the model (train/build.py), that kernel
  attention_impl: str = "einsum"
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
    if self.positions == "rotary":
      self._check_rotary()
    elif self.rotary_dim is not None or self.rope_original_len is not None:
      name = "rope_original_len" if self.rotary_dim is None else "rotary_dim"
      raise ValueError(f"model.{name} has an effect with model.positions='rotary' alone")
    self._check_distances()
    if self.relative_per_layer and (self.positions not in RELATIVE or self.share_layers):
      raise ValueError(
        f"model.relative_per_layer needs model.positions {' or '.join(RELATIVE)} and"
        " model.share_layers=False"
      )
    self._check_globals()
    if self.parallel and self.encoder_layers and self.decoder_layers:
      raise ValueError("model.parallel has no place for a cross-attention: set a depth to 0")
    if self.parallel and self.norm_position != "pre":
      raise ValueError("model.parallel needs model.norm_position='pre'")
    if not self.first_norm and (self.norm_position == "post" or self.share_layers):
      raise ValueError(
        "model.first_norm=False leaves out a norm before a sublayer, in one layer: it needs"
        " model.norm_position='pre' or 'both' and model.share_layers=False"
      )
    if self.decoder_layers and (self.token_types or self.table_dim != self.dim):
      raise ValueError("model.token_types and model.embedding_dim need model.decoder_layers=0")
    if self.output_transform != "none" and not self.decoder_layers:
      raise ValueError("model.output_transform is a decoder's: an encoder has a head for its words")
    if self.attention_dropout and not kernels.IMPLS[self.attention_impl].dropout:
      raise ValueError("model.attention_dropout needs model.attention_impl='einsum' or 'auto'")
    if any(getattr(self, name) is not None for name in DECODER.values()):
      try:
        self.for_decoder()
      except ValueError as error:
        raise ValueError(f"model.{', '.join(DECODER.values())}: in the decoder {error}") from error

  def _check_distances(self):
    exact, summed = self.relative_max_distance is None, self.positions in DISENTANGLED
    if exact and self.positions in RELATIVE:
      raise ValueError("model.relative_max_distance=None is for disentangled positions")
    least = self.relative_buckets // 2 + summed
    if (summed or self.positions in RELATIVE) and (
      self.relative_max_distance or least + 1
    ) <= least:
      raise ValueError("model.relative_max_distance must be more than half of relative_buckets")
    width, place = self.convolution or 1, self.encoder_layers and not self.share_layers
    if width % 2 == 0 or (self.convolution and not place):
      raise ValueError(
        f"model.convolution is {width}: it is an odd number, in an encoder of layers that are not"
        " shared"
      )

  def _check_globals(self):
    windows = values_of(vars(self), "window")
    if self.global_tokens and not windows + values_of(vars(self), "decoder_window"):
      raise ValueError("model.global_tokens has an effect with a window alone: set model.window")
    if self.global_projections and not (self.encoder_layers and self.global_tokens and windows):
      raise ValueError("model.global_projections are an encoder's: set global_tokens and window")
    if self.global_projections and self.qk_norm:
      raise ValueError("model.global_projections have no norms: set model.qk_norm=False")
    if self.global_blocks is not None:
      if not self.encoder_layers or not windows or self.global_tokens:
        raise ValueError(
          "model.global_blocks are an encoder's with a window and without global_tokens"
        )
      if self.positions in ("rotary", *DISENTANGLED):
        raise ValueError(f"model.global_blocks have no positions of the kind {self.positions}")

  def _check_rotary(self):
    if self.rotary_size % 2:
      name = "head_dim" if self.rotary_dim is None else "rotary_dim"
      raise ValueError(f"model.{name} {self.rotary_size} is odd: rotary positions turn pairs")
    if self.rotary_size > self.head_size:
      raise ValueError(f"model.rotary_dim {self.rotary_dim} is above head_dim {self.head_size}")
    if self.rope_low_turns >= self.rope_high_turns:
      raise ValueError(
        f"model.rope_low_turns {self.rope_low_turns} must be below rope_high_turns"
        f" {self.rope_high_turns}"
      )

  def for_decoder(self) -> "TransformerConfig":
    """Returns the settings with the decoder's own in place of the encoder's."""
    own = {name: getattr(self, theirs) for name, theirs in DECODER.items()}
    own = {name: value for name, value in own.items() if value is not None}
    own |= dict.fromkeys(DECODER.values())
    own |= dict(global_projections=False, global_blocks=None, convolution=None)
    if "window" in own and not values_of(own, "window"):
      own["global_tokens"] = 0
    return dataclasses.replace(self, **own)

  def layer(self, index: int) -> LayerSettings:
    """Returns the settings of the layer at `index` of a stack."""

    def choose(value):
      return value[index % len(value)] if isinstance(value, tuple) else value

    patterns = choose(self.window), choose(self.rope_theta), choose(self.rope_scale)
    return LayerSettings(*patterns, norm=self.first_norm or index > 0)

  @property
  def period(self) -> int:
    """Returns the number of layers after which the settings of layers repeat."""
    patterns = self.window, self.rope_theta, self.rope_scale
    return math.lcm(*(len(value) for value in patterns if isinstance(value, tuple)))

  def lead(self, depth: int) -> int:
    """Returns the number of first layers of a stack that are not scanned with scan_layers.

    The others are whole periods, without a layer that has no norm or adds a convolution.
    """
    lead = depth % self.period
    apart = not self.first_norm or self.convolution is not None
    return lead if lead or not apart else min(self.period, depth)

  @property
  def rotary_size(self) -> int:
    """Returns the number of a head's numbers that rotary positions turn."""
    return self.rotary_dim or self.head_size

  @property
  def rope_short(self) -> tuple[int, float, float] | None:
    """Returns what decides which pairs rope_scale holds for; None: for all."""
    if self.rope_original_len is None:
      return None
    return self.rope_original_len, self.rope_low_turns, self.rope_high_turns

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

  @property
  def self_scale(self) -> float:
    """Returns the same for self-attention; disentangled logits are sums of products."""
    summed = self.positions in DISENTANGLED and self.attention_scale is None
    count = 2 + self.disentangled_terms.count("+")
    return (count * self.head_size) ** -0.5 if summed else self.scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSTMConfig(Settings):
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
  norm_bias = True
  norm_eps = 1e-5
  logits_scale = 1.0
  logits_softcap = None
  output_transform = "none"
  embedding_dim = None

  def __post_init__(self):
    super().__post_init__()
    if self.encoder_layers and self.bidirectional and self.dim % 2:
      raise ValueError(f"model.dim {self.dim} is odd: model.bidirectional halves it")
