"""Defines the block, and the stack of blocks that is an encoder or a decoder."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import kernels, layers, masks, patterns, positions
from model.attention import Attention, Memory, Pattern
from model.config import TransformerConfig
from model.embeddings import Embeddings
from model.masks import Tokens
from model.placement import constrain


class EncoderStates(NamedTuple):
  """The encoder's states as a decoder reads them."""

  states: jax.Array  # [B, S, D]
  pattern: Pattern


class Block(nnx.Module):
  """Self-attention, cross-attention (in a decoder with an encoder) and a feed-forward network."""

  def __init__(self, cfg: TransformerConfig, *, cross: bool, rngs: nnx.Rngs):
    self.pre_norm, self.dropout = cfg.norm_position == "pre", cfg.dropout
    self.self_attention, self.self_norm = Attention(cfg, rngs=rngs), layers.norm(cfg, rngs=rngs)
    self.cross_attention = Attention(cfg, rngs=rngs) if cross else None
    self.cross_norm = layers.norm(cfg, rngs=rngs) if cross else None
    self.mlp_norm = layers.norm(cfg, rngs=rngs)
    self.mlp = layers.FeedForward(cfg, rngs=rngs)

  def __call__(
    self, x_BTD, pattern: Pattern, positions_BT, memory: Memory | None = None, cache=None, key=None
  ):
    """Returns the output [B, T, D] and the cache; with a cache, its keys are attended to."""
    keys = layers.split(key, 6)
    h_BTD = self._input(x_BTD, self.self_norm)
    y_BTD, cache = self.self_attention(h_BTD, pattern, positions_BT, cache, keys[0])
    x_BTD = self._add(x_BTD, y_BTD, self.self_norm, keys[3])
    if memory is not None:
      h_BTD = self._input(x_BTD, self.cross_norm)
      y_BTD = self.cross_attention.cross(h_BTD, memory, keys[1])
      x_BTD = self._add(x_BTD, y_BTD, self.cross_norm, keys[4])
    y_BTD = self.mlp(self._input(x_BTD, self.mlp_norm), keys[2])
    return self._add(x_BTD, y_BTD, self.mlp_norm, keys[5]), cache

  def memory(self, encoded: EncoderStates) -> Memory:
    """Returns the keys and values that this layer attends to."""
    return Memory(*self.cross_attention.keys_values(encoded.states), encoded.pattern)

  def _input(self, x_BTD, norm):
    return constrain(norm(x_BTD) if self.pre_norm else x_BTD, "sublayer_input")

  def _add(self, x_BTD, y_BTD, norm, key):
    y_BTD = checkpoint_name(constrain(y_BTD, "residual"), "sublayer")
    x_BTD = x_BTD + layers.dropout(y_BTD, self.dropout, key)
    return constrain(x_BTD if self.pre_norm else norm(x_BTD), "residual")


class Stack(nnx.Module):
  """Embeddings, blocks, the relative bias they share, and the last norm of a pre-norm stack."""

  def __init__(self, cfg: TransformerConfig, depth: int, *, causal: bool, cross: bool, rngs):
    self.cfg, self.depth = cfg, depth
    self.rule = masks.MaskRule(causal, cfg.window, cfg.global_tokens)
    self.dot_product = patterns.DotProduct(cfg.scale, cfg.attention_dropout, cfg.attention_impl)
    self.embeddings = Embeddings(cfg, types=not causal, rngs=rngs)
    blocks = [Block(cfg, cross=cross, rngs=rngs) for _ in range(depth)]
    self.blocks = stack_blocks(blocks) if cfg.scan_layers else nnx.List(blocks)
    relative = cfg.positions == "relative"
    self.relative = positions.RelativeBias(cfg, not causal, rngs=rngs) if relative else None
    self.norm = layers.norm(cfg, rngs=rngs) if cfg.norm_position == "pre" else None

  def __call__(
    self, x_BTD, pattern: Pattern, positions_BT, encoded: EncoderStates | None = None, key=None
  ):
    """Returns the stack's states [B, T, D]."""

    def layer(x_BTD, weights_and_key):
      weights, key = weights_and_key
      block = nnx.merge(graph, weights)
      memory = None if encoded is None else block.memory(encoded)
      return block(x_BTD, pattern, positions_BT, memory, key=key)[0], None

    policy = layers.REMAT[self.cfg.remat]
    if policy is not None:
      layer = jax.checkpoint(layer, policy=policy, prevent_cse=not self.cfg.scan_layers)
    keys = layers.split(key, self.depth)
    if self.cfg.scan_layers:
      graph, weights = nnx.split(self.blocks)
      x_BTD, _ = jax.lax.scan(layer, x_BTD, (weights, None if key is None else keys))
    else:
      for block, block_key in zip(self.blocks, keys):
        graph, weights = nnx.split(block)
        x_BTD, _ = layer(x_BTD, (weights, block_key))
    return constrain(self._last(x_BTD), "sublayer_input")

  def extend(self, x_BTD, query: Tokens, key: Tokens, cache: list, memories: list[Memory | None]):
    """Returns the states [B, T, D] of new tokens, and the cache with them.

    `cache` and `memories` have an entry for each layer; `key` holds the tokens of the cache.
    """
    pattern, new = self.full_attention(query, key), []
    for block, layer_cache, memory in zip(self.layers(), cache, memories):
      x_BTD, layer_cache = block(x_BTD, pattern, query.index, memory, layer_cache)
      new.append(layer_cache)
    return self._last(x_BTD), new

  def pattern(self, tokens: Tokens) -> Pattern:
    """Returns the pattern of self-attention of rows of tokens [B, T] that are read at once."""
    segments, window = tokens.segments, self.cfg.window
    whole_tiles = kernels.divides(segments.shape[1])
    if self.cfg.attention_impl == "splash" and tokens.prefix is None and whole_tiles:
      reach = None if window is None else window - 1
      after = 0 if self.rule.causal else reach
      return kernels.SplashAttention(self.cfg.scale, segments, segments, reach, after)
    chunks = patterns.cut(self.rule, tokens)
    if chunks is None:
      return self.full_attention(tokens, tokens)
    bias = self.bias(tokens.map(chunks.own), chunks.keys(tokens))
    first = tokens.map(lambda x_BT: x_BT[:, : chunks.first])
    first_bias = self.bias(first, tokens) if chunks.first else None
    return patterns.ChunkedAttention(chunks, bias, first_bias, self.dot_product)

  def read(self, states_BSD, segments_BT, segments_BS) -> EncoderStates:
    """Returns the encoder's states, to which tokens of the target attend in their own segment."""
    lengths = segments_BT.shape[1], segments_BS.shape[1]
    if self.cfg.attention_impl == "splash" and kernels.divides(*lengths):
      splash = kernels.SplashAttention(self.cfg.scale, segments_BT, segments_BS)
      return EncoderStates(states_BSD, splash)
    bias = masks.mask_bias(masks.same_segment(segments_BT, segments_BS))
    return EncoderStates(states_BSD, patterns.FullAttention(bias, self.dot_product))

  def full_attention(self, query: Tokens, key: Tokens) -> patterns.FullAttention:
    """Returns the pattern of self-attention over all pairs of a query and a key."""
    return patterns.FullAttention(self.bias(query, key), self.dot_product)

  def bias(self, query: Tokens, key: Tokens) -> jax.Array:
    """Returns mask and distances as one bias [..., H or 1, T, S] on the logits of attention."""
    bias = masks.mask_bias(self.rule(query, key))
    if self.relative is not None:
      bias = bias + self.relative(masks.distance(query, key))
    elif self.cfg.positions == "alibi":
      bias = bias + positions.alibi(masks.distance(query, key), self.cfg.num_heads)
    return bias

  def layers(self) -> list[Block]:
    """Returns the blocks one by one, also where their weights are stacked."""
    if not self.cfg.scan_layers:
      return list(self.blocks)
    graph, weights = nnx.split(self.blocks)
    return [
      nnx.merge(graph, jax.tree.map(operator.itemgetter(i), weights)) for i in range(self.depth)
    ]

  def _last(self, x_BTD):
    return x_BTD if self.norm is None else self.norm(x_BTD)


def stack_blocks(blocks: list[Block]) -> Block:
  """Returns one block whose weights have a leading axis, the layers."""
  graph = nnx.graphdef(blocks[0])
  return nnx.merge(graph, jax.tree.map(lambda *w: jnp.stack(w), *map(nnx.state, blocks)))
