"""Searches with beams token for token as transformers' generate (5.x) does.

It differs from model/decoding.py in what becomes of a hypothesis at its limit, where it counts
as finished without eos, in the heuristics that end a search, and in rounding. Axes: B batch, N
beams, K candidates, V vocabulary, T target length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from model import queue
from model.search import (
  Cache,
  Decoded,
  Limits,
  Step,
  append,
  contains,
  follow,
  log_probs,
  pick,
  restrict,
)

OUT = -1e9  # what theirs add to the score of a hypothesis that is out of the search


class _Beams(NamedTuple):
  """The search of each row."""

  t_B: Array  # tokens of each live hypothesis
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
  rows: int | None = None,
) -> Decoded:
  """Returns the num_return best hypotheses of a search with num_beams >= 2 live ones.

  The score is log-probability / (length + before) ** length_penalty. `stop` is early_stopping by
  the names of model/decoding.py: "current" False, "full" True, "exact" "never". `limits.strict`
  must be True. `rows` is as in model/decoding.py.
  """
  max_len, N = limits.max_len, num_beams
  lengths = np.maximum(before + np.arange(max_len + 1.0), 1)
  weight_T = jnp.asarray((lengths**length_penalty).astype(np.float32))

  def start(limits, _):
    B = len(limits.limit_B)
    # one live beam at first: N equal ones would rank each continuation N times
    out_BN, zero_BN = jnp.full((B, N), OUT, jnp.float32), jnp.zeros((B, N), jnp.int32)
    empty_BNT = jnp.full((B, N, max_len), limits.pad, jnp.int32)
    finished = Decoded(empty_BNT, out_BN, out_BN, zero_BN)
    first_BN = jnp.repeat(limits.last_B[:, None], N, axis=1)
    done_B, live_log_BN = limits.limit_B < 0, out_BN.at[:, 0].set(0)
    return _Beams(
      zero_BN[:, 0], empty_BNT, live_log_BN, first_BN, finished, zero_BN > 0, ~done_B, done_B
    )

  def advance(s: _Beams, cache: Cache, limits: Limits, _):
    B, length_B, limit_B = len(s.t_B), s.t_B + 1, limits.clipped_B
    logits_BNV, cache = step(s.before_BN, cache)
    at_limit_B = limit_B <= length_B
    log_BNV = log_probs(logits_BNV, at_limit_B, limits)
    log_BNV = restrict(log_BNV, at_limit_B, s.live_BNT, s.t_B, limits)
    V = log_BNV.shape[2]

    sum_BX = (log_BNV + s.live_log_BN[:, :, None]).reshape(B, -1)
    sum_BK, index_BK = lax.top_k(sum_BX, min((1 + len(limits.ends)) * N, N * V))
    beam_BK, token_BK = index_BK // V, index_BK % V
    tokens_BKT = append(pick(s.live_BNT, beam_BK), s.t_B, token_BK)
    ends_BK = contains(limits.ends, token_BK) | at_limit_B[:, None]

    live_log_BN, at_BN = lax.top_k(sum_BK + ends_BK * OUT, N)
    token_BN, beam_BN = pick(token_BK, at_BN), pick(beam_BK, at_BN)

    finishes_BK = ends_BK & (jnp.arange(ends_BK.shape[1]) < N)
    full_B = s.is_finished_BN.all(1) & (stop == "full")
    score_BK = sum_BK / weight_T[length_B][:, None]
    score_BK += full_B[:, None] * OUT
    score_BK += ~s.hopeful_B[:, None] * OUT
    score_BK += ~finishes_BK * OUT
    length_BK = jnp.broadcast_to(length_B[:, None], ends_BK.shape)
    ended = Decoded(tokens_BKT, score_BK, sum_BK, length_BK)
    both = jax.tree.map(
      lambda old, new: jnp.concatenate([old, new], axis=1),
      (s.finished, s.is_finished_BN),
      (ended, finishes_BK),
    )
    _, keep_BN = lax.top_k(both[0].scores, N)
    finished, is_finished_BN = jax.tree.map(lambda x: pick(x, keep_BN), both)

    exact = stop == "exact" and length_penalty > 0
    ahead_B = weight_T[limit_B if exact else length_B]
    worst_B = jnp.where(is_finished_BN.all(1), finished.scores.min(1), OUT)
    hopeful_B = s.hopeful_B & (live_log_BN[:, 0] / ahead_B > worst_B)
    done_B = ~hopeful_B | ends_BK.all(1)
    if stop == "full":
      done_B |= is_finished_BN.all(1)
    new = _Beams(
      length_B,
      pick(tokens_BKT, at_BN),
      live_log_BN,
      token_BN,
      finished,
      is_finished_BN,
      hopeful_B,
      done_B,
    )
    return queue.choose(s.done_B, s, new), follow(cache, beam_BN)

  def result(s: _Beams) -> Decoded:
    scores_BN = jnp.where(s.is_finished_BN, s.finished.scores, -jnp.inf)
    finished = s.finished._replace(scores=scores_BN)
    return jax.tree.map(lambda x: x[:, :num_return], finished)

  return queue.run(start, advance, result, cache, limits, beams=N, rows=rows)
