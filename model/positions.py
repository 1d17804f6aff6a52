"""Computes positions: sinusoidal, relative (T5's buckets), rotary, ALiBi (learned ones: a table).

Sinusoidal and learned positions are added to the embeddings, rotary ones turn queries and keys, and
the others are a bias on the logits of attention. Distances are differences of the index in a row,
which equal those in a segment, so packed rows need nothing more.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx


def sinusoidal(positions_BT: jax.Array, dim: int) -> jax.Array:
  """Returns [B, T, dim], float32: sines, then cosines, of positions / 10000^(2i / dim).

  The paper (Vaswani et al. 2017, section 3.5) interleaves them.
  """
  half = dim // 2
  frequency = jnp.exp(jnp.arange(half) * (-2 * math.log(10000.0) / dim))
  return _waves(positions_BT, frequency, dim)


def sinusoidal_t2t(positions_BT: jax.Array, dim: int) -> jax.Array:
  """Returns the same with wavelengths of up to 10000 itself: 10000^(i / (dim/2 - 1)).

  These are tensor2tensor's and fairseq's.
  """
  half = dim // 2
  frequency = jnp.exp(jnp.arange(half) * (-math.log(10000.0) / max(1, half - 1)))
  return _waves(positions_BT, frequency, dim)


def _waves(positions_BT, frequency, dim):
  angle = positions_BT[..., None].astype(jnp.float32) * frequency
  both = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
  return jnp.pad(both, ((0, 0), (0, 0), (0, dim % 2)))


def rotary(
  x_BTHK: jax.Array,
  positions_BT: jax.Array,
  theta: float,
  scale: float = 1.0,
  dim: int | None = None,
  short: tuple[int, float, float] | None = None,
) -> jax.Array:
  """Returns `x` with pairs (i, i + K/2) turned by position * theta^(-2i/K) (Su et al. 2021).

  Positions are divided by `scale` (Chen et al. 2023, linear interpolation); `dim` is the K of
  pairs, and numbers beyond it stay as they are. With `short`, a length and two numbers of turns,
  this holds for pairs that turn at most so often as the first number in that length, not for pairs
  that turn at least so often as the second, and in part for those between (Llama 3.1).
  """
  if dim is not None and dim < x_BTHK.shape[-1]:
    turned = rotary(x_BTHK[..., :dim], positions_BT, theta, scale, None, short)
    return jnp.concatenate([turned, x_BTHK[..., dim:]], axis=-1)
  half = x_BTHK.shape[-1] // 2
  frequency = theta ** (-jnp.arange(half) / half)
  if short is not None:
    length, low, high = short
    turns = length * frequency / (2 * math.pi)
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    frequency = frequency * (kept + (1 - kept) / scale)
  elif scale != 1:
    positions_BT = positions_BT / scale
  angle = positions_BT[:, :, None, None].astype(jnp.float32) * frequency
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  a, b = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTHK.dtype)


def alibi(distance_BTS: jax.Array, num_heads: int) -> jax.Array:
  """Returns [..., H, T, S], float32: minus slope times distance (Press et al. 2022, section 3)."""

  def slopes(n):
    return [2 ** (-8 * (i + 1) / n) for i in range(n)]

  power = 2 ** math.floor(math.log2(num_heads))
  slope = jnp.array(slopes(power) + slopes(2 * power)[0::2][: num_heads - power])[:, None, None]
  return -slope * jnp.abs(distance_BTS[..., None, :, :]).astype(jnp.float32)


def bucket(distance: jax.Array, bidirectional: bool, num_buckets: int, max_distance: int):
  """Returns T5's bucket of a distance (key minus query): exact when near, logarithmic when far.

  All distances beyond max_distance share the last bucket (Raffel et al. 2020, section 2.1).
  """
  offset = jnp.zeros_like(distance)
  if bidirectional:
    num_buckets //= 2
    offset = (distance > 0) * num_buckets
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  exact = num_buckets // 2
  near = jnp.maximum(distance, 1).astype(jnp.float32)
  ratio = jnp.log(near / exact) / math.log(max_distance / exact)
  far = exact + (ratio * (num_buckets - exact)).astype(jnp.int32)
  return offset + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))


class RelativeBias(nnx.Module):
  """A learned bias for each head and bucket of distance, one table for a whole stack (T5)."""

  def __init__(self, cfg, bidirectional: bool, *, rngs: nnx.Rngs):
    self.bidirectional = bidirectional
    self.num_buckets, self.max_distance = cfg.relative_buckets, cfg.relative_max_distance
    shape = cfg.relative_buckets, cfg.num_heads
    self.embedding = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape))

  def __call__(self, distance_BTS: jax.Array) -> jax.Array:
    """Returns the bias [..., H, T, S], float32."""
    settings = self.bidirectional, self.num_buckets, self.max_distance
    bucket_BTS = bucket(distance_BTS, *settings)
    return jnp.moveaxis(self.embedding[...][bucket_BTS], -1, -3)
