"""From the vectors of words to what a stack reads: positions, types, a norm, a projection."""

import functools

import jax.numpy as jnp
from flax import nnx

from model import layers, matmul, placement, positions
from model.config import TransformerConfig


def look_up(table: nnx.Embed, ids_BT):
  """Vectors [B, T, D] of ids, in the table's dtype."""
  x_VD = placement.table(table.embedding[...].astype(table.dtype))
  return jnp.take(x_VD, ids_BT, axis=0)


def attend(table: nnx.Embed, x_BTD):
  """Products with the vector of each word, [B, T, V], in the table's dtype."""
  both = x_BTD, table.embedding[...]
  x_BTD, table_VD = table.promote_dtype(both, dtype=table.dtype)
  return matmul.product(x_BTD, table_VD.T, (((x_BTD.ndim - 1,), (0,)), ((), ())))


class Embeddings(nnx.Module):
  """What a stack adds to its words' vectors, whose table may be shared and is the model's."""

  def __init__(self, cfg: TransformerConfig, *, types: bool, rngs: nnx.Rngs):
    self.cfg = cfg
    table = functools.partial(
      nnx.Embed,
      features=cfg.table_dim,
      embedding_init=nnx.initializers.normal(cfg.table_std),
      dtype=cfg.dtype,
      rngs=rngs,
    )
    learned = cfg.positions == "learned"
    self.positions = table(cfg.max_len + cfg.position_offset) if learned else None
    self.types = table(cfg.token_types) if types and cfg.token_types else None
    self.norm = (
      layers.norm(cfg.norm, cfg.table_dim, eps=cfg.norm_eps, dtype=cfg.dtype, rngs=rngs)
      if cfg.embedding_norm
      else None
    )
    self.projection = (
      nnx.Linear(
        cfg.table_dim,
        cfg.dim,
        kernel_init=layers.initializer(cfg.init_std),
        dtype=cfg.dtype,
        rngs=rngs,
      )
      if cfg.table_dim != cfg.dim
      else None
    )

  def __call__(self, x_BTD, positions_BT, types_BT=None, key=None):
    """Hidden states [B, T, D] of the words' vectors; without types all are of type 0."""
    if self.cfg.embed_scale:
      x_BTD = x_BTD * self.cfg.table_dim**0.5
    if self.positions is not None:
      x_BTD = x_BTD + look_up(self.positions, positions_BT + self.cfg.position_offset)
    elif self.cfg.positions == "sinusoidal":
      x_BTD = x_BTD + positions.sinusoidal(positions_BT, self.cfg.table_dim).astype(x_BTD.dtype)
    if self.types is not None:
      types_BT = jnp.zeros_like(positions_BT) if types_BT is None else types_BT
      x_BTD = x_BTD + look_up(self.types, types_BT)
    if self.norm is not None:
      x_BTD = self.norm(x_BTD)
    x_BTD = placement.between(layers.dropout(x_BTD, self.cfg.dropout, key))
    return x_BTD if self.projection is None else self.projection(x_BTD)
