"""Defines attention patterns: given queries, keys and values, each computes a row's attention.

`FullAttention` scores all pairs and masks. `ChunkedAttention` leaves out most of what a window
masks, so that its cost grows with the length and not with its square (Beltagy et al. 2020,
Longformer, section 3.1; Jiang et al. 2023, Mistral 7B); both return the same up to rounding. The
third pattern is model/kernels.py's `SplashAttention`.

The axes beside those of model/layers.py are W, chunks of a row, and C, tokens of a chunk.
"""

import dataclasses

import jax
import jax.numpy as jnp

from model import layers
from model.masks import MaskRule, Tokens


@dataclasses.dataclass(frozen=True)
class DotProduct:
  """Scaled dot-product attention of all pairs (Vaswani et al. 2017, section 3.2.1)."""

  scale: float  # of the logits
  dropout: float  # of the weights; "einsum" only
  impl: str  # einsum: written out below; other values: jax's, by cuDNN or XLA
  softcap: float | None = None  # of the logits before the bias; "einsum" only

  def __call__(self, q_BTHK, k_BSGK, v_BSGK, bias, key=None):
    """Returns [B, T, H, K]; `bias` [B or 1, H or 1, T, S], float32, is added to the logits."""
    if self.impl == "einsum" or self.softcap is not None:
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FullAttention:
  """Attention over all pairs."""

  bias: jax.Array  # [B or 1, H or 1, T, S]
  dot_product: DotProduct = dataclasses.field(metadata=dict(static=True))

  def __call__(self, q_BTHK, k_BSGK, v_BSGK, key=None):
    """Returns [B, T, H, K]."""
    return self.dot_product(q_BTHK, k_BSGK, v_BSGK, self.bias, key)


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

  def __call__(self, q_BTHK, k_BTGK, v_BTGK, key=None):
    """Returns [B, T, H, K]."""
    B, T = q_BTHK.shape[:2]
    chunk_key, first_key = layers.split(key, 2)
    if chunk_key is not None and chunk_key.ndim:  # one for each row: now one for each chunk
      chunk_key = layers.split(chunk_key, self.chunks.count).swapaxes(0, 1).reshape(-1)

    def as_rows(x_BW):
      return x_BW.reshape(-1, *x_BW.shape[2:])

    y_BTHK = self.dot_product(
      as_rows(self.chunks.own(q_BTHK)),
      as_rows(self.chunks.around(k_BTGK)),
      as_rows(self.chunks.around(v_BTGK)),
      as_rows(jnp.broadcast_to(self.bias, (B, *self.bias.shape[1:]))),
      chunk_key,
    )
    y_BTHK = y_BTHK.reshape(B, -1, *y_BTHK.shape[2:])[:, :T]
    if self.first_bias is None:
      return y_BTHK
    first = self.chunks.first
    first_BTHK = self.dot_product(q_BTHK[:, :first], k_BTGK, v_BTGK, self.first_bias, first_key)
    return jnp.concatenate([first_BTHK, y_BTHK[:, first:]], axis=1)
