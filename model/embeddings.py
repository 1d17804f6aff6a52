"""Builds tables of vectors and a stack's embeddings: positions, types, a norm, a projection."""

import jax.numpy as jnp
from flax import nnx

from model import layers, matmul, positions
from model.config import TransformerConfig
from model.placement import constrain
from model.settings import LEARNED

SINUSOIDS = {"sinusoidal": positions.sinusoidal, "sinusoidal_t2t": positions.sinusoidal_t2t}


class Table(nnx.Embed):
  """A table of vectors, such as those of words."""

  def look_up(self, ids_BT):
    """Returns the vectors [B, T, D] of ids, in the table's dtype."""
    x_VD = constrain(self.embedding[...].astype(self.dtype), "table")
    return jnp.take(x_VD, ids_BT, axis=0)

  def attend(self, x_BTD):
    """Returns the products of `x` with each vector, [B, T, V], in the table's dtype."""
    both = x_BTD, self.embedding[...]
    x_BTD, table_VD = self.promote_dtype(both, dtype=self.dtype)
    return matmul.product(x_BTD, table_VD.T, (((x_BTD.ndim - 1,), (0,)), ((), ())))


def embedding_table(cfg, rows: int, rngs: nnx.Rngs) -> Table:
  """Builds a table of `rows` vectors as wide as the config's words."""
  init = nnx.initializers.normal(cfg.table_std)
  return Table(rows, cfg.table_dim, embedding_init=init, dtype=cfg.dtype, rngs=rngs)


class Embeddings(nnx.Module):
  """Adds a stack's positions and types to its words' vectors, whose table the model holds."""

  def __init__(self, cfg: TransformerConfig, *, types: bool, rngs: nnx.Rngs):
    self.cfg = cfg
    learned, rows = cfg.positions in LEARNED, cfg.max_len + cfg.position_offset
    self.positions = embedding_table(cfg, rows, rngs) if learned else None
    self.types = embedding_table(cfg, cfg.token_types, rngs) if types and cfg.token_types else None
    self.norm = layers.norm(cfg, cfg.table_dim, rngs=rngs) if cfg.embedding_norm else None
    narrow = cfg.table_dim != cfg.dim
    self.projection = layers.dense(cfg, cfg.table_dim, cfg.dim, rngs=rngs) if narrow else None

  def __call__(self, x_BTD, positions_BT, types_BT=None, key=None):
    """Returns the states [B, T, D] that a stack reads; by default all words are of type 0."""
    if self.cfg.embed_scale:
      x_BTD = x_BTD * self.cfg.table_dim**0.5
    if self.positions is not None:
      x_BTD = x_BTD + self.positions.look_up(positions_BT + self.cfg.position_offset)
    elif self.cfg.positions in SINUSOIDS:
      if self.cfg.positions == "sinusoidal_t2t":
        positions_BT = positions_BT + self.cfg.position_offset
      waves_BTD = SINUSOIDS[self.cfg.positions](positions_BT, self.cfg.table_dim)
      x_BTD = x_BTD + waves_BTD.astype(x_BTD.dtype)
    if self.types is not None:
      types_BT = jnp.zeros_like(positions_BT) if types_BT is None else types_BT
      x_BTD = x_BTD + self.types.look_up(types_BT)
    if self.norm is not None:
      x_BTD = self.norm(x_BTD)
    x_BTD = constrain(layers.dropout(x_BTD, self.cfg.dropout, key), "residual")
    return x_BTD if self.projection is None else self.projection(x_BTD)
