"""Decodes greedily, by sampling or by beam search with any model of the next token.

A model is a function `step(token_B, cache) -> (logits_BV, cache)`. Every leaf of the cache is
[B, ...]; `cache["moving"]` changes with each token and follows its hypothesis, `cache["fixed"]` is
the same for all hypotheses of an input (the encoder's memory). All functions run under `jax.jit`;
settings that are not arrays are static. The three searches share these rules:
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

import functools
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
    _, after = step(prompt_BT[:, t], {**cache, "moving": moving})
    keep = functools.partial(jax.vmap(jnp.where), t < length_B - 1)
    return jax.tree.map(keep, after["moving"], moving)

  moving = lax.fori_loop(0, prompt_BT.shape[1] - 1, read, cache["moving"])
  return {**cache, "moving": moving}, pick(prompt_BT, length_B - 1)


def greedy(step: Step, cache: Cache, limits: Limits) -> Decoded:
  """Returns the hypothesis (N = 1) of the most probable token at each step, by log-probability."""
  return _follow(step, cache, lambda t, log_BV: log_BV.argmax(-1), 1, limits)


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
  id_B = jnp.repeat(ids_B, num_samples)
  number_B = jnp.tile(jnp.arange(num_samples), len(ids_B))
  key_B = jax.vmap(lambda i, n: jax.random.fold_in(jax.random.fold_in(key, i), n))(id_B, number_B)

  def choose(t, log_BV):
    if temperature == 0:
      return log_BV.argmax(-1)
    scaled_BC, token_BC = log_BV / temperature, None
    if top_k is not None:
      scaled_BC, token_BC = lax.top_k(scaled_BC, min(top_k, log_BV.shape[1]))
    if top_p < 1:
      scaled_BC = _nucleus(scaled_BC, top_p)
    step_key_B = jax.vmap(lambda k: jax.random.fold_in(k, t))(key_B)
    drawn_B = jax.vmap(jax.random.categorical)(step_key_B, scaled_BC)
    return drawn_B if token_BC is None else pick(token_BC, drawn_B)

  return _follow(step, cache, choose, num_samples, limits)


class _Search(NamedTuple):
  t: Array  # tokens of each live hypothesis
  moving: Any  # the cache's moving part, B*N rows
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
) -> Decoded:
  """Returns the num_return best hypotheses of a search with num_beams live ones.

  `cache` has a row for each input. A hypothesis has the score log-probability / lp(length + before)
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
  max_len, pad = limits.max_len, limits.pad
  B, N = len(limits.limit_B), num_beams
  R = num_return if stop == "exact" else N  # finished hypotheses that are kept
  # each beam has one eos (or several), so of the first 2N continuations at least N live on
  ranked = 1 if N == 1 else (1 + len(limits.ends)) * N
  limit_B = jnp.clip(limits.limit_B, 1, max_len)
  weight_T = jnp.asarray(length_weights(max_len, length_penalty, penalty, before))
  cache = repeat_cache(cache, N)

  def body(s: _Search) -> _Search:
    length = s.t + 1
    logits_BV, after = step(s.last_BN.reshape(-1), {**cache, "moving": s.moving})
    last_B = jnp.repeat(limit_B, N) == length
    log_BV = log_probs(logits_BV, last_B, limits)
    log_BV = restrict(log_BV, last_B, s.live_BNT.reshape(B * N, -1), s.t, limits)

    # each beam's best, then the best of those: a quarter quicker on CPU than top_k over N*V
    best_BV, token_BV = lax.top_k(log_BV, min(ranked, log_BV.shape[1]))
    log_BNC = s.live_log_BN[:, :, None] + best_BV.reshape(B, N, -1)
    log_BC, index_BC = lax.top_k(log_BNC.reshape(B, -1), min(ranked, log_BNC[0].size))
    token_BC = pick(token_BV.reshape(B, -1), index_BC)
    beam_BC = index_BC // log_BNC.shape[2]

    ends_BC = contains(limits.ends, token_BC)
    end_log_BN = jnp.where(ends_BC & ~s.done_B[:, None], log_BC, -jnp.inf)[:, :N]
    ended = Decoded(
      tokens=pick(s.live_BNT, beam_BC[:, :N]).at[:, :, s.t].set(token_BC[:, :N]),
      scores=end_log_BN * weight_T[length],
      log_probs=end_log_BN,
      lengths=jnp.full((B, N), length),
    )
    # those kept stand first: an equal newcomer does not displace them, nor does one of -inf
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), s.finished, ended)
    _, keep_BN = lax.top_k(both.scores, R)
    finished = jax.tree.map(lambda x: pick(x, keep_BN), both)

    live_log_BN, live_BN = lax.top_k(jnp.where(ends_BC, -jnp.inf, log_BC), N)
    beam_BN, token_BN = pick(beam_BC, live_BN), pick(token_BC, live_BN)
    row_B = (jnp.arange(B)[:, None] * N + beam_BN).reshape(-1)

    # A sum of log-probabilities is at most 0 and only falls, so a live beam can at best score its
    # sum now times the least weight ahead, which (monotone) is the next length's or the limit's.
    ahead_B = jnp.minimum(weight_T[jnp.minimum(length + 1, limit_B)], weight_T[limit_B])
    if stop != "exact":
      ahead_B = weight_T[length]
    hopeless_B = live_log_BN[:, 0] * ahead_B <= finished.scores[:, -1]
    if stop == "full":
      hopeless_B |= finished.scores[:, -1] > -jnp.inf
    done_B = s.done_B | (limit_B <= length) | hopeless_B
    moving = jax.tree.map(lambda x: x[row_B], after["moving"])
    live_BNT = pick(s.live_BNT, beam_BN).at[:, :, s.t].set(token_BN)
    return _Search(length, moving, live_BNT, live_log_BN, token_BN, finished, done_B)

  # One live beam at first: N equal ones would rank each continuation N times.
  live_log_BN = jnp.full((B, N), -jnp.inf, jnp.float32).at[:, 0].set(0)
  never_BN, empty_BNT = jnp.full((B, R), -jnp.inf), jnp.full((B, N, max_len), pad, jnp.int32)
  finished = Decoded(empty_BNT[:, :R], never_BN, never_BN, jnp.zeros((B, R), jnp.int32))
  last_BN, done_B = jnp.repeat(limits.last_B[:, None], N, axis=1), jnp.zeros(B, bool)
  start = _Search(0, cache["moving"], empty_BNT, live_log_BN, last_BN, finished, done_B)
  finished = lax.while_loop(lambda s: ~s.done_B.all(), body, start).finished
  return jax.tree.map(lambda x: x[:, :num_return], finished)


def _follow(step, cache, choose, n, limits: Limits) -> Decoded:
  """Returns n hypotheses a row, each extended by `choose(t, scores_BV) -> token_B`, best first."""
  max_len, pad = limits.max_len, limits.pad
  limit_B = jnp.repeat(jnp.clip(limits.limit_B, 1, max_len), n)
  B = len(limit_B)
  cache = repeat_cache(cache, n)

  def body(state):
    t, moving, before_B, tokens_BT, log_B, length_B, done_B = state
    logits_BV, after = step(before_B, {**cache, "moving": moving})
    last_B = limit_B == t + 1
    log_BV = log_probs(logits_BV, last_B, limits)
    scores_BV = logits_BV.astype(jnp.float32) if limits.strict else log_BV
    scores_BV = restrict(scores_BV, last_B, tokens_BT, t, limits)
    token_B = choose(t, scores_BV)
    if not limits.strict:
      log_BV = scores_BV
      # At the limit eos even if its probability is 0, so that the loop ends with any model.
      token_B = jnp.where(last_B & ~contains(limits.ends, token_B), limits.ends[0], token_B)
    token_B = jnp.where(done_B, pad, token_B).astype(jnp.int32)
    log_B = log_B + jnp.where(done_B, 0, pick(log_BV, token_B))
    tokens_BT, length_B = tokens_BT.at[:, t].set(token_B), length_B + ~done_B
    done_B = done_B | contains(limits.ends, token_B) | last_B
    return t + 1, after["moving"], token_B, tokens_BT, log_B, length_B, done_B

  zero_B, tokens_BT = jnp.zeros(B, jnp.int32), jnp.full((B, max_len), pad, jnp.int32)
  first_B = jnp.repeat(limits.last_B, n)
  start = (0, cache["moving"], first_B, tokens_BT, jnp.zeros(B), zero_B, zero_B > 0)
  *_, tokens_BT, log_B, length_B, _ = lax.while_loop(lambda state: ~state[-1].all(), body, start)
  log_BN, order_BN = lax.top_k(log_B.reshape(-1, n), n)
  tokens_BNT, length_BN = tokens_BT.reshape(-1, n, max_len), length_B.reshape(-1, n)
  return Decoded(pick(tokens_BNT, order_BN), log_BN, log_BN, pick(length_BN, order_BN))


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
