"""Defines the block of a stack: attention and feed-forward sublayers with their norms."""

import functools
from typing import NamedTuple

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import layers
from model.attention import Attention, Memory, Pattern, SelfAttention
from model.config import LayerSettings, TransformerConfig
from model.placement import constrain


class EncoderStates(NamedTuple):
  """The encoder's states as a decoder reads them."""

  states: jax.Array  # [B, S, D]
  pattern: Pattern


class Block(nnx.Module):
  """Self-attention, cross-attention (in a decoder with an encoder) and a feed-forward network.

  A sublayer's norm stands where model.norm_position has it; its output norm is there with "both".
  """

  def __init__(
    self, cfg: TransformerConfig, *, causal: bool, cross: bool, norm: bool, rngs: nnx.Rngs
  ):
    """Builds the weights; without `norm`, self-attention reads the block's input as it is."""
    self.pre_norm, self.post_norm = cfg.norm_position != "post", cfg.norm_position == "post"
    self.parallel, self.dropout = cfg.parallel, cfg.dropout
    make_norm = functools.partial(layers.norm, cfg, rngs=rngs)
    self.self_attention = SelfAttention(cfg, causal=causal, rngs=rngs)
    self.self_norm = make_norm() if norm else None
    self.cross_attention = Attention(cfg, rngs=rngs) if cross else None
    self.cross_norm = make_norm() if cross else None
    self.mlp_norm = make_norm()
    self.mlp = layers.FeedForward(cfg, rngs=rngs)
    both = cfg.norm_position == "both"
    self.self_output_norm = make_norm() if both else None
    self.cross_output_norm = make_norm() if both and cross else None
    self.mlp_output_norm = make_norm() if both else None

  def __call__(
    self,
    x_BTD,
    layer: LayerSettings,
    pattern: Pattern,
    positions_BT,
    memory: Memory | None = None,
    cache=None,
    key=None,
  ):
    """Returns the output [B, T, D] and the cache; with a cache, its keys are attended to."""
    keys, read_BTD = layers.split(key, 6), x_BTD
    h_BTD = self._input(x_BTD, self.self_norm)
    y_BTD, cache = self.self_attention(h_BTD, layer, pattern, positions_BT, cache, keys[0])
    x_BTD = self._add(x_BTD, y_BTD, self.self_norm, self.self_output_norm, keys[3])
    if memory is not None:
      h_BTD = self._input(x_BTD, self.cross_norm)
      y_BTD = self.cross_attention.cross(h_BTD, memory, keys[1])
      x_BTD = self._add(x_BTD, y_BTD, self.cross_norm, self.cross_output_norm, keys[4])
    h_BTD = self._input(read_BTD if self.parallel else x_BTD, self.mlp_norm)
    y_BTD = self.mlp(h_BTD, keys[2])
    return self._add(x_BTD, y_BTD, self.mlp_norm, self.mlp_output_norm, keys[5]), cache

  def memory(self, encoded: EncoderStates) -> Memory:
    """Returns the keys and values that this layer attends to."""
    return Memory(*self.cross_attention.keys_values(encoded.states), encoded.pattern)

  def _input(self, x_BTD, norm):
    if self.pre_norm and norm is not None:
      x_BTD = norm(x_BTD)
    return constrain(x_BTD, "sublayer_input")

  def _add(self, x_BTD, y_BTD, norm, output_norm, key):
    if output_norm is not None:
      y_BTD = output_norm(y_BTD)
    y_BTD = checkpoint_name(constrain(y_BTD, "residual"), "sublayer")
    x_BTD = x_BTD + layers.dropout(y_BTD, self.dropout, key)
    return constrain(norm(x_BTD) if self.post_norm else x_BTD, "residual")
