"""Defines attention patterns: given queries, keys and values, each computes a row's attention.

`FullAttention` scores all pairs and masks. `ChunkedAttention` leaves out most of what a window
masks, so that its cost grows with the length and not with its square (Beltagy et al. 2020,
Longformer, section 3.1; Jiang et al. 2023, Mistral 7B); both return the same up to rounding. The
third pattern is model/kernels.py's `SplashAttention`. A layer with weights of its own for distances
or global tokens (model/attention.py) adds to a pattern what `Own` lists.

The axes beside those of model/layers.py are W, chunks of a row, and C, tokens of a chunk.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model import layers
from model.blocks import Blocks
from model.masks import MaskRule, Tokens


@dataclasses.dataclass(frozen=True)
class DotProduct:
  """Scaled dot-product attention of all pairs (Vaswani et al. 2017, section 3.2.1)."""

  scale: float  # of the logits
  dropout: float  # of the weights; "einsum" only
  impl: str  # einsum, auto: written out below; other values: jax's, by cuDNN or XLA
  softcap: float | None = None  # of the logits before the bias; "einsum" only

  def __call__(self, q_BTHK, k_BSGK, v_BSGK, bias, key=None):
    """Returns [B, T, H, K]; `bias` [B or 1, H or 1, T, S], float32, is added to the logits."""
    if self.impl in ("einsum", "auto") or self.softcap is not None:
      return self._einsum(q_BTHK, k_BSGK, v_BSGK, bias, key)
    impl = "cudnn" if self.impl == "cudnn" else "xla"  # xla also where splash cannot
    return jax.nn.dot_product_attention(
      q_BTHK, k_BSGK, v_BSGK, bias=bias, scale=self.scale, implementation=impl
    )

  def _einsum(self, q_BTHK, k_BSGK, v_BSGK, bias, key):
    B, T, H, K = q_BTHK.shape
    G, S = k_BSGK.shape[2], k_BSGK.shape[1]
    # Heads before positions: the products are 1.3 to 3 times faster on CPU than in the order BTHK.
    q_BGRTK = q_BTHK.reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4) * self.scale
    k_BGSK, v_BGSK = k_BSGK.swapaxes(1, 2), v_BSGK.swapaxes(1, 2)
    logits_BGRTS = jnp.einsum("BGRTK,BGSK->BGRTS", q_BGRTK, k_BGSK).astype(jnp.float32)
    logits_BHTS = layers.softcap(logits_BGRTS.reshape(B, H, T, S), self.softcap) + bias
    weights_BHTS = layers.softmax(logits_BHTS, v_BGSK.dtype)
    weights_BHTS = layers.dropout(weights_BHTS, self.dropout, key)
    weights_BGRTS = weights_BHTS.reshape(B, G, H // G, T, S)
    y_BGRTK = jnp.einsum("BGRTS,BGSK->BGRTK", weights_BGRTS, v_BGSK)
    return y_BGRTK.transpose(0, 3, 1, 2, 4).reshape(B, T, H, K)


class Own(NamedTuple):
  """The additions of one layer's weights to a pattern; None: no addition."""

  bias: Callable | None = None  # (q, k, distance) -> bias on the logits [..., H or 1, T, S]
  # of the row's first tokens that are global: queries [B, T, H, K], and keys and values of all
  first: tuple[jax.Array, jax.Array, jax.Array] | None = None
  blocks: tuple[jax.Array, jax.Array] | None = None  # keys and values of blocks, [B, N, G, K]

  def added_to(self, pattern):
    """Returns the pattern with these additions."""
    return pattern if self == NOTHING else OwnPattern(pattern, self)


NOTHING = Own()


class Shared(NamedTuple):
  """The arrays that a stack computes once for the additions of its layers."""

  states: jax.Array | None = None  # [N, D] of distances (model/disentangled.py)
  is_global: jax.Array | None = None  # [B or 1, T] of tokens
  blocks: Blocks | None = None


NONE_SHARED = Shared()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FullAttention:
  """Attention over all pairs."""

  bias: jax.Array  # [B or 1, H or 1, T, S]
  dot_product: DotProduct = dataclasses.field(metadata=dict(static=True))
  distance: jax.Array | None = None  # [B or 1, T, S], where layers have a bias of their own
  shared: Shared = NONE_SHARED

  def __call__(self, q_BTHK, k_BSGK, v_BSGK, key=None, own: Own = NOTHING):
    """Returns [B, T, H, K]."""
    bias, all_key, first_key = self.bias, key, None
    if own.first is not None:
      all_key, first_key = layers.split(key, 2)
    if own.bias is not None:
      bias = bias + own.bias(q_BTHK, k_BSGK, self.distance)
    first_bias = bias
    if own.blocks is not None:
      k_BSGK, v_BSGK = (jnp.concatenate(x, 1) for x in zip((k_BSGK, v_BSGK), own.blocks))
      bias = _beside(bias, self.shared.blocks.bias)
    y_BTHK = self.dot_product(q_BTHK, k_BSGK, v_BSGK, bias, all_key)
    if own.first is not None:
      first_bias = first_bias[..., : own.first[0].shape[1], :]
      first_BTHK = self.dot_product(*own.first, first_bias, first_key)
      y_BTHK = _replace_first(y_BTHK, first_BTHK, self.shared.is_global)
    return y_BTHK


@dataclasses.dataclass(frozen=True)
class OwnPattern:
  """A pattern with the additions of one layer."""

  pattern: "FullAttention | ChunkedAttention"
  own: Own

  def __call__(self, q_BTHK, k_BSGK, v_BSGK, key=None):
    """Returns [B, T, H, K]."""
    return self.pattern(q_BTHK, k_BSGK, v_BSGK, key, self.own)

  def with_values(self, v_BSGK) -> "OwnPattern":
    """Returns the pattern with these values of tokens for all projections, and 0 for blocks."""
    first, blocks = self.own.first, self.own.blocks
    if first is not None:
      first = *first[:2], v_BSGK
    if blocks is not None:
      blocks = blocks[0], jnp.zeros_like(blocks[1])
    return OwnPattern(self.pattern, self.own._replace(first=first, blocks=blocks))


def _beside(bias, other):
  """Returns both biases side by side, along the axis of keys."""
  shape = jnp.broadcast_shapes(bias.shape[:-1], other.shape[:-1])
  return jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (bias, other)], -1)


def _replace_first(y_BTHK, first_BTHK, is_global_BT):
  """Returns `y` with the rows of the first tokens that are global."""
  count = first_BTHK.shape[1]
  kept_BTHK = jnp.where(is_global_BT[:, :count, None, None], first_BTHK, y_BTHK[:, :count])
  return jnp.concatenate([kept_BTHK, y_BTHK[:, count:]], axis=1)


@dataclasses.dataclass(frozen=True)
class Chunks:
  """A row cut into chunks of `size` tokens.

  A chunk's keys are its own tokens, those of the chunks around it, and the row's first tokens.
  """

  length: int  # of the row
  size: int
  before: int  # chunks around, before a chunk
  after: int
  first: int  # tokens of the row

  @property
  def count(self) -> int:
    return -(-self.length // self.size)

  @property
  def width(self) -> int:
    """Returns the number of keys of a query."""
    return self.first + (self.before + 1 + self.after) * self.size

  def own(self, x_BT):
    """Returns [B, W, C, ...], each chunk's own part of `x` [B, T, ...]."""
    return self._cut(x_BT, 0, 0)

  def around(self, x_BT, inside_BT=None):
    """Returns [B, W, S, ...]: `x` of the row's first tokens, then `inside` of nearby chunks."""
    chunks = self._cut(x_BT if inside_BT is None else inside_BT, self.before, self.after)
    near = [chunks[:, i : i + self.count] for i in range(self.before + 1 + self.after)]
    first = jnp.repeat(x_BT[:, None, : self.first], self.count, axis=1)
    return jnp.concatenate([first, *near], axis=2)

  def keys(self, tokens: Tokens) -> Tokens:
    """Returns each chunk's keys; the row's first tokens are padding where they stand twice."""
    inside = tokens._replace(segments=jnp.where(tokens.index < self.first, 0, tokens.segments))
    return Tokens(*(None if x is None else self.around(x, y) for x, y in zip(tokens, inside)))

  def _cut(self, x_BT, before, after):
    """Returns the chunks with `before` and `after` chunks of zeros around the row."""
    right = (self.count + after) * self.size - self.length
    pads = [(0, 0), (before * self.size, right), *[(0, 0)] * (x_BT.ndim - 2)]
    return jnp.pad(x_BT, pads).reshape(x_BT.shape[0], -1, self.size, *x_BT.shape[2:])


def cut(rule: MaskRule, tokens: Tokens) -> Chunks | None:
  """Returns the chunks for the rule's window, or None if full attention costs no more."""
  if rule.window is None:
    return None
  ahead = not rule.causal or tokens.prefix is not None
  length = tokens.segments.shape[1]
  chunks = Chunks(length, rule.window, before=1, after=int(ahead), first=rule.global_tokens)
  return chunks if chunks.width < length else None


@dataclasses.dataclass(frozen=True)
class ChunkedAttention:
  """Attention of each chunk to those around it; the row's first tokens attend to all."""

  chunks: Chunks
  bias: jax.Array  # [B or 1, W, H or 1, C, S]
  first_bias: jax.Array | None  # [B or 1, H or 1, first, T]
  dot_product: DotProduct
  distance: jax.Array | None = None  # [B or 1, W, C, S], where layers have a bias of their own
  first_distance: jax.Array | None = None  # [B or 1, first, T]
  shared: Shared = NONE_SHARED

  def __call__(self, q_BTHK, k_BTGK, v_BTGK, key=None, own: Own = NOTHING):
    """Returns [B, T, H, K]."""
    T = q_BTHK.shape[1]
    chunk_key, first_key = layers.split(key, 2)
    y_BTHK = self._chunked(q_BTHK, k_BTGK, v_BTGK, chunk_key, own)[:, :T]
    if self.first_bias is None:
      return y_BTHK
    first, first_bias = self.chunks.first, self.first_bias
    if own.bias is not None:
      first_bias = first_bias + own.bias(q_BTHK[:, :first], k_BTGK, self.first_distance)
    first_BTHK = self.dot_product(q_BTHK[:, :first], k_BTGK, v_BTGK, first_bias, first_key)
    if own.first is not None:
      global_BTHK = self.dot_product(*own.first, first_bias, first_key)
      first_BTHK = _replace_first(first_BTHK, global_BTHK, self.shared.is_global)
    return jnp.concatenate([first_BTHK, y_BTHK[:, first:]], axis=1)

  def _chunked(self, q_BTHK, k_BTGK, v_BTGK, key, own):
    B, count = q_BTHK.shape[0], self.chunks.count
    if key is not None and key.ndim:  # one for each row: now one for each chunk
      key = layers.split(key, count).swapaxes(0, 1).reshape(-1)
    q, k, v = self.chunks.own(q_BTHK), self.chunks.around(k_BTGK), self.chunks.around(v_BTGK)
    bias = self.bias
    if own.bias is not None:
      bias = bias + own.bias(q, k, self.distance)
    if own.blocks is not None:
      each = (jnp.repeat(x[:, None], count, axis=1) for x in own.blocks)
      k, v = (jnp.concatenate(x, axis=2) for x in zip((k, v), each))
      by_token = jnp.moveaxis(self.shared.blocks.bias, 2, 1)  # [B, T, H or 1, N]
      bias = _beside(bias, self.chunks.own(by_token).swapaxes(2, 3))

    def as_rows(x_BW):
      return x_BW.reshape(-1, *x_BW.shape[2:])

    bias = jnp.broadcast_to(bias, (B, *bias.shape[1:]))
    y_BTHK = self.dot_product(*map(as_rows, (q, k, v, bias)), key)
    return y_BTHK.reshape(B, -1, *y_BTHK.shape[2:])
