"""Restricts the tokens that a search may choose next, as the options of transformers' generate do.

Axes: B batch, T tokens, V vocabulary, K sequences.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax


class Constraints(NamedTuple):
  """Hashable settings; the defaults restrict nothing.

  A text consists of the prompt (an encoder-decoder's start tokens) and of the output.
  """

  min_len: int = 0  # tokens of an output before it may end
  no_repeat_ngram: int = 0  # a text has no so many tokens in a row twice; 0: it may
  repetition_penalty: float = 1.0  # lowers the scores of a text's tokens (Keskar et al. 2019)
  banned: tuple[tuple[int, ...], ...] = ()  # sequences of tokens that no text continues to
  begin_banned: tuple[int, ...] = ()  # tokens that no output begins with
  last: tuple[int, ...] = ()  # one of these is forced at the limit; (): none is


def constrain(
  rules: Constraints,
  scores_BV: Array,
  text_BT: Array,
  length: Array,
  written: Array,
  last_B: Array,
  ends: Sequence[int],
) -> Array:
  """Returns scores [B, V], such as logits, with -inf for the tokens that the rules forbid.

  text_BT holds the `length` tokens so far, the same number for each row: a shorter row begins with
  -1. `written` of them are the output's. last_B [B] is True where the next token is the last.
  """
  tokens_V = jnp.arange(scores_BV.shape[1])
  so_far_T = jnp.arange(text_BT.shape[1]) < length
  if rules.repetition_penalty != 1:
    seen_BV = _mark(jnp.where(so_far_T, text_BT, -1), scores_BV)
    factor_BV = jnp.where(scores_BV < 0, rules.repetition_penalty, 1 / rules.repetition_penalty)
    scores_BV = jnp.where(seen_BV, scores_BV * factor_BV, scores_BV)
  if n := rules.no_repeat_ngram:
    scores_BV = jnp.where(_mark(_repeats(text_BT, length, n), scores_BV), -jnp.inf, scores_BV)
  by_length: dict[int, list] = {}
  for sequence in rules.banned:
    by_length.setdefault(len(sequence), []).append(sequence)
  for size, sequences in by_length.items():
    before_KT, token_K = jnp.asarray(sequences)[:, :-1], jnp.asarray(sequences)[:, -1]
    tail_BT = _tail(text_BT, length, size - 1)
    follows_BK = (tail_BT[:, None] == before_KT).all(-1) & (length >= size - 1)
    scores_BV = jnp.where(_mark(jnp.where(follows_BK, token_K, -1), scores_BV), -jnp.inf, scores_BV)
  ends_V = jnp.isin(tokens_V, jnp.asarray(ends))
  scores_BV = jnp.where(ends_V & (written < rules.min_len), -jnp.inf, scores_BV)
  if rules.last:
    forced_V = jnp.where(jnp.isin(tokens_V, jnp.asarray(rules.last)), 0.0, -jnp.inf)
    scores_BV = jnp.where(last_B[:, None], forced_V, scores_BV)
  if rules.begin_banned:
    begins_V = jnp.isin(tokens_V, jnp.asarray(rules.begin_banned)) & (written == 0)
    scores_BV = jnp.where(begins_V, -jnp.inf, scores_BV)
  return scores_BV


def align_right(prompt_BP: Array, length_B: Array) -> Array:
  """Returns prompts whose rows begin with -1 in place of prompts whose rows end with padding."""
  place_BP = jnp.arange(prompt_BP.shape[1]) - (prompt_BP.shape[1] - length_B)[:, None]
  shifted_BP = jnp.take_along_axis(prompt_BP, jnp.maximum(place_BP, 0), axis=1)
  return jnp.where(place_BP < 0, -1, shifted_BP)


def _tail(text_BT: Array, length: Array, size: int) -> Array:
  """Returns the last `size` tokens of each row, any tokens where there are fewer."""
  return lax.dynamic_slice_in_dim(text_BT, jnp.maximum(length - size, 0), size, axis=1)


def _repeats(text_BT: Array, length: Array, n: int) -> Array:
  """Returns [B, T] the tokens that would repeat n tokens of the row, -1 elsewhere."""
  if text_BT.shape[1] < n:
    return jnp.full_like(text_BT, -1)
  tail_BT, places = _tail(text_BT, length, n - 1), text_BT.shape[1] - n + 1
  same_BT = (jnp.arange(places) + n <= length)[None]
  for offset in range(n - 1):
    same_BT &= text_BT[:, offset : offset + places] == tail_BT[:, offset, None]
  return jnp.where(same_BT, text_BT[:, n - 1 :], -1)


def _mark(tokens_BT: Array, like_BV: Array) -> Array:
  """Returns [B, V] which tokens a row of tokens_BT has; -1 is no token."""
  size = like_BV.shape[1]
  index_BT = jnp.where(tokens_BT < 0, size, tokens_BT)  # an index beyond the array is dropped
  marks_BV = jnp.zeros(like_BV.shape, bool)
  return marks_BV.at[jnp.arange(len(marks_BV))[:, None], index_BT].set(True, mode="drop")
