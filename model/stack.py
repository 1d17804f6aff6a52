"""Defines the block, and the stack of blocks that is an encoder or a decoder."""

import dataclasses
import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import kernels, layers, masks, patterns, positions
from model.attention import Attention, Memory, Pattern
from model.config import LayerSettings, TransformerConfig
from model.embeddings import Embeddings
from model.masks import Tokens
from model.placement import constrain
from model.settings import RELATIVE

Patterns = dict[int | None, Pattern]  # the pattern of the layers with each window


class EncoderStates(NamedTuple):
  """The encoder's states as a decoder reads them."""

  states: jax.Array  # [B, S, D]
  pattern: Pattern


class Block(nnx.Module):
  """Self-attention, cross-attention (in a decoder with an encoder) and a feed-forward network.

  A sublayer's norm stands where model.norm_position has it; its output norm is there with "both".
  """

  def __init__(self, cfg: TransformerConfig, *, cross: bool, norm: bool = True, rngs: nnx.Rngs):
    """Builds the weights; without `norm`, self-attention reads the block's input as it is."""
    self.pre_norm, self.post_norm = cfg.norm_position != "post", cfg.norm_position == "post"
    self.parallel, self.dropout = cfg.parallel, cfg.dropout
    make_norm = functools.partial(layers.norm, cfg, rngs=rngs)
    self.self_attention = Attention(cfg, rngs=rngs)
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


class Stack(nnx.Module):
  """Embeddings, blocks, the relative bias they share, and the last norm of a pre-norm stack.

  With scan_layers the weights of all blocks but `lead` are stacked. The weights' first axis is the
  layers, of which each step of the scan computes a period (`TransformerConfig.period`).
  """

  def __init__(self, cfg: TransformerConfig, depth: int, *, causal: bool, cross: bool, rngs):
    self.cfg, self.depth, self.causal = cfg, depth, causal
    self.dot_product = patterns.DotProduct(
      cfg.scale, cfg.attention_dropout, cfg.attention_impl, cfg.attention_softcap
    )
    self.embeddings = Embeddings(cfg, types=not causal, rngs=rngs)
    blocks = [
      Block(cfg, cross=cross, norm=cfg.layer(i).norm, rngs=rngs)
      for i in range(1 if cfg.share_layers else depth)
    ]
    lead = cfg.lead(depth)
    self.scanned = depth - lead if cfg.scan_layers else 0
    stacked = self.scanned and not cfg.share_layers
    self.lead = nnx.List(blocks[:lead]) if stacked and lead else None
    self.blocks = stack_blocks(blocks[lead:]) if stacked else nnx.List(blocks)
    relative = cfg.positions in RELATIVE
    self.relative = positions.RelativeBias(cfg, not causal, rngs=rngs) if relative else None
    self.norm = layers.norm(cfg, rngs=rngs) if cfg.norm_position != "post" else None

  def __call__(
    self, x_BTD, patterns: Patterns, positions_BT, encoded: EncoderStates | None = None, key=None
  ):
    """Returns the stack's states [B, T, D]."""
    keys, alone = layers.split(key, self.depth), self.depth - self.scanned

    def run(index, block, x_BTD, key):
      """Returns the states after the layer at `index`, whose weights are those of `block`."""
      settings, (graph, weights) = self.cfg.layer(index), nnx.split(block)

      def layer(x_BTD, weights, key):
        block = nnx.merge(graph, weights)
        memory = None if encoded is None else block.memory(encoded)
        pattern = patterns[settings.window]
        return block(x_BTD, settings, pattern, positions_BT, memory, key=key)[0]

      policy = layers.REMAT[self.cfg.remat]
      if policy is not None:
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=index < alone)
      return layer(x_BTD, weights, key)

    for index, block in enumerate(self._unscanned()):
      x_BTD = run(index, block, x_BTD, keys[index])
    if self.scanned:
      period = self.cfg.period

      def layers_of_period(x_BTD, weights_and_keys):
        for index in range(period):
          weights, key = jax.tree.map(operator.itemgetter(index), weights_and_keys)
          block = self.blocks[0] if graph is None else nnx.merge(graph, weights)
          x_BTD = run(alone + index, block, x_BTD, key)
        return x_BTD, None

      graph, weights = (None, None) if self.cfg.share_layers else nnx.split(self.blocks)
      each = weights, None if key is None else keys[alone:]
      each = jax.tree.map(lambda x: x.reshape(-1, period, *x.shape[1:]), each)
      x_BTD, _ = jax.lax.scan(layers_of_period, x_BTD, each, length=self.scanned // period)
    return constrain(self._last(x_BTD), "sublayer_input")

  def extend(self, x_BTD, query: Tokens, key: Tokens, cache: list, memories: list[Memory | None]):
    """Returns the states [B, T, D] of new tokens, and the cache with them.

    `cache` and `memories` have an entry for each layer; `key` holds the tokens of the cache.
    """
    patterns = {window: self.full_attention(window, query, key) for window in self._windows()}
    new = []
    for index, block in enumerate(self.layers()):
      layer = self.cfg.layer(index)
      pattern, memory = patterns[layer.window], memories[index]
      x_BTD, layer_cache = block(x_BTD, layer, pattern, query.index, memory, cache[index])
      new.append(layer_cache)
    return self._last(x_BTD), new

  def patterns(self, tokens: Tokens) -> Patterns:
    """Returns the patterns of self-attention of rows of tokens [B, T] that are read at once."""
    return {window: self._pattern(window, tokens) for window in self._windows()}

  def _windows(self) -> list[int | None]:
    return list(dict.fromkeys(self.cfg.layer(index).window for index in range(self.depth)))

  def _rule(self, window) -> masks.MaskRule:
    return masks.MaskRule(self.causal, window, self.cfg.global_tokens)

  def _pattern(self, window: int | None, tokens: Tokens) -> Pattern:
    segments, whole_tiles = tokens.segments, kernels.divides(tokens.segments.shape[1])
    if self.cfg.attention_impl == "splash" and tokens.prefix is None and whole_tiles:
      reach = None if window is None else window - 1
      after = 0 if self.causal else reach
      return self._splash(segments, segments, reach, after)
    chunks = patterns.cut(self._rule(window), tokens)
    if chunks is None:
      return self.full_attention(window, tokens, tokens)
    bias = self.bias(window, tokens.map(chunks.own), chunks.keys(tokens))
    first = tokens.map(lambda x_BT: x_BT[:, : chunks.first])
    first_bias = self.bias(window, first, tokens) if chunks.first else None
    return patterns.ChunkedAttention(chunks, bias, first_bias, self.dot_product)

  def read(self, states_BSD, segments_BT, segments_BS) -> EncoderStates:
    """Returns the encoder's states, to which tokens of the target attend in their own segment."""
    lengths = segments_BT.shape[1], segments_BS.shape[1]
    if self.cfg.attention_impl == "splash" and kernels.divides(*lengths):
      return EncoderStates(states_BSD, self._splash(segments_BT, segments_BS))
    bias = masks.mask_bias(masks.same_segment(segments_BT, segments_BS))
    return EncoderStates(states_BSD, patterns.FullAttention(bias, self.dot_product))

  def _splash(self, segments_BT, segments_BS, before=None, after=None):
    cap = self.cfg.attention_softcap
    return kernels.SplashAttention(self.cfg.scale, segments_BT, segments_BS, before, after, cap)

  def full_attention(self, window: int | None, query: Tokens, key: Tokens):
    """Returns the pattern of self-attention over all pairs of a query and a key."""
    return patterns.FullAttention(self.bias(window, query, key), self.dot_product)

  def bias(self, window: int | None, query: Tokens, key: Tokens) -> jax.Array:
    """Returns mask and distances as one bias [..., H or 1, T, S] on the logits of attention."""
    bias = masks.mask_bias(self._rule(window)(query, key))
    if self.relative is not None:
      bias = bias + self.relative(masks.distance(query, key))
    elif self.cfg.positions == "alibi":
      bias = bias + positions.alibi(masks.distance(query, key), self.cfg.num_heads)
    return bias

  def layers(self) -> list[Block]:
    """Returns the blocks one by one, also where their weights are stacked or shared."""
    if not self.scanned or self.cfg.share_layers:
      return self._unscanned() + [self.blocks[0]] * self.scanned
    graph, weights = nnx.split(self.blocks)
    return self._unscanned() + [
      nnx.merge(graph, jax.tree.map(operator.itemgetter(i), weights)) for i in range(self.scanned)
    ]

  def _unscanned(self) -> list[Block]:
    if self.cfg.share_layers:
      return [self.blocks[0]] * (self.depth - self.scanned)
    return list(self.blocks if not self.scanned else self.lead or ())

  def unroll(self) -> None:
    """Replaces stacked or shared weights by a list of all blocks, which are no longer scanned."""
    self.blocks, self.lead, self.scanned = nnx.List(self.layers()), None, 0
    self.cfg = dataclasses.replace(self.cfg, scan_layers=False, share_layers=False, remat="none")

  def _last(self, x_BTD):
    return x_BTD if self.norm is None else self.norm(x_BTD)


def stack_blocks(blocks: list[Block]) -> Block:
  """Returns one block whose weights have a leading axis, the layers."""
  graph = nnx.graphdef(blocks[0])
  return nnx.merge(graph, jax.tree.map(lambda *w: jnp.stack(w), *map(nnx.state, blocks)))
