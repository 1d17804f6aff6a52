"""Computes disentangled attention, whose logits depend on content and distance (DeBERTa).

The logits of a query and a key are content times content, content times position, and position
times content (He et al. 2021, DeBERTa, section 3.1), where a position is a state of the distance,
projected as the content is (DeBERTa-v2's share_att_key) or by own weights. The axis N is the
buckets of distances.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model import layers


class DistanceStates(nnx.Module):
  """A table with a state for each bucket of distances, to both sides, and its norm if any."""

  def __init__(self, cfg, *, rngs: nnx.Rngs):
    init = layers.initializer(cfg.init_std, nnx.initializers.normal(cfg.table_std))
    self.embedding = nnx.Param(init(rngs.params(), (2 * cfg.relative_buckets, cfg.dim)))
    self.norm = layers.norm(cfg, rngs=rngs) if cfg.disentangled_norm else None

  def __call__(self):
    """Returns the states [N, D]."""
    return self.embedding[...] if self.norm is None else self.norm(self.embedding[...])


class DisentangledBias(NamedTuple):
  """The parts of a layer's logits that depend on distance."""

  query_NHK: jax.Array | None  # the states of distances, projected as queries and keys are
  key_NGK: jax.Array | None
  scale: float  # of the logits
  max_distance: int | None

  def __call__(self, q_BTHK, k_BSGK, distance_BTS):
    """Returns the bias [..., H, T, S], float32."""
    group, parts = q_BTHK.shape[-2] // k_BSGK.shape[-2], []
    count = len(self.query_NHK if self.key_NGK is None else self.key_NGK)
    place_BHTS = bucket(distance_BTS, count, self.max_distance)[..., None, :, :]
    if self.key_NGK is not None:
      key_NHK = jnp.repeat(self.key_NGK, group, axis=-2)
      c2p_BHTN = jnp.einsum("...THK,NHK->...HTN", q_BTHK, key_NHK).astype(jnp.float32)
      parts.append(jnp.take_along_axis(c2p_BHTN, place_BHTS, axis=-1))
    if self.query_NHK is not None:
      k_BSHK = jnp.repeat(k_BSGK, group, axis=-2)
      p2c_BHSN = jnp.einsum("...SHK,NHK->...HSN", k_BSHK, self.query_NHK).astype(jnp.float32)
      p2c_BHST = jnp.take_along_axis(p2c_BHSN, place_BHTS.swapaxes(-1, -2), axis=-1)
      parts.append(p2c_BHST.swapaxes(-1, -2))
    return sum(parts) * self.scale


def bucket(distance, count: int, max_distance: int | None):
  """Returns the bucket, from 0 to below `count`, of a distance (key minus query).

  Buckets are exact up to a quarter of `count` and logarithmic up to max_distance (DeBERTa-v2), or
  all exact without one.
  """
  half, middle = count // 2, count // 4
  back = -distance
  if max_distance is None:
    return jnp.clip(back + half, 0, count - 1)
  far = jnp.maximum(jnp.abs(back), middle).astype(jnp.float32)
  ratio = jnp.log(far / middle) / jnp.log(jnp.float32((max_distance - 1) / middle))
  wide = (jnp.ceil(ratio * (middle - 1)) + middle).astype(distance.dtype)
  place = jnp.where(jnp.abs(back) <= middle, back, jnp.sign(back) * wide)
  return jnp.clip(place + half, 0, count - 1)
