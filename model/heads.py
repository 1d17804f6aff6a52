"""What stands on an encoder's hidden states: the masked-LM transform, and labels for tokens.

A head is an attribute `head` of the Transformer, so that the body's weights keep their paths.
"""

import jax.numpy as jnp
from flax import nnx

from model import layers
from model.config import TransformerConfig


class MaskedLmHead(nnx.Module):
  """Dense, activation, norm (Devlin et al. 2019); the model's `logits` turn that into words."""

  def __init__(self, cfg: TransformerConfig, *, rngs: nnx.Rngs):
    self.activation = cfg.activation
    self.dense = nnx.Linear(
      cfg.dim,
      cfg.table_dim,
      kernel_init=layers.initializer(cfg.init_std),
      dtype=cfg.dtype,
      rngs=rngs,
    )
    self.norm = layers.norm(cfg.norm, cfg.table_dim, eps=cfg.norm_eps, dtype=cfg.dtype, rngs=rngs)

  def __call__(self, x_BTD):
    """[..., D]."""
    return self.norm(layers.ACTIVATIONS[self.activation](self.dense(x_BTD)))


class LabelHead(nnx.Module):
  """Scores of `num_labels` labels at every position, of the token or of its whole segment.

  pool: "token" (tags, answers); "first", through a dense layer and an activation (tanh: BERT's
  pooler), or "mean" of the segment: both mean something at a segment's first position only.
  """

  def __init__(
    self,
    cfg: TransformerConfig,
    num_labels: int,
    *,
    pool: str,
    activation: str = "tanh",
    rngs: nnx.Rngs,
  ):
    self.pool, self.activation, self.dropout = pool, activation, cfg.dropout
    init = layers.initializer(cfg.init_std)
    self.dense = (
      nnx.Linear(cfg.dim, cfg.dim, kernel_init=init, dtype=cfg.dtype, rngs=rngs)
      if pool == "first"
      else None
    )
    self.labels = nnx.Linear(cfg.dim, num_labels, kernel_init=init, dtype=jnp.float32, rngs=rngs)

  def __call__(self, x_BTD, segments_BT, key=None):
    """[B, T, labels], float32."""
    if self.pool == "mean":
      same_BTS = (segments_BT[:, :, None] == segments_BT[:, None, :]).astype(jnp.float32)
      share_BTS = same_BTS / same_BTS.sum(-1, keepdims=True)
      x_BTD = share_BTS @ x_BTD.astype(jnp.float32)
    if self.dense is not None:
      x_BTD = layers.ACTIVATIONS[self.activation](self.dense(x_BTD))
    return self.labels(layers.dropout(x_BTD, self.dropout, key))
