"""Defines the stack of blocks that is an encoder or a decoder."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
from flax import nnx

from model import blocks, kernels, layers, masks, patterns, positions
from model.attention import Memory, Pattern
from model.block import Block, EncoderStates
from model.config import TransformerConfig
from model.convolution import Convolution
from model.disentangled import DistanceStates
from model.embeddings import Embeddings
from model.masks import Tokens
from model.placement import constrain
from model.settings import DISENTANGLED, RELATIVE

Patterns = dict[int | None, Pattern]  # the pattern of the layers with each window


class Stack(nnx.Module):
  """Embeddings, blocks, the relative bias they share, and the last norm of a pre-norm stack.

  With scan_layers the weights of all blocks but `lead` are stacked. The weights' first axis is the
  layers, of which each step of the scan computes a period (`TransformerConfig.period`).
  """

  def __init__(self, cfg: TransformerConfig, depth: int, *, causal: bool, cross: bool, rngs):
    self.cfg, self.depth, self.causal = cfg, depth, causal
    self.dot_product = patterns.DotProduct(
      cfg.self_scale, cfg.attention_dropout, cfg.attention_impl, cfg.attention_softcap
    )
    self.embeddings = Embeddings(cfg, types=not causal, rngs=rngs)
    every = [
      Block(cfg, causal=causal, cross=cross, norm=cfg.layer(index).norm, rngs=rngs)
      for index in range(1 if cfg.share_layers else depth)
    ]
    lead = cfg.lead(depth)
    self.scanned = depth - lead if cfg.scan_layers else 0
    stacked = self.scanned and not cfg.share_layers
    self.lead = nnx.List(every[:lead]) if stacked and lead else None
    self.blocks = stack_blocks(every[lead:]) if stacked else nnx.List(every)
    relative, own = cfg.positions in RELATIVE, cfg.relative_per_layer
    make_bias = functools.partial(positions.RelativeBias, cfg, not causal, rngs=rngs)
    self.relative = make_bias() if relative and not own else None
    self.block_relative = make_bias() if relative and cfg.global_blocks else None
    disentangled = cfg.positions in DISENTANGLED
    self.distance_states = DistanceStates(cfg, rngs=rngs) if disentangled else None
    self.norm = layers.norm(cfg, rngs=rngs) if cfg.norm_position != "post" else None
    self.convolution = Convolution(cfg, rngs=rngs) if cfg.convolution else None

  def __call__(
    self,
    x_BTD,
    patterns: Patterns,
    positions_BT,
    encoded: EncoderStates | None = None,
    key=None,
    segments_BT=None,
  ):
    """Returns the stack's states [B, T, D]; a convolution reads the `segments` [B, T]."""
    keys, alone = layers.split(key, self.depth), self.depth - self.scanned
    embedded_BTD = x_BTD

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
      if index == 0 and self.convolution is not None:
        x_BTD = self.convolution(embedded_BTD, x_BTD, segments_BT)
    if self.scanned:
      period = self.cfg.period

      def layers_of_period(x_BTD, weights_and_keys):
        for index, (weights, key) in enumerate(weights_and_keys):
          block = self.blocks[0] if graph is None else nnx.merge(graph, weights)
          x_BTD = run(alone + index, block, x_BTD, key)
        return x_BTD, None

      graph, weights = (None, None) if self.cfg.share_layers else nnx.split(self.blocks)
      whole = weights, None if key is None else keys[alone:]
      # sliced here: a slice in the body is kept for the backward pass, gathered
      each = [
        jax.tree.map(lambda x, index=index: x[index::period], whole) for index in range(period)
      ]
      x_BTD, _ = jax.lax.scan(layers_of_period, x_BTD, each, length=self.scanned // period)
    return constrain(self._last(x_BTD), "sublayer_input")

  def extend(
    self, x_BTD, query: Tokens, key: Tokens, cache: list, memories: list[Memory | None], mask=True
  ):
    """Returns the states [B, T, D] of new tokens, and the cache with them.

    `cache` and `memories` have an entry for each layer; `key` holds the tokens of the cache, to
    which the new ones attend where `mask` [B, T, S] is True, too.
    """
    shared = self._shared(key)
    patterns = {
      window: self.full_attention(window, query, key, shared, mask) for window in self._windows()
    }
    new = []
    for index, block in enumerate(self.layers()):
      layer = self.cfg.layer(index)
      pattern, memory = patterns[layer.window], memories[index]
      x_BTD, layer_cache = block(x_BTD, layer, pattern, query.index, memory, cache[index])
      new.append(layer_cache)
    return self._last(x_BTD), new

  def patterns_of(self, tokens: Tokens) -> Patterns:
    """Returns the patterns of self-attention of rows of tokens [B, T] that are read at once."""
    shared = self._shared(tokens)
    return {window: self._pattern(window, tokens, shared) for window in self._windows()}

  def _windows(self) -> list[int | None]:
    return list(dict.fromkeys(self.cfg.layer(index).window for index in range(self.depth)))

  def _rule(self, window) -> masks.MaskRule:
    return masks.MaskRule(self.causal, window, self.cfg.global_tokens)

  def _shared(self, tokens: Tokens) -> patterns.Shared:
    states = is_global = row_blocks = None
    if self.cfg.positions in DISENTANGLED:
      states = self.distance_states()
    if self.cfg.global_projections:
      is_global = self._rule(None).is_global(tokens)
    if self.cfg.global_blocks:
      row_blocks = blocks.cut(tokens.segments, self.cfg.global_blocks, self.block_relative)
    return patterns.Shared(states, is_global, row_blocks)

  def _pattern(self, window: int | None, tokens: Tokens, shared: patterns.Shared) -> Pattern:
    segments, whole_tiles = tokens.segments, kernels.divides(tokens.segments.shape[1])
    if self.cfg.attention_impl == "splash" and tokens.prefix is None and whole_tiles:
      reach = None if window is None else window - 1
      after = 0 if self.causal else reach
      return self._splash(segments, segments, reach, after)
    chunks = patterns.cut(self._rule(window), tokens)
    if chunks is None:
      return self.full_attention(window, tokens, tokens, shared)
    own, keys = tokens.map(chunks.own), chunks.keys(tokens)
    first = tokens.map(lambda x_BT: x_BT[:, : chunks.first])
    first_bias = self.bias(window, first, tokens) if chunks.first else None
    distances = self._own_distance(own, keys), self._own_distance(first, tokens)
    bias = self.bias(window, own, keys)
    return patterns.ChunkedAttention(chunks, bias, first_bias, self.dot_product, *distances, shared)

  def read(self, states_BSD, segments_BT, segments_BS) -> EncoderStates:
    """Returns the encoder's states, to which tokens of the target attend in their own segment."""
    lengths = segments_BT.shape[1], segments_BS.shape[1]
    if self.cfg.attention_impl == "splash" and kernels.divides(*lengths):
      return EncoderStates(states_BSD, self._splash(segments_BT, segments_BS))
    bias = masks.mask_bias(masks.same_segment(segments_BT, segments_BS))
    dot_product = dataclasses.replace(self.dot_product, scale=self.cfg.scale)
    return EncoderStates(states_BSD, patterns.FullAttention(bias, dot_product))

  def _splash(self, segments_BT, segments_BS, before=None, after=None):
    cap = self.cfg.attention_softcap
    return kernels.SplashAttention(self.cfg.scale, segments_BT, segments_BS, before, after, cap)

  def full_attention(
    self, window: int | None, query: Tokens, key: Tokens, shared: patterns.Shared, mask=True
  ) -> patterns.FullAttention:
    """Returns the pattern of self-attention over all pairs of a query and a key."""
    bias, distance = self.bias(window, query, key, mask), self._own_distance(query, key)
    return patterns.FullAttention(bias, self.dot_product, distance, shared)

  def _own_distance(self, query: Tokens, key: Tokens):
    """Returns the distances if layers have a bias of their own."""
    own = self.cfg.relative_per_layer or self.cfg.positions in DISENTANGLED
    return masks.distance(query, key) if own else None

  def bias(self, window: int | None, query: Tokens, key: Tokens, mask=True) -> jax.Array:
    """Returns mask and distances as one bias [..., H or 1, T, S] on the logits of attention."""
    bias = masks.mask_bias(self._rule(window)(query, key) & mask)
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
