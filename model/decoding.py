"""Decodes greedily, by sampling or by beam search with any model of the next token.

A model is a function `step(token_BN, cache) -> (logits_BNV, cache)`; model/search.py describes the
cache, which a search gets with one hypothesis of each input. A search computes all inputs at once,
or `rows` of them at a time (model/queue.py), with the same results. All functions run under
`jax.jit`; settings that are not arrays are static. The three searches share these rules:
- a hypothesis ends in an `eos`, whose probability counts; at a row's limit only `eos` is allowed;
- `pad` and `bos` are never chosen (unless they are `eos`); their probability is lost, not shared;
- constraints (model/constraints.py) forbid more tokens, and none of them holds at a row's limit;
- log-probabilities are the model's, in float32: no temperature, truncation or renormalization;
- of equal hypotheses the earlier one wins, then the lower beam, then the lower token;
- rows do not depend on each other, so a row has the same result in every batch.
With `Limits.strict`, greedy search and sampling follow transformers' generate instead: neither the
first rule holds at the limit, where a row just ends, nor the second. model/strict_beams.py is its
beam search.
Axes: B batch, N hypotheses of an input, V vocabulary, T target length, C candidates.
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
  top,
)

STOPS = ("exact", "current", "full")  # when a beam search ends
PENALTIES = {
  "wu": lambda n: (5 + n) / 6,  # Wu et al. 2016, eq. 14
  "length": lambda n: np.maximum(n, 1),  # fairseq, transformers
}


def length_weights(max_len: int, alpha: float, penalty="wu", before: int = 0) -> np.ndarray:
  """Returns lp(n + before) ** -alpha for n = 0 ... max_len, float32; lp is one of PENALTIES."""
  # Rounded from float64 it stays monotone in n, and a product (XLA may round a division in two
  # ways) is monotone too: the early stop's bound rests on both.
  return (PENALTIES[penalty](before + np.arange(max_len + 1.0)) ** -alpha).astype(np.float32)


def prefill(step: Step, cache: Cache, prompt_BT: Array, length_B: Array) -> tuple[Cache, Array]:
  """Returns the cache with all but the last token of each prompt, and that last token [B].

  Prompts are read a token at a time. length_B [B] is at least 1; ids beyond are not read.
  """

  def read(t, moving):
    _, after = step(prompt_BT[:, t, None], cache._replace(moving=moving))
    return queue.choose(t < length_B - 1, after.moving, moving)

  moving = lax.fori_loop(0, prompt_BT.shape[1] - 1, read, cache.moving)
  return cache._replace(moving=moving), pick(prompt_BT, length_B - 1)


def greedy(step: Step, cache: Cache, limits: Limits, *, rows: int | None = None) -> Decoded:
  """Returns the hypothesis (N = 1) of the most probable token at each step, by log-probability."""
  return _follow(step, cache, None, limits, rows)


def sample(
  step: Step,
  cache: Cache,
  limits: Limits,
  key: Array,
  *,
  ids_B: Array,
  num_samples: int = 1,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float = 1.0,
  rows: int | None = None,
) -> Decoded:
  """Returns num_samples independent draws for each row, most probable first.

  Scores are log-probabilities. A token is drawn from softmax(logits / temperature), restricted to
  the top_k best and then to the fewest whose probability reaches top_p (Holtzman et al. 2020;
  tokens that tie at the edge all stay). Temperature 0 is greedy. A draw depends on the key, the
  row's id in ids_B [B] int32, the sample's number and the position, not on the batch (for a
  threefry key: rbg bits change under vmap). Raises ValueError for a temperature, top_k or top_p
  outside its range.
  """
  if temperature < 0 or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
    raise ValueError(
      f"temperature={temperature} must be >= 0, top_p={top_p} in (0, 1], top_k={top_k} None or >= 1"
    )
  n = num_samples
  id_B, number_B = jnp.repeat(ids_B, n), jnp.tile(jnp.arange(n), len(ids_B))
  key_B = jax.vmap(lambda i, n: jax.random.fold_in(jax.random.fold_in(key, i), n))(id_B, number_B)
  cache, arrays = jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), (cache, limits.arrays))

  def draw(t_B, key_B, log_BV):
    if temperature == 0:
      return _argmax(log_BV)
    scaled_BC, token_BC = log_BV / temperature, None
    if top_k is not None:
      scaled_BC, token_BC = lax.top_k(scaled_BC, min(top_k, log_BV.shape[1]))
    if top_p < 1:
      scaled_BC = _nucleus(scaled_BC, top_p)
    drawn_B = jax.vmap(jax.random.categorical)(jax.vmap(jax.random.fold_in)(key_B, t_B), scaled_BC)
    return drawn_B if token_BC is None else pick(token_BC, drawn_B)

  drawn = _follow(step, cache, draw, limits.replace(arrays), rows and rows * n, key_B)
  log_BN, order_BN = lax.top_k(drawn.scores.reshape(-1, n), n)
  tokens_BNT, length_BN = drawn.tokens.reshape(-1, n, limits.max_len), drawn.lengths.reshape(-1, n)
  return Decoded(pick(tokens_BNT, order_BN), log_BN, log_BN, pick(length_BN, order_BN))


class _Beams(NamedTuple):
  """The search of each row."""

  t_B: Array  # tokens of each live hypothesis
  live_BNT: Array
  live_log_BN: Array  # falling along N; -inf where there is no hypothesis
  last_BN: Array
  finished: Decoded  # the best so far
  done_B: Array


def beam_search(
  step: Step,
  cache: Cache,
  limits: Limits,
  *,
  num_beams: int,
  length_penalty: float,
  penalty: str = "wu",
  before: int = 0,
  num_return: int = 1,
  stop: str = "exact",
  rows: int | None = None,
) -> Decoded:
  """Returns the num_return best hypotheses of a search with num_beams live ones.

  A hypothesis has the score log-probability / lp(length + before)
  ** length_penalty, where lp is one of PENALTIES and `before` counts tokens of the output that were
  given. Each step ranks the continuations of all live beams. Continuations by eos among the first
  num_beams are finished; the first num_beams without eos live on, so beams never run out. One beam
  is greedy search: it follows the first continuation only and ends when that is eos.

  `stop` decides when a row ends: "exact" once no live beam can exceed the worst finished one that
  is kept, which changes no result; "current" once num_beams are finished and no live beam would
  exceed the worst of them at its present length (transformers' early_stopping=False, which may miss
  longer, better outputs); "full" also as soon as num_beams are finished (early_stopping=True).
  Raises ValueError unless 1 <= num_return <= num_beams.
  """
  if not 1 <= num_return <= num_beams:
    raise ValueError(f"num_return={num_return} must lie between 1 and num_beams={num_beams}")
  max_len, N = limits.max_len, num_beams
  R = num_return if stop == "exact" else N  # finished hypotheses that are kept
  # each beam has one eos (or several), so of the first 2N continuations at least N live on
  ranked = 1 if N == 1 else (1 + len(limits.ends)) * N
  weight_T = jnp.asarray(length_weights(max_len, length_penalty, penalty, before))

  def start(limits, _):
    B = len(limits.limit_B)
    # One live beam at first: N equal ones would rank each continuation N times.
    live_log_BN = jnp.full((B, N), -jnp.inf, jnp.float32).at[:, 0].set(0)
    never_BR, zero_B = jnp.full((B, R), -jnp.inf), jnp.zeros(B, jnp.int32)
    empty_BNT = jnp.full((B, N, max_len), limits.pad, jnp.int32)
    finished = Decoded(empty_BNT[:, :R], never_BR, never_BR, jnp.zeros((B, R), jnp.int32))
    last_BN = jnp.repeat(limits.last_B[:, None], N, axis=1)
    return _Beams(zero_B, empty_BNT, live_log_BN, last_BN, finished, limits.limit_B < 0)

  def advance(s: _Beams, cache: Cache, limits: Limits, _):
    B, length_B, limit_B = len(s.t_B), s.t_B + 1, limits.clipped_B
    logits_BNV, cache = step(s.last_BN, cache)
    # each beam's best, then the best of those: a quarter quicker on CPU than top_k over N*V
    best_BNC, token_BNC = top(logits_BNV, limit_B == length_B, limits, s.live_BNT, s.t_B, ranked)
    log_BNC = s.live_log_BN[:, :, None] + best_BNC
    log_BC, index_BC = lax.top_k(log_BNC.reshape(B, -1), min(ranked, log_BNC[0].size))
    token_BC = pick(token_BNC.reshape(B, -1), index_BC)
    beam_BC = index_BC // log_BNC.shape[2]

    ends_BC, weight_B = contains(limits.ends, token_BC), weight_T[length_B]
    end_log_BN = jnp.where(ends_BC & ~s.done_B[:, None], log_BC, -jnp.inf)[:, :N]
    ended = Decoded(
      tokens=append(pick(s.live_BNT, beam_BC[:, :N]), s.t_B, token_BC[:, :N]),
      scores=end_log_BN * weight_B[:, None],
      log_probs=end_log_BN,
      lengths=jnp.repeat(length_B[:, None], N, axis=1),
    )
    # those kept stand first: an equal newcomer does not displace them, nor does one of -inf
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), s.finished, ended)
    _, keep_BN = lax.top_k(both.scores, R)
    finished = jax.tree.map(lambda x: pick(x, keep_BN), both)

    live_log_BN, live_BN = lax.top_k(jnp.where(ends_BC, -jnp.inf, log_BC), N)
    beam_BN, token_BN = pick(beam_BC, live_BN), pick(token_BC, live_BN)

    # A sum of log-probabilities is at most 0 and only falls, so a live beam can at best score its
    # sum now times the least weight ahead, which (monotone) is the next length's or the limit's.
    ahead_B = jnp.minimum(weight_T[jnp.minimum(length_B + 1, limit_B)], weight_T[limit_B])
    if stop != "exact":
      ahead_B = weight_B
    hopeless_B = live_log_BN[:, 0] * ahead_B <= finished.scores[:, -1]
    if stop == "full":
      hopeless_B |= finished.scores[:, -1] > -jnp.inf
    done_B = s.done_B | (limit_B <= length_B) | hopeless_B
    live_BNT = append(pick(s.live_BNT, beam_BN), s.t_B, token_BN)
    t_B = jnp.where(s.done_B, s.t_B, length_B)
    s = _Beams(t_B, live_BNT, live_log_BN, token_BN, finished, done_B)
    return s, follow(cache, beam_BN)

  finished = queue.run(
    start, advance, lambda s: s.finished, cache, limits, beams=num_beams, rows=rows
  )
  return jax.tree.map(lambda x: x[:, :num_return], finished)


class _Followed(NamedTuple):
  """The output of each row so far."""

  t_B: Array  # tokens
  before_B: Array  # the last token
  tokens_BNT: Array  # N = 1
  log_B: Array
  done_B: Array


def _follow(step: Step, cache: Cache, draw, limits: Limits, rows, keys=()) -> Decoded:
  """Returns a hypothesis (N = 1) of each row, extended by `draw(t_B, key_B, scores_BV) -> token_B`
  (None: by the most probable token)."""

  def start(limits, _):
    B = len(limits.limit_B)
    zero_B, tokens_BNT = jnp.zeros(B, jnp.int32), jnp.full((B, 1, limits.max_len), limits.pad)
    return _Followed(zero_B, limits.last_B, tokens_BNT, jnp.zeros(B), limits.limit_B < 0)

  def advance(s: _Followed, cache: Cache, limits: Limits, key_B):
    logits_B1V, cache = step(s.before_B[:, None], cache)
    last_B = limits.clipped_B <= s.t_B + 1
    if draw is None and not limits.strict:
      log_BN1, token_BN1 = top(logits_B1V, last_B, limits, s.tokens_BNT, s.t_B, 1)
      log_B, token_B = log_BN1[:, 0, 0], token_BN1[:, 0, 0]
    else:
      log_B1V = log_probs(logits_B1V, last_B, limits)
      scores_B1V = logits_B1V.astype(jnp.float32) if limits.strict else log_B1V
      scores_BV = restrict(scores_B1V, last_B, s.tokens_BNT, s.t_B, limits)[:, 0]
      token_B = _argmax(scores_BV) if draw is None else draw(s.t_B, key_B, scores_BV)
      log_B = pick(log_B1V[:, 0] if limits.strict else scores_BV, token_B)
    if not limits.strict:
      # At the limit eos even if its probability is 0, so that the loop ends with any model.
      token_B = jnp.where(last_B & ~contains(limits.ends, token_B), limits.ends[0], token_B)
    token_B = token_B.astype(jnp.int32)
    new = _Followed(
      s.t_B + 1,
      token_B,
      append(s.tokens_BNT, s.t_B, token_B[:, None]),
      s.log_B + log_B,
      contains(limits.ends, token_B) | last_B,
    )
    return queue.choose(s.done_B, s, new), cache

  s = queue.run(start, advance, lambda s: s, cache, limits, beams=1, rows=rows, more=keys)
  return Decoded(s.tokens_BNT, s.log_B[:, None], s.log_B[:, None], s.t_B[:, None])


def _argmax(x_BV: Array) -> Array:
  return lax.top_k(x_BV, 1)[1][:, 0]  # on CPU half the time of argmax


def _nucleus(scaled_BC: Array, top_p: float) -> Array:
  """Returns scaled_BC with -inf outside the fewest tokens whose probability reaches top_p."""
  # Halve towards the highest threshold that leaves top_p above it, 1e-9 of the greatest probability
  # wide at the end: 3 ms for [32, 8000] on CPU, where sorting takes 60.
  prob_BC = jax.nn.softmax(scaled_BC)

  def halve(_, ends):
    low_B, high_B = ends
    middle_B = (low_B + high_B) / 2
    enough_B = jnp.where(prob_BC > middle_B[:, None], prob_BC, 0).sum(-1) >= top_p
    return jnp.where(enough_B, middle_B, low_B), jnp.where(enough_B, high_B, middle_B)

  high_B = prob_BC.max(-1)
  low_B, _ = lax.fori_loop(0, 30, halve, (jnp.zeros_like(high_B), high_B))
  return jnp.where(prob_BC > low_B[:, None], scaled_BC, -jnp.inf)
