"""Defines heads on an encoder's states: the masked-LM transform, and labels for tokens.

A head is the model's attribute `head`, so that the body's weights keep their paths.
"""

import jax.numpy as jnp
from flax import nnx

from model import layers


class MaskedLmHead(nnx.Module):
  """A dense layer, activation and norm (Devlin et al. 2019), before the model's `logits`."""

  def __init__(self, cfg, *, rngs: nnx.Rngs):
    self.activation = cfg.activation
    self.dense = layers.dense(cfg, cfg.dim, cfg.table_dim, rngs=rngs)
    self.norm = layers.norm(cfg, cfg.table_dim, rngs=rngs)

  def __call__(self, x_BTD):
    """Returns the transformed states [..., D], as wide as the words' vectors."""
    return self.norm(layers.ACTIVATIONS[self.activation](self.dense(x_BTD)))


class LabelHead(nnx.Module):
  """Scores `num_labels` labels at every position, from its token or from its whole segment.

  pool: "token" (tags, answers); "first", through a dense layer and an activation (tanh: BERT's
  pooler); or "mean" of the segment. The last two are meant for a segment's first position only.
  """

  def __init__(self, cfg, num_labels: int, *, pool: str, activation: str = "tanh", rngs: nnx.Rngs):
    self.pool, self.activation, self.dropout = pool, activation, cfg.dropout
    self.dense = layers.dense(cfg, cfg.dim, cfg.dim, rngs=rngs) if pool == "first" else None
    self.labels = layers.dense(cfg, cfg.dim, num_labels, dtype=jnp.float32, rngs=rngs)

  def __call__(self, x_BTD, segments_BT, key=None):
    """Returns the scores [B, T, labels], float32."""
    if self.pool == "mean":
      same_BTS = (segments_BT[:, :, None] == segments_BT[:, None, :]).astype(jnp.float32)
      share_BTS = same_BTS / same_BTS.sum(-1, keepdims=True)
      x_BTD = share_BTS @ x_BTD.astype(jnp.float32)
    if self.dense is not None:
      x_BTD = layers.ACTIVATIONS[self.activation](self.dense(x_BTD))
    return self.labels(layers.dropout(x_BTD, self.dropout, key))
