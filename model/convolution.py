"""Computes a convolution over an encoder's embeddings (DeBERTa-v2)."""

import jax.numpy as jnp
from flax import nnx

from model import layers


class Convolution(nnx.Module):
  """Adds a convolution of the embeddings around a token to its state, before a norm."""

  def __init__(self, cfg, *, rngs: nnx.Rngs):
    self.width, self.activation = cfg.convolution, cfg.convolution_activation
    self.dense = layers.dense(cfg, cfg.convolution * cfg.dim, cfg.dim, rngs=rngs)
    self.norm = layers.norm(cfg, rngs=rngs)

  def __call__(self, embedded_BTD, x_BTD, segments_BT):
    """Returns the states [B, T, D]; tokens of other segments count as zeros."""
    around = []
    for shift in range(-(self.width // 2), self.width // 2 + 1):
      same_BT = _shift(segments_BT, shift) == segments_BT
      around.append(jnp.where(same_BT[..., None], _shift(embedded_BTD, shift), 0))
    y_BTD = layers.ACTIVATIONS[self.activation](self.dense(jnp.concatenate(around, axis=-1)))
    return self.norm(x_BTD + y_BTD)


def _shift(x_BT, shift: int):
  """Returns the values `shift` places later in each row, zeros (no segment) beyond its ends."""
  length, width = x_BT.shape[1], abs(shift)
  pads = [(0, 0), (width, width), *[(0, 0)] * (x_BT.ndim - 2)]
  return jnp.pad(x_BT, pads)[:, width + shift : width + shift + length]
