"""Defines what all searches share: limits, results, and the scores of the next token.

Axes: B batch, N hypotheses of an input, P tokens of a prompt, T target length, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from model.constraints import Constraints, constrain

Cache = dict[str, Any]
Step = Callable[[Array, Cache], tuple[Array, Cache]]

pick = jax.vmap(lambda rows, index: rows[index])  # a row's own index, for leaves of any rank


class Limits(NamedTuple):
  """The tokens around outputs, the greatest lengths of outputs, and other restrictions."""

  max_len: int
  limit_B: Array  # [B] int32: of each row, eos included; clipped to 1 ... max_len
  bos: int
  eos: int | tuple[int, ...]  # each of several ends an output; at a limit the first is forced
  pad: int
  first_B: Array | None = None  # [B] int32: the token before the output; None: bos
  rules: Constraints = Constraints()
  prompt_BP: Array | None = None  # int32: what `rules` take for the text before the output
  strict: bool = False  # follows transformers' generate

  @property
  def ends(self) -> tuple[int, ...]:
    """Returns the tokens that end an output."""
    return self.eos if isinstance(self.eos, tuple) else (self.eos,)

  @property
  def last_B(self) -> Array:
    """Returns the token before each output [B]."""
    return jnp.full_like(self.limit_B, self.bos) if self.first_B is None else self.first_B


class Decoded(NamedTuple):
  """Hypotheses of each row, best score first; an empty slot is pad, length 0, score -inf."""

  tokens: Array  # [B, N, T] int32: the output, its eos, then pad
  scores: Array  # [B, N] float32
  log_probs: Array  # [B, N] float32: sum over the tokens, eos included, in nats
  lengths: Array  # [B, N] int32: tokens, eos included


def repeat_cache(cache: Cache, n: int) -> Cache:
  """Returns the cache with each row n times: row b becomes rows b*n ... b*n + n-1."""
  return jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), cache)


def contains(tokens: Sequence[int], ids: Array) -> Array:
  """Returns where `ids` are one of a few tokens."""
  return (ids[..., None] == jnp.asarray(tokens)).any(-1)


def log_probs(logits_BV: Array, last_B: Array, limits: Limits) -> Array:
  """Returns log-probabilities [B, V], in our searches -inf for tokens that are not allowed."""
  log_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32))
  if limits.strict:
    return log_BV
  token_V = jnp.arange(log_BV.shape[1])
  never_BV = (token_V == limits.pad) | (token_V == limits.bos) | last_B[:, None]
  return jnp.where(never_BV & ~contains(limits.ends, token_V), -jnp.inf, log_BV)


def restrict(scores_BV: Array, last_B: Array, tokens_BT: Array, t: Array, limits: Limits) -> Array:
  """Returns scores [B, V] of the next token with -inf where `limits.rules` forbid it.

  tokens_BT has the t tokens of each output so far, last_B [B] where the next token is the last.
  """
  if limits.rules == Constraints():
    return scores_BV
  before_BP = limits.last_B[:, None] if limits.prompt_BP is None else limits.prompt_BP
  before_BP = jnp.repeat(before_BP, len(tokens_BT) // len(before_BP), axis=0)
  text_BT = jnp.concatenate([before_BP, tokens_BT], axis=1)
  length = before_BP.shape[1] + t
  ruled_BV = constrain(limits.rules, scores_BV, text_BT, length, t, last_B, limits.ends)
  return ruled_BV if limits.strict else jnp.where(last_B[:, None], scores_BV, ruled_BV)
