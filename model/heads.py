"""Defines heads on an encoder's states: the masked-LM transform, labels, and projections.

A head is the model's attribute `head`, so that the body's weights keep their paths.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from model import layers

# The state that stands for a segment: of its first or last token, their mean, or their maxima.
POOLS = ("first", "mean", "max", "last")
# The layers before labels: none; dense and activation; the same with a norm behind (ModernBERT).
TRANSFORMS = ("none", "dense", "dense_norm")


class MaskedLmHead(nnx.Module):
  """A dense layer, activation and norm (Devlin et al. 2019), before the model's `logits`."""

  def __init__(self, cfg, *, activation: str = "", rngs: nnx.Rngs):
    """Builds the weights; without `activation` it is the config's."""
    self.activation = activation or cfg.activation
    self.dense = layers.dense(cfg, cfg.dim, cfg.table_dim, rngs=rngs)
    self.norm = layers.norm(cfg, cfg.table_dim, rngs=rngs)

  def __call__(self, x_BTD):
    """Returns the transformed states [..., D], as wide as the words' vectors."""
    return self.norm(layers.ACTIVATIONS[self.activation](self.dense(x_BTD)))


class LabelHead(nnx.Module):
  """Scores `num_labels` labels at every position, from its token or from its whole segment.

  pool: "token" (tags, answers) or one of POOLS, which are meant for a segment's first position
  only. transform: one of TRANSFORMS, with `activation`; "": "dense" (with tanh BERT's pooler) for
  pool="first", else "none". bias: of the labels.
  """

  def __init__(
    self,
    cfg,
    num_labels: int,
    *,
    pool: str,
    activation: str = "tanh",
    transform: str = "",
    bias: bool = True,
    rngs: nnx.Rngs,
  ):
    transform = transform or ("dense" if pool == "first" else "none")
    self.pool, self.activation, self.dropout = pool, activation, cfg.dropout
    self.dense = layers.dense(cfg, cfg.dim, cfg.dim, rngs=rngs) if transform != "none" else None
    self.norm = layers.norm(cfg, rngs=rngs) if transform == "dense_norm" else None
    options = dict(use_bias=bias, dtype=jnp.float32, rngs=rngs)
    self.labels = layers.dense(cfg, cfg.dim, num_labels, **options)

  def __call__(self, x_BTD, segments_BT, key=None):
    """Returns the scores [B, T, labels], float32."""
    if self.pool not in ("token", "first"):
      x_BTD = pool_segments(x_BTD.astype(jnp.float32), segments_BT, self.pool)
    if self.dense is not None:
      x_BTD = layers.ACTIVATIONS[self.activation](self.dense(x_BTD))
    if self.norm is not None:
      x_BTD = self.norm(x_BTD)
    return self.labels(layers.dropout(x_BTD, self.dropout, key))


def pool_segments(x_BTD, segments_BT, pool: str):
  """Returns at each position the pooled state of its segment, [B, T, D]."""
  if pool == "mean":
    same_BTS = (segments_BT[:, :, None] == segments_BT[:, None, :]).astype(jnp.float32)
    return same_BTS / same_BTS.sum(-1, keepdims=True) @ x_BTD

  def over_segments(values_T, segments_T):
    return jax.ops.segment_max(values_T, segments_T, len(segments_T) + 1)[segments_T]

  if pool == "max":
    return jax.vmap(over_segments)(x_BTD, segments_BT)
  places_BT = jnp.broadcast_to(jnp.arange(segments_BT.shape[1]), segments_BT.shape)
  last_BT = jax.vmap(over_segments)(places_BT, segments_BT)
  return jnp.take_along_axis(x_BTD, last_BT[..., None], axis=1)


class Projections(nnx.Module):
  """Dense layers on a text's vector, one after another, each with its activation."""

  def __init__(
    self, sizes: Sequence[int], biases: Sequence[bool], activations: Sequence[str], *, rngs
  ):
    """Builds layers from `sizes[0]` numbers to the next; activation "": none."""
    pairs = zip(sizes, sizes[1:], biases)
    self.projections = nnx.List(
      [nnx.Linear(a, b, use_bias=bias, rngs=rngs) for a, b, bias in pairs]
    )
    self.activations = tuple(activations)

  def __call__(self, x_BD):
    """Returns the projected vectors [B, E]."""
    for dense, activation in zip(self.projections, self.activations):
      x_BD = dense(x_BD)
      x_BD = layers.ACTIVATIONS[activation](x_BD) if activation else x_BD
    return x_BD
