"""Blocks, and the stack of them that is an encoder or a decoder."""

import functools
import operator
import typing

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import kernels, layers, masks, placement, positions
from model.config import TransformerConfig
from model.embeddings import Embeddings


class Memory(typing.NamedTuple):
  """What a decoder sees of the encoder."""

  states: jax.Array  # [B, S, D]
  view: masks.Whole | kernels.Splash


class Cross(typing.NamedTuple):
  """What a decoder layer makes of it."""

  keys: jax.Array  # [B, S, G, K]
  values: jax.Array  # [B, S, G, K]
  view: masks.Whole | kernels.Splash


class Block(nnx.Module):
  """Self-attention, cross-attention (in a decoder with an encoder), feed-forward."""

  def __init__(self, cfg: TransformerConfig, *, cross: bool, rngs: nnx.Rngs):
    self.cfg = cfg
    attention = functools.partial(
      layers.Attention,
      cfg.dim,
      cfg.num_heads,
      cfg.kv_heads,
      cfg.head_size,
      bias=cfg.bias,
      scale=cfg.head_size**-0.5 if cfg.attention_scale is None else cfg.attention_scale,
      dropout=cfg.attention_dropout,
      init_std=cfg.init_std,
      impl=cfg.attention_impl,
      kept=cfg.remat == "none",
      dtype=cfg.dtype,
      rngs=rngs,
    )
    norm = functools.partial(
      layers.norm, cfg.norm, cfg.dim, eps=cfg.norm_eps, dtype=cfg.dtype, rngs=rngs
    )
    self.self_attention, self.self_norm = attention(), norm()
    self.cross_attention, self.cross_norm = (attention(), norm()) if cross else (None, None)
    self.mlp_norm = norm()
    self.mlp = layers.FeedForward(
      cfg.dim,
      cfg.mlp_dim,
      activation=cfg.activation,
      gated=cfg.gated,
      bias=cfg.bias,
      dropout=cfg.activation_dropout,
      init_std=cfg.init_std,
      kept=cfg.remat == "none",
      dtype=cfg.dtype,
      rngs=rngs,
    )

  def __call__(self, x_BTD, view, positions_BT, cross: Cross | None = None, cache=None, key=None):
    """[B, T, D] and this layer's cache; with one the keys seen are the cache's."""
    attend_key, cross_key, mlp_key, *drop_keys = layers.split(key, 6)

    def attend(h_BTD):
      nonlocal cache
      q_BTHK = self.self_attention.queries(h_BTD)
      k_BSGK, v_BSGK = self.self_attention.keys_values(h_BTD)
      if self.cfg.positions == "rotary":
        q_BTHK = positions.rotary(q_BTHK, positions_BT, self.cfg.rope_theta)
        k_BSGK = positions.rotary(k_BSGK, positions_BT, self.cfg.rope_theta)
      if cache is not None:
        new = dict(keys=k_BSGK, values=v_BSGK)
        cache = {name: layers.written(cache[name], new[name], positions_BT) for name in new}
        k_BSGK, v_BSGK = cache["keys"], cache["values"]
      return self.self_attention.attend(q_BTHK, k_BSGK, v_BSGK, view, attend_key)

    def cross_attend(h_BTD):
      return self.cross_attention.attend(self.cross_attention.queries(h_BTD), *cross, cross_key)

    x_BTD = self._residual(x_BTD, attend, self.self_norm, drop_keys[0])
    if cross is not None:
      x_BTD = self._residual(x_BTD, cross_attend, self.cross_norm, drop_keys[1])
    x_BTD = self._residual(
      x_BTD, lambda h_BTD: self.mlp(h_BTD, mlp_key), self.mlp_norm, drop_keys[2]
    )
    return x_BTD, cache

  def seen(self, memory: Memory) -> Cross:
    return Cross(*self.cross_attention.keys_values(memory.states), memory.view)

  def _residual(self, x_BTD, sublayer, norm, key):
    before = self.cfg.norm_position == "pre"
    y_BTD = sublayer(placement.read(norm(x_BTD) if before else x_BTD))
    y_BTD = checkpoint_name(placement.between(y_BTD), "sublayer")
    x_BTD = x_BTD + layers.dropout(y_BTD, self.cfg.dropout, key)
    return placement.between(x_BTD if before else norm(x_BTD))


class Stack(nnx.Module):
  """Embeddings, blocks, the relative bias they share, and the last norm of a pre-norm stack."""

  def __init__(self, cfg: TransformerConfig, depth: int, *, causal: bool, cross: bool, rngs):
    self.cfg, self.depth = cfg, depth
    self.rule = masks.Rule(causal, cfg.window, cfg.global_tokens)
    self.embeddings = Embeddings(cfg, types=not causal, rngs=rngs)
    blocks = [Block(cfg, cross=cross, rngs=rngs) for _ in range(depth)]
    self.blocks = stacked(blocks) if cfg.scan_layers else nnx.List(blocks)
    relative = functools.partial(
      positions.RelativeBias,
      cfg.num_heads,
      cfg.relative_buckets,
      cfg.relative_max_distance,
      bidirectional=not causal,
      rngs=rngs,
    )
    self.relative = relative() if cfg.positions == "relative" else None
    norm = functools.partial(
      layers.norm, cfg.norm, cfg.dim, eps=cfg.norm_eps, dtype=cfg.dtype, rngs=rngs
    )
    self.norm = norm() if cfg.norm_position == "pre" else None

  def view(self, row: masks.Side):
    """What the tokens of `row` attend to, when all are read at once."""
    if self.cfg.attention_impl == "splash" and row.prefix is None:
      reach = None if self.cfg.window is None else self.cfg.window - 1
      after = 0 if self.rule.causal else reach
      if kernels.divides(row.segments.shape[1]):
        return kernels.Splash(row.segments, row.segments, reach, after)
    return masks.view(self.rule, row, self.bias)

  def memory(self, states_BSD, segments_BT, segments_BS) -> Memory:
    """What the tokens of the target see of the encoder: their own segment."""
    lengths = segments_BT.shape[1], segments_BS.shape[1]
    if self.cfg.attention_impl == "splash" and kernels.divides(*lengths):
      return Memory(states_BSD, kernels.Splash(segments_BT, segments_BS))
    bias = masks.mask_bias(masks.same(segments_BT, segments_BS))
    return Memory(states_BSD, masks.Whole(bias))

  def bias(self, query: masks.Side, key: masks.Side) -> jax.Array:
    """[..., H or 1, T, S]: mask and distances as one bias on the attention logits."""
    bias = masks.mask_bias(self.rule(query, key))
    if self.relative is not None:
      bias = bias + self.relative(masks.distance(query, key))
    elif self.cfg.positions == "alibi":
      bias = bias + positions.alibi(masks.distance(query, key), self.cfg.num_heads)
    return bias

  def layers(self) -> list[Block]:
    """The blocks one by one, also where their weights are stacked."""
    if not self.cfg.scan_layers:
      return list(self.blocks)
    graph, weights = nnx.split(self.blocks)
    return [
      nnx.merge(graph, jax.tree.map(operator.itemgetter(i), weights)) for i in range(self.depth)
    ]

  def __call__(self, x_BTD, view, positions_BT, memory: Memory | None = None, key=None):
    """[B, T, D]."""

    def layer(x_BTD, weights_and_key):
      weights, key = weights_and_key
      block = nnx.merge(graph, weights)
      cross = memory and block.seen(memory)
      return block(x_BTD, view, positions_BT, cross, key=key)[0], None

    keep = layers.REMAT[self.cfg.remat]
    if keep is not None:
      layer = jax.checkpoint(layer, policy=keep, prevent_cse=not self.cfg.scan_layers)
    keys = layers.split(key, self.depth)
    if self.cfg.scan_layers:
      graph, weights = nnx.split(self.blocks)
      x_BTD, _ = jax.lax.scan(layer, x_BTD, (weights, None if key is None else keys))
    else:
      for block, block_key in zip(self.blocks, keys):
        graph, weights = nnx.split(block)
        x_BTD, _ = layer(x_BTD, (weights, block_key))
    return placement.read(x_BTD if self.norm is None else self.norm(x_BTD))

  def cached(self, x_BTD, view, positions_BT, cross, cache):
    """[B, T, D] and the new cache, a list of one a layer; `cross` too, or None."""
    new_cache = []
    for i, block in enumerate(self.layers()):
      x_BTD, layer_cache = block(x_BTD, view, positions_BT, cross and cross[i], cache[i])
      new_cache.append(layer_cache)
    return (x_BTD if self.norm is None else self.norm(x_BTD)), new_cache


def stacked(blocks: list[Block]) -> Block:
  """One block whose weights have a leading axis, the layers."""
  graph = nnx.graphdef(blocks[0])
  return nnx.merge(graph, jax.tree.map(lambda *w: jnp.stack(w), *map(nnx.state, blocks)))
