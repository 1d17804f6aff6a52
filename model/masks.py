"""Which tokens attend to which, and the products that leave out those that don't.

`Rule` is the mask. `Whole` scores every pair and masks; `Local` leaves out what a window hides, so
that its cost grows with the length and not with its square (Beltagy et al. 2020, Longformer,
section 3.1; Jiang et al. 2023, Mistral 7B). The two give the same numbers.

Axes beside those of model/layers.py: W chunks of a row, C tokens of a chunk.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model import layers


class Side(NamedTuple):
  """Tokens that look, or are looked at; the leading axes of both broadcast."""

  segments: jax.Array  # [..., T]; 0: padding, which nobody sees
  place: jax.Array  # [..., T] in the row
  prefix: jax.Array | None = None  # [..., T]; of the keys: not 0 where those before see it too


@dataclasses.dataclass(frozen=True)
class Rule:
  """What a stack's self-attention sees: its own segment, and of that what these say."""

  causal: bool  # those before and itself, and a prefix
  window: int | None  # those less than so far away; None: all
  global_tokens: int  # so many at the row's beginning see all and are seen by all, window or not

  def __call__(self, query: Side, key: Side) -> jax.Array:
    """[..., T, S] bool."""
    seen = same(query.segments, key.segments)
    if self.causal:
      before = _columns(key.place) <= _rows(query.place)
      seen &= before if key.prefix is None else before | (_columns(key.prefix) > 0)
    if self.window is not None:
      near = jnp.abs(distance(query, key)) < self.window
      known = jnp.minimum(_columns(key.place), _rows(query.place)) < self.global_tokens
      seen &= near | known
    return seen


class Whole(NamedTuple):
  """Attention over all pairs."""

  bias: jax.Array  # [B or 1, H or 1, T, S], added to the logits

  def mix(self, attention, q_BTHK, k_BSGK, v_BSGK, key=None):
    return attention.mix(q_BTHK, k_BSGK, v_BSGK, self.bias, key)


@dataclasses.dataclass(frozen=True)
class Chunks:
  """A row in chunks of `size` tokens: each looks at itself, at so many chunks before and after it,
  and at the first tokens of the row."""

  length: int  # of the row
  size: int
  before: int  # chunks
  after: int
  first: int  # tokens

  @property
  def count(self) -> int:
    return -(-self.length // self.size)

  @property
  def keys(self) -> int:
    """How many tokens each is held against."""
    return self.first + (self.before + 1 + self.after) * self.size

  def own(self, x_BT):
    """What belongs to the tokens of a row, [B, T, ...], as chunks: [B, W, C, ...]."""
    return self._cut(x_BT, 0, 0)

  def near(self, x_BT, inside_BT=None):
    """[B, W, S, ...]: of the row's first tokens, then of the chunks around; there `inside`."""
    chunks = self._cut(x_BT if inside_BT is None else inside_BT, self.before, self.after)
    around = [chunks[:, i : i + self.count] for i in range(self.before + 1 + self.after)]
    first = jnp.repeat(x_BT[:, None, : self.first], self.count, axis=1)
    return jnp.concatenate([first, *around], axis=2)

  def _cut(self, x_BT, before, after):
    """With so many chunks of zeros around the row."""
    right = (self.count + after) * self.size - self.length
    pads = [(0, 0), (before * self.size, right), *[(0, 0)] * (x_BT.ndim - 2)]
    return jnp.pad(x_BT, pads).reshape(x_BT.shape[0], -1, self.size, *x_BT.shape[2:])


@dataclasses.dataclass(frozen=True)
class Local:
  """Attention of each chunk over those around it; the row's first tokens look at everything."""

  chunks: Chunks
  bias: jax.Array  # [B or 1, W, H or 1, C, S]
  first_bias: jax.Array | None  # [B or 1, H or 1, first, T]

  def mix(self, attention, q_BTHK, k_BTGK, v_BTGK, key=None):
    B, T = q_BTHK.shape[:2]
    chunk_key, first_key = layers.split(key, 2)
    if chunk_key is not None and chunk_key.ndim:  # of each row: now of each chunk
      chunk_key = layers.split(chunk_key, self.chunks.count).swapaxes(0, 1).reshape(-1)

    def rows(x_BW):
      return x_BW.reshape(-1, *x_BW.shape[2:])

    y_BTHK = attention.mix(
      rows(self.chunks.own(q_BTHK)),
      rows(self.chunks.near(k_BTGK)),
      rows(self.chunks.near(v_BTGK)),
      rows(jnp.broadcast_to(self.bias, (B, *self.bias.shape[1:]))),
      chunk_key,
    )
    y_BTHK = y_BTHK.reshape(B, -1, *y_BTHK.shape[2:])[:, :T]
    if self.first_bias is None:
      return y_BTHK
    first = self.chunks.first
    first_BTHK = attention.mix(q_BTHK[:, :first], k_BTGK, v_BTGK, self.first_bias, first_key)
    return jnp.concatenate([first_BTHK, y_BTHK[:, first:]], axis=1)


def view(rule: Rule, row: Side, bias) -> Whole | Local:
  """What is cheaper for the tokens of `row`, [B, T]; `bias(query, key)` is a mask and whatever
  distances add, [..., H or 1, T, S]."""
  length, ahead = row.segments.shape[1], not rule.causal or row.prefix is not None
  if rule.window is None:
    return Whole(bias(row, row))
  chunks = Chunks(length, rule.window, before=1, after=int(ahead), first=rule.global_tokens)
  if chunks.keys >= length:
    return Whole(bias(row, row))
  # The row's first tokens are seen as such; in their chunks nobody sees them, as padding.
  inside = row._replace(segments=jnp.where(row.place < chunks.first, 0, row.segments))
  query = Side(*(None if x is None else chunks.own(x) for x in row))
  key = Side(*(None if x is None else chunks.near(x, y) for x, y in zip(row, inside)))
  first = None
  if chunks.first:
    start = Side(*(None if x is None else x[:, : chunks.first] for x in row))
    first = bias(start, row)
  return Local(chunks, bias(query, key), first)


def same(segments_BT, segments_BS):
  """[..., T, S]: same segment, and not padding."""
  return (_rows(segments_BT) == _columns(segments_BS)) & (_columns(segments_BS) > 0)


def distance(query: Side, key: Side) -> jax.Array:
  """[..., T, S]: how far behind the query the key stands."""
  return _columns(key.place) - _rows(query.place)


def mask_bias(mask_BTS: jax.Array) -> jax.Array:
  """[..., 1, T, S] float32: 0 where attention may look, about -1e9 elsewhere."""
  return jnp.expand_dims(jnp.where(mask_BTS, 0.0, layers.NEG_INF), -3)


def _rows(x_BT):
  return x_BT[..., :, None]


def _columns(x_BS):
  return x_BS[..., None, :]
