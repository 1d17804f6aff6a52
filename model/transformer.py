"""The Transformer: an encoder, a decoder, or both, from one block.

A model is four methods, and tasks and decoders use nothing else:
  encode(source)                  -> hidden states [B, S, D]
  decode(inputs, memory)          -> hidden states [B, T, D]; `logits` turns them into words
  init_cache(memory)              -> an empty cache
  decode_step(token, cache)       -> logits [B, V] of the next token, and the cache one longer
It holds weights and nothing else: dropout takes its key as an argument, no key means none.
"""

import functools
import operator
import typing

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import layers, positions
from model.config import TransformerConfig
from model.embeddings import Embeddings


class Memory(typing.NamedTuple):
  """What a decoder sees of the encoder."""

  states: jax.Array  # [B, S, D]
  bias: jax.Array  # [B, 1, T, S]


class Cross(typing.NamedTuple):
  """What a decoder layer makes of it."""

  keys: jax.Array  # [B, S, G, K]
  values: jax.Array  # [B, S, G, K]
  bias: jax.Array  # [B, 1, T, S]


# What the forward pass keeps of each layer for the backward pass, which computes the rest again;
# None: everything, and nothing is computed twice.
REMAT = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "sublayers": jax.checkpoint_policies.save_only_these_names("sublayer"),
}


def mask_bias(mask_BTS: jax.Array) -> jax.Array:
  """[B, 1, T, S] float32: 0 where attention may look, about -1e9 elsewhere."""
  return jnp.where(mask_BTS, 0.0, layers.NEG_INF)[:, None]


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
      dtype=cfg.dtype,
      rngs=rngs,
    )

  def __call__(self, x_BTD, bias, positions_BT, cross: Cross | None = None, cache=None, key=None):
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
      return self.self_attention.attend(q_BTHK, k_BSGK, v_BSGK, bias, attend_key)

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
    return Cross(*self.cross_attention.keys_values(memory.states), memory.bias)

  def _residual(self, x_BTD, sublayer, norm, key):
    before = self.cfg.norm_position == "pre"
    y_BTD = checkpoint_name(sublayer(norm(x_BTD) if before else x_BTD), "sublayer")
    x_BTD = x_BTD + layers.dropout(y_BTD, self.cfg.dropout, key)
    return x_BTD if before else norm(x_BTD)


class Stack(nnx.Module):
  """Embeddings, blocks, the relative bias they share, and the last norm of a pre-norm stack."""

  def __init__(self, cfg: TransformerConfig, depth: int, *, causal: bool, cross: bool, rngs):
    self.cfg, self.causal, self.depth = cfg, causal, depth
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

  def bias(self, mask_BTS, query_place_BT, key_place_BS):
    """Mask and distances as one bias on the attention logits."""
    distance_BTS = key_place_BS[:, None, :] - query_place_BT[:, :, None]
    if self.cfg.window is not None:
      mask_BTS = mask_BTS & (jnp.abs(distance_BTS) < self.cfg.window)
    bias = mask_bias(mask_BTS)
    if self.relative is not None:
      bias = bias + self.relative(distance_BTS)
    elif self.cfg.positions == "alibi":
      bias = bias + positions.alibi(distance_BTS, self.cfg.num_heads)
    return bias

  def layers(self) -> list[Block]:
    """The blocks one by one, also where their weights are stacked."""
    if not self.cfg.scan_layers:
      return list(self.blocks)
    graph, weights = nnx.split(self.blocks)
    return [
      nnx.merge(graph, jax.tree.map(operator.itemgetter(i), weights)) for i in range(self.depth)
    ]

  def __call__(self, x_BTD, bias, positions_BT, memory: Memory | None = None, key=None):
    """[B, T, D]."""

    def layer(x_BTD, weights_and_key):
      weights, key = weights_and_key
      block = nnx.merge(graph, weights)
      cross = memory and block.seen(memory)
      return block(x_BTD, bias, positions_BT, cross, key=key)[0], None

    keep = REMAT[self.cfg.remat]
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
    return x_BTD if self.norm is None else self.norm(x_BTD)

  def cached(self, x_BTD, bias, positions_BT, cross, cache):
    """[B, T, D] and the new cache, a list of one a layer; `cross` too, or None."""
    new_cache = []
    for i, block in enumerate(self.layers()):
      x_BTD, layer_cache = block(x_BTD, bias, positions_BT, cross and cross[i], cache[i])
      new_cache.append(layer_cache)
    return (x_BTD if self.norm is None else self.norm(x_BTD)), new_cache


def stacked(blocks: list[Block]) -> Block:
  """One block whose weights have a leading axis, the layers."""
  graph = nnx.graphdef(blocks[0])
  return nnx.merge(graph, jax.tree.map(lambda *w: jnp.stack(w), *map(nnx.state, blocks)))


class Transformer(nnx.Module):
  """Encoder and/or decoder with their embeddings."""

  def __init__(self, cfg: TransformerConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    embed = functools.partial(
      nnx.Embed,
      features=cfg.table_dim,
      embedding_init=nnx.initializers.normal(cfg.table_std),
      dtype=cfg.dtype,
      rngs=rngs,
    )
    both = bool(cfg.encoder_layers and cfg.decoder_layers)
    self.embedding = embed(cfg.vocab_size)
    self.source_embedding = embed(cfg.vocab_size) if both and not cfg.share_embeddings else None
    stack = functools.partial(Stack, cfg, rngs=rngs)
    E, D = cfg.encoder_layers, cfg.decoder_layers
    self.encoder = stack(E, causal=False, cross=False) if E else None
    self.decoder = stack(D, causal=True, cross=both) if D else None
    output = functools.partial(
      nnx.Linear,
      cfg.table_dim,
      cfg.vocab_size,
      use_bias=False,
      kernel_init=layers.initializer(cfg.init_std),
      dtype=cfg.dtype,
      rngs=rngs,
    )
    self.output = None if cfg.tie_output else output()
    self.output_bias = nnx.Param(jnp.zeros(cfg.vocab_size)) if cfg.output_bias else None

  def encode(self, source_BS, segments=None, positions=None, key=None, *, types=None):
    """Hidden states [B, S, D]. Segments (0 = padding) and positions as in a packed batch;
    without them a row is one segment up to its padding (id 0). `types` [B, S] are 0 without."""
    segments_BS, positions_BS = _row(source_BS, segments, positions)
    embed_key, stack_key = layers.split(key, 2)
    x_BSD = (self.source_embedding or self.embedding)(source_BS)
    x_BSD = self.encoder.embeddings(x_BSD, positions_BS, types, embed_key)
    place_BS = jnp.arange(source_BS.shape[1])[None]
    mask_BSS = _same(segments_BS, segments_BS)
    bias = self.encoder.bias(mask_BSS, place_BS, place_BS)
    return self.encoder(x_BSD, bias, positions_BS, key=stack_key)

  def decode(
    self,
    inputs_BT,
    memory_BSD=None,
    memory_segments=None,
    segments=None,
    positions=None,
    key=None,
    *,
    prefix=None,
  ):
    """Hidden states [B, T, D] of all positions at once; each sees itself, those before and, of its
    segment, those where `prefix` [B, T] is not 0."""
    segments_BT, positions_BT = _row(inputs_BT, segments, positions)
    embed_key, stack_key = layers.split(key, 2)
    x_BTD = self._embed(inputs_BT, positions_BT, embed_key)
    place_BT = jnp.arange(inputs_BT.shape[1])[None]
    visible_BTT = place_BT[:, None, :] <= place_BT[:, :, None]
    if prefix is not None:
      visible_BTT |= (prefix > 0)[:, None, :]
    mask_BTT = _same(segments_BT, segments_BT) & visible_BTT
    bias = self.decoder.bias(mask_BTT, place_BT, place_BT)
    memory = None
    if memory_BSD is not None:
      memory = Memory(memory_BSD, mask_bias(_same(segments_BT, memory_segments)))
    return self.decoder(x_BTD, bias, positions_BT, memory, stack_key)

  def logits(self, x_BTD):
    """[..., V] float32."""
    table = self.embedding.attend if self.output is None else self.output
    logits_BTV = table(x_BTD).astype(jnp.float32) * self.cfg.logits_scale
    return logits_BTV if self.output_bias is None else logits_BTV + self.output_bias[...]

  def init_cache(self, batch: int, max_len: int, memory_BSD=None, memory_segments=None):
    """An empty cache for `max_len` tokens, every leaf [B, ...].

    `moving` changes with each token and follows its beam; `fixed` is the memory's keys and values.
    """
    cfg = self.cfg
    empty = jnp.zeros((batch, max_len, cfg.kv_heads, cfg.head_size), cfg.dtype)
    moving = dict(
      length=jnp.zeros(batch, jnp.int32),
      layers=[dict(keys=empty, values=empty) for _ in range(self.decoder.depth)],
    )
    fixed = None
    if memory_BSD is not None:
      memory = Memory(memory_BSD, mask_bias((memory_segments > 0)[:, None, :]))
      fixed = [block.seen(memory) for block in self.decoder.layers()]
    return dict(moving=moving, fixed=fixed)

  def prefill(self, prompt_BT, length_B, cache):
    """The cache after all but the last token of prompts whose tokens see the whole of them."""
    place_BS = jnp.arange(cache["moving"]["layers"][0]["keys"].shape[1])[None]
    positions_BT = place_BS[:, : prompt_BT.shape[1]]
    seen_BTS = jnp.repeat((place_BS < length_B[:, None])[:, None], prompt_BT.shape[1], axis=1)
    bias = self.decoder.bias(seen_BTS, positions_BT, place_BS)
    x_BTD = self._embed(prompt_BT, positions_BT)
    _, new = self.decoder.cached(
      x_BTD, bias, positions_BT, cache["fixed"], cache["moving"]["layers"]
    )
    return dict(moving=dict(length=length_B - 1, layers=new), fixed=cache["fixed"])

  def decode_step(self, token_B, cache):
    """Logits [B, V] of the token after `token_B`, and the cache one longer."""
    moving = cache["moving"]
    position_BT = moving["length"][:, None]
    place_BS = jnp.arange(moving["layers"][0]["keys"].shape[1])[None]
    bias = self.decoder.bias((place_BS <= position_BT)[:, None, :], position_BT, place_BS)
    x_BTD = self._embed(token_B[:, None], position_BT)
    x_BTD, new = self.decoder.cached(x_BTD, bias, position_BT, cache["fixed"], moving["layers"])
    moving = dict(length=moving["length"] + 1, layers=new)
    return self.logits(x_BTD)[:, 0], dict(moving=moving, fixed=cache["fixed"])

  def _embed(self, ids_BT, positions_BT, key=None):
    """What the decoder reads."""
    return self.decoder.embeddings(self.embedding(ids_BT), positions_BT, key=key)


def _row(ids_BT, segments, positions):
  if segments is None:
    segments = (ids_BT > 0).astype(jnp.int32)
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(ids_BT.shape[1]), ids_BT.shape)
  return segments, positions


def _same(segments_BT, segments_BS):
  """[B, T, S]: same segment, and not padding."""
  return (segments_BT[:, :, None] == segments_BS[:, None, :]) & (segments_BS > 0)[:, None, :]
