"""Runs the searches of many requests in a few rows, each of which takes request after request.

Axes: Q requests, B rows, N hypotheses of a request.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from model.search import Cache, Limits, pick, spread

# Rows whose searches are done wait until they are a sixteenth of all, and go on together.
WAITING = 16


def run(
  start: Callable,
  advance: Callable,
  result: Callable,
  cache: Cache,
  limits: Limits,
  *,
  beams: int,
  rows: int | None,
  more: Any = (),
):
  """Returns `result(state)` [Q, ...] of the states in which the searches of Q requests end.

  `start(limits, more)` returns the first states of some requests, and `advance(state, cache,
  limits, more)` states and cache a token later; the result of a state with `done_B` stays as it is.
  `more` are further arrays [Q, ...]. `cache` has one hypothesis of each request. Only `rows`
  searches run at a time (None: all), and each row has Q / rows requests, one after another.
  """
  Q = len(limits.limit_B)
  rows = rows or Q
  depth, enough = Q // rows, max(1, rows // WAITING)
  queue = jax.tree.map(lambda x: x.reshape(rows, depth, *x.shape[1:]), (cache, limits.arrays, more))

  def take(number_B):
    """Returns the first states, caches and settings of the request of each row of this number."""
    cache, arrays, more = jax.tree.map(lambda x: pick(x, number_B), queue)
    own = limits.replace(arrays), more
    return start(*own), cache, own

  def search(number_B, state, cache, own):
    """Returns states and caches after the next tokens, by which enough rows wait."""

    def proceeds(carry):
      busy_B = ~carry[0].done_B
      waiting_B = ~busy_B & (number_B < depth)
      return busy_B.any() & ((depth == 1) | (waiting_B.sum() < enough))

    def body(carry):
      state, after = advance(carry[0], carry[1]._replace(fixed=cache.fixed), *own)
      return state, after._replace(fixed=None)

    return lax.while_loop(proceeds, body, (state, cache._replace(fixed=None)))

  first_B = jnp.zeros(rows, jnp.int32)
  state, cache, own = take(first_B)
  cache = spread(cache, beams, limits.max_len)
  if depth == 1:
    return result(search(first_B, state, cache, own)[0])

  def turn(carry):
    """Gives requests to the rows that are new, searches, and keeps the results of those done."""
    number_B, new_B, state, cache, ended = carry
    place_B = jnp.minimum(number_B, depth - 1)
    opened, read, own = take(place_B)
    state = choose(new_B, opened, state)
    cache = begin(new_B, read, cache, beams)
    state, cache = search(number_B, state, cache, own)
    ends_B = state.done_B & (number_B < depth)
    here_BK = ends_B[:, None] & (jnp.arange(depth) == place_B[:, None])
    ended = choose(here_BK, jax.tree.map(lambda x: x[:, None], result(state)), ended)
    number_B += ends_B
    return number_B, ends_B & (number_B < depth), state, cache._replace(fixed=None), ended

  ended = jax.tree.map(lambda x: jnp.repeat(x[:, None], depth, axis=1), result(state))
  carry = (first_B, first_B > 0, state, cache._replace(fixed=None), ended)
  *_, ended = lax.while_loop(lambda carry: (carry[0] < depth).any(), turn, carry)
  return jax.tree.map(lambda x: x.reshape(Q, *x.shape[2:]), ended)


def choose(mask, new, old):
  """Returns trees of arrays with those of `new` where the mask [B] or [B, K] is True."""

  def of_leaf(new, old):
    return jnp.where(mask.reshape(mask.shape + (1,) * (old.ndim - mask.ndim)), new, old)

  return jax.tree.map(of_leaf, new, old)


def begin(new_B, read: Cache, cache: Cache, beams: int) -> Cache:
  """Returns the cache in which new rows begin with what was read of their requests.

  What they have written for former requests stays in later places, which nothing attends to before
  they are written again.
  """
  first = spread(read, beams, 0)

  def beginning(new, old):
    return old.at[:, :, : new.shape[2]].set(choose(new_B, new, old[:, :, : new.shape[2]]))

  written, slots = cache.written, cache.slots
  if any(x.shape[2] for x in jax.tree.leaves(read.slots)):
    written, slots = jax.tree.map(beginning, (first.written, first.slots), (written, slots))
  return Cache(choose(new_B, first.moving, cache.moving), read.fixed, written, slots)
