"""Defines what all searches share: limits, results, and the scores of the next token.

Axes: B batch, N hypotheses of an input, P tokens of a prompt, T target length, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from model.constraints import Constraints, constrain

pick = jax.vmap(lambda rows, index: rows[index])  # a row's own index, for leaves of any rank


class Cache(NamedTuple):
  """The tokens so far as a model keeps them; `step(token_BN, cache)` returns them one longer."""

  moving: Any  # [B, N, ...] follows its hypothesis
  fixed: Any = None  # [B, ...] the same for all hypotheses and steps, such as the encoder's memory
  written: Any = None  # [B, X, S, N, ...] what the hypothesis in slot n has added at place s
  slots: Array | None = None  # [B, N, S] the slots in which a hypothesis has written its tokens


Step = Callable[[Array, Cache], tuple[Array, Cache]]  # -> logits [B, N, V], and the cache


class Limits(NamedTuple):
  """The tokens around outputs, the greatest lengths of outputs, and other restrictions."""

  max_len: int
  limit_B: Array  # [B] int32: eos included; clipped to 1 ... max_len. -1: no output is needed
  bos: int
  eos: int | tuple[int, ...]  # each of several ends an output; at a limit the first is forced
  pad: int
  first_B: Array | None = None  # [B] int32: the token before the output; None: bos
  rules: Constraints = Constraints()
  prompt_BP: Array | None = None  # int32: what `rules` take for the text before the output
  strict: bool = False  # follows transformers' generate

  @property
  def clipped_B(self) -> Array:
    """Returns the greatest lengths [B], between 1 and max_len."""
    return jnp.clip(self.limit_B, 1, self.max_len)

  @property
  def arrays(self) -> tuple:
    """Returns what differs from row to row."""
    return self.limit_B, self.last_B, self.prompt_BP

  def replace(self, arrays: tuple) -> "Limits":
    """Returns the limits of other rows, from their `arrays`."""
    limit_B, first_B, prompt_BP = arrays
    return self._replace(limit_B=limit_B, first_B=first_B, prompt_BP=prompt_BP)

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


def spread(cache: Cache, beams: int, more: int) -> Cache:
  """Returns the cache of one hypothesis for `beams` of them, with places for `more` tokens."""

  def widen(x):
    return jnp.pad(x, [(0, 0), (0, 0), (0, more), (0, beams - 1), *[(0, 0)] * (x.ndim - 4)])

  moving, slots = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=1), (cache.moving, cache.slots))
  written = jax.tree.map(widen, cache.written)
  slots = jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (0, 0), (0, more)]), slots)
  return Cache(moving, cache.fixed, written, slots)


def follow(cache: Cache, beam_BN: Array) -> Cache:
  """Returns the cache in which hypothesis n goes on with what hypothesis beam_BN[:, n] has read."""
  moving, slots = jax.tree.map(lambda x: pick(x, beam_BN), (cache.moving, cache.slots))
  return cache._replace(moving=moving, slots=slots)


def append(tokens_BNT: Array, t_B: Array, token_BN: Array) -> Array:
  """Returns outputs of t tokens with one more."""
  here_BT = jnp.arange(tokens_BNT.shape[-1]) == t_B[:, None]
  return jnp.where(here_BT[:, None], token_BN[..., None], tokens_BNT)


def contains(tokens: Sequence[int], ids: Array) -> Array:
  """Returns where `ids` are one of a few tokens."""
  return (ids[..., None] == jnp.asarray(tokens)).any(-1)


def log_probs(logits_BNV: Array, last_B: Array, limits: Limits) -> Array:
  """Returns log-probabilities [B, N, V], in our searches -inf for tokens that are not allowed."""
  log_BNV = jax.nn.log_softmax(logits_BNV.astype(jnp.float32))
  if limits.strict:
    return log_BNV
  return jnp.where(_never(log_BNV, last_B, limits), -jnp.inf, log_BNV)


def top(logits_BNV: Array, last_B: Array, limits: Limits, tokens_BNT: Array, t_B: Array, k: int):
  """Returns the k most probable tokens that are allowed, and before them their log-probabilities,
  each [B, N, k]."""
  k = min(k, logits_BNV.shape[-1])
  if limits.rules != Constraints() or limits.strict:
    log_BNV = log_probs(logits_BNV, last_B, limits)
    return lax.top_k(restrict(log_BNV, last_B, tokens_BNT, t_B, limits), k)
  # the same numbers without arrays [B, N, V]
  logits_BNV = logits_BNV.astype(jnp.float32)
  banned = [token for token in (limits.pad, limits.bos) if token not in limits.ends]
  most_BN, best_BNK, token_BNK = top_of_blocks(logits_BNV, k, banned)
  total_BN1 = jnp.log(jnp.exp(logits_BNV - most_BN[..., None]).sum(-1, keepdims=True))
  ends = jnp.asarray([*limits.ends, *[limits.ends[0]] * k])[:k]
  end_BNK = jnp.where(jnp.arange(k) < len(limits.ends), logits_BNV[..., ends], -jnp.inf)
  end_BNK, order_BNK = lax.top_k(end_BNK, k)
  best_BNK = jnp.where(last_B[:, None, None], end_BNK, best_BNK)
  token_BNK = jnp.where(last_B[:, None, None], ends[order_BNK], token_BNK)
  return best_BNK - most_BN[..., None] - total_BN1, token_BNK


def top_of_blocks(x_BNV: Array, k: int, banned: Sequence[int] = ()):
  """Returns the greatest of each row [B, N], and the k greatest, without tokens that are banned,
  with their tokens, as lax.top_k does, of whose time it takes less than half on a CPU.

  They lie in the k blocks with the greatest maxima; each banned token may bring one block more.
  """
  V, root = x_BNV.shape[-1], math.isqrt(x_BNV.shape[-1])
  size = next((n for n in range(root, 2 * root) if V % n == 0), root)  # without padding if it can
  padded = jnp.pad(x_BNV, [(0, 0), (0, 0), (0, -V % size)], constant_values=-jnp.inf)
  blocks = padded.reshape(*x_BNV.shape[:2], -1, size)
  most_BNC = blocks.max(-1)
  count = min(k + len(banned), most_BNC.shape[-1])
  # in the order of the vocabulary, so that of equal tokens the first is taken
  block_BNC = jnp.sort(lax.top_k(most_BNC, count)[1], axis=-1)
  near = jnp.take_along_axis(blocks, block_BNC[..., None], axis=2)
  token = block_BNC[..., None] * size + jnp.arange(size)
  near, token = (x.reshape(*x_BNV.shape[:2], -1) for x in (near, token))
  if banned:
    near = jnp.where(contains(banned, token), -jnp.inf, near)
  best_BNK, place_BNK = lax.top_k(near, k)
  token_BNK = jnp.take_along_axis(token, place_BNK, axis=-1)
  return most_BNC.max(-1), best_BNK, jnp.minimum(token_BNK, V - 1)


def _never(x_BNV: Array, last_B: Array, limits: Limits) -> Array:
  token_V = jnp.arange(x_BNV.shape[-1])
  never_BNV = (token_V == limits.pad) | (token_V == limits.bos) | last_B[:, None, None]
  return never_BNV & ~contains(limits.ends, token_V)


def restrict(scores_BNV, last_B: Array, tokens_BNT: Array, t_B: Array, limits: Limits) -> Array:
  """Returns scores [B, N, V] of the next token with -inf where `limits.rules` forbid it.

  tokens_BNT has the t tokens of each output so far; last_B is True where the next is the last.
  """
  if limits.rules == Constraints():
    return scores_BNV
  before_BP = limits.last_B[:, None] if limits.prompt_BP is None else limits.prompt_BP

  def of_row(scores_NV, before_P, tokens_NT, t, last):
    N = len(scores_NV)
    text_NT = jnp.concatenate([jnp.tile(before_P, (N, 1)), tokens_NT], axis=1)
    last_N, length = jnp.full(N, last), len(before_P) + t
    return constrain(limits.rules, scores_NV, text_NT, length, t, last_N, limits.ends)

  ruled_BNV = jax.vmap(of_row)(scores_BNV, before_BP, tokens_BNT, t_B, last_B)
  return ruled_BNV if limits.strict else jnp.where(last_B[:, None, None], scores_BNV, ruled_BNV)
