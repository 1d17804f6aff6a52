"""Searches with beams token for token as transformers' generate (5.x) does.

It differs from model/decoding.py in what becomes of a hypothesis at its limit, where it counts
as finished without eos, in the heuristics that end a search, and in rounding. Axes: B batch, N
beams, K candidates, V vocabulary, T target length.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from model.search import (
  Cache,
  Decoded,
  Limits,
  Step,
  contains,
  log_probs,
  pick,
  repeat_cache,
  restrict,
)

OUT = -1e9  # what theirs add to the score of a hypothesis that is out of the search


class _Search(NamedTuple):
  t: Array  # tokens of each live hypothesis
  moving: Any  # the cache's moving part, B*N rows
  live_BNT: Array
  live_log_BN: Array
  before_BN: Array  # the last token of each live hypothesis
  finished: Decoded  # the best so far; a slot without one has a score of about OUT
  is_finished_BN: Array
  hopeful_B: Array  # live hypotheses may still become better than finished ones
  done_B: Array


def beam_search(
  step: Step,
  cache: Cache,
  limits: Limits,
  *,
  num_beams: int,
  length_penalty: float,
  stop: str = "current",
  before: int = 0,
  num_return: int = 1,
) -> Decoded:
  """Returns the num_return best hypotheses of a search with num_beams >= 2 live ones.

  The score is log-probability / (length + before) ** length_penalty. `stop` is early_stopping by
  the names of model/decoding.py: "current" False, "full" True, "exact" "never". `limits.strict`
  must be True.
  """
  max_len, B, N = limits.max_len, len(limits.limit_B), num_beams
  limit_B = jnp.clip(limits.limit_B, 1, max_len)
  lengths = np.maximum(before + np.arange(max_len + 1.0), 1)
  weight_T = jnp.asarray((lengths**length_penalty).astype(np.float32))
  cache = repeat_cache(cache, N)

  def body(s: _Search) -> _Search:
    length = s.t + 1
    logits_BV, after = step(s.before_BN.reshape(-1), {**cache, "moving": s.moving})
    at_limit_B = limit_B <= length
    last_B = jnp.repeat(at_limit_B, N)
    log_BV = log_probs(logits_BV, last_B, limits)
    log_BV = restrict(log_BV, last_B, s.live_BNT.reshape(B * N, -1), s.t, limits)
    V = log_BV.shape[1]

    sum_BX = (log_BV.reshape(B, N, V) + s.live_log_BN[:, :, None]).reshape(B, -1)
    sum_BK, index_BK = lax.top_k(sum_BX, min((1 + len(limits.ends)) * N, N * V))
    beam_BK, token_BK = index_BK // V, index_BK % V
    tokens_BKT = pick(s.live_BNT, beam_BK).at[:, :, s.t].set(token_BK)
    ends_BK = contains(limits.ends, token_BK) | at_limit_B[:, None]

    live_log_BN, at_BN = lax.top_k(sum_BK + ends_BK * OUT, N)
    token_BN, beam_BN = pick(token_BK, at_BN), pick(beam_BK, at_BN)
    row_B = (jnp.arange(B)[:, None] * N + beam_BN).reshape(-1)

    finishes_BK = ends_BK & (jnp.arange(ends_BK.shape[1]) < N)
    full_B = s.is_finished_BN.all(1) & (stop == "full")
    score_BK = sum_BK / weight_T[length]
    score_BK += full_B[:, None] * OUT
    score_BK += ~s.hopeful_B[:, None] * OUT
    score_BK += ~finishes_BK * OUT
    ended = Decoded(tokens_BKT, score_BK, sum_BK, jnp.full(ends_BK.shape, length))
    both = jax.tree.map(
      lambda old, new: jnp.concatenate([old, new], axis=1),
      (s.finished, s.is_finished_BN),
      (ended, finishes_BK),
    )
    _, keep_BN = lax.top_k(both[0].scores, N)
    kept = jax.tree.map(lambda x: pick(x, keep_BN), both)
    # a row that is done stays as it is while others go on
    finished, is_finished_BN = jax.tree.map(
      lambda new, old: jnp.where(s.done_B.reshape(-1, *[1] * (new.ndim - 1)), old, new),
      kept,
      (s.finished, s.is_finished_BN),
    )

    ahead = weight_T[limit_B] if stop == "exact" and length_penalty > 0 else weight_T[length]
    worst_B = jnp.where(is_finished_BN.all(1), finished.scores.min(1), OUT)
    hopeful_B = s.hopeful_B & (live_log_BN[:, 0] / ahead > worst_B)
    done_B = s.done_B | ~hopeful_B | ends_BK.all(1)
    if stop == "full":
      done_B |= is_finished_BN.all(1)
    return _Search(
      length,
      jax.tree.map(lambda x: x[row_B], after["moving"]),
      pick(tokens_BKT, at_BN),
      live_log_BN,
      token_BN,
      finished,
      is_finished_BN,
      hopeful_B,
      done_B,
    )

  # one live beam at first: N equal ones would rank each continuation N times
  out_BN = jnp.full((B, N), OUT, jnp.float32)
  empty_BNT, zero_BN = (
    jnp.full((B, N, max_len), limits.pad, jnp.int32),
    jnp.zeros((B, N), jnp.int32),
  )
  finished = Decoded(empty_BNT, out_BN, out_BN, zero_BN)
  first_BN = jnp.repeat(limits.last_B[:, None], N, axis=1)
  true_B = jnp.ones(B, bool)
  s = _Search(
    0,
    cache["moving"],
    empty_BNT,
    out_BN.at[:, 0].set(0),
    first_BN,
    finished,
    zero_BN > 0,
    true_B,
    ~true_B,
  )
  s = lax.while_loop(lambda s: ~s.done_B.all(), body, s)
  scores_BN = jnp.where(s.is_finished_BN, s.finished.scores, -jnp.inf)
  finished = s.finished._replace(scores=scores_BN)
  return jax.tree.map(lambda x: x[:, :num_return], finished)
