"""Computes which tokens attend to which, as a mask and as a bias on the logits of attention."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

NEG_INF = -1e9  # finite, so a row with nothing to attend to gives no NaN


class Tokens(NamedTuple):
  """The queries or the keys of an attention; their leading axes broadcast."""

  segments: jax.Array  # [..., T]; 0: padding, which no token attends to
  index: jax.Array  # [..., T] in the row
  prefix: jax.Array | None = None  # [..., T] of keys: not 0 where earlier tokens attend to it too
  # [..., T]: not 0 for those of a row's first tokens that are global; None: for all of them
  global_mask: jax.Array | None = None

  def map(self, function) -> "Tokens":
    """Returns the tokens with `function` applied to each array there is."""
    return Tokens(*(None if x is None else function(x) for x in self))


@dataclasses.dataclass(frozen=True)
class MaskRule:
  """The rule of a stack's self-attention: a token attends in its segment, as the fields allow."""

  causal: bool  # to itself, to earlier tokens and to a prefix
  window: int | None  # to tokens less than `window` away; None: any distance
  global_tokens: int  # the first tokens of a row attend and are attended to at any distance

  def __call__(self, query: Tokens, key: Tokens) -> jax.Array:
    """Returns the mask [..., T, S], True where a query attends to a key."""
    mask = same_segment(query.segments, key.segments)
    if self.causal:
      earlier = _columns(key.index) <= _rows(query.index)
      mask &= earlier if key.prefix is None else earlier | (_columns(key.prefix) > 0)
    if self.window is not None:
      near = jnp.abs(distance(query, key)) < self.window
      mask &= near | _rows(self.is_global(query)) | _columns(self.is_global(key))
    return mask

  def is_global(self, tokens: Tokens) -> jax.Array:
    """Returns [..., T], True for the tokens that attend and are attended to at any distance."""
    first = tokens.index < self.global_tokens
    return first if tokens.global_mask is None else first & (tokens.global_mask > 0)


def same_segment(segments_BT, segments_BS) -> jax.Array:
  """Returns the mask [..., T, S] of pairs in one segment; padding is in none."""
  return (_rows(segments_BT) == _columns(segments_BS)) & (_columns(segments_BS) > 0)


def distance(query: Tokens, key: Tokens) -> jax.Array:
  """Returns the distances [..., T, S]: the key's index minus the query's."""
  return _columns(key.index) - _rows(query.index)


def mask_bias(mask_BTS: jax.Array) -> jax.Array:
  """Returns the bias [..., 1, T, S], float32: 0 where the mask is True, about -1e9 elsewhere."""
  return jnp.expand_dims(jnp.where(mask_BTS, 0.0, NEG_INF), -3)


def _rows(x_BT):
  return x_BT[..., :, None]


def _columns(x_BS):
  return x_BS[..., None, :]
