"""The Transformer: an encoder, a decoder, or both, from one block.

A model is four methods, and tasks and decoders use nothing else:
  encode(source)                  -> hidden states [B, S, D]
  decode(inputs, memory)          -> hidden states [B, T, D]; `logits` turns them into words
  init_cache(memory)              -> an empty cache
  decode_step(token, cache)       -> logits [B, V] of the next token, and the cache one longer
It holds weights and nothing else: dropout takes its key as an argument, no key means none.
"""

import functools

import jax.numpy as jnp
from flax import nnx

from model import layers, matmul
from model.config import TransformerConfig
from model.embeddings import attend, look_up
from model.masks import Side, Whole
from model.stack import Stack


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
      dot_general=matmul.product,
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
    x_BSD = look_up(self.source_embedding or self.embedding, source_BS)
    x_BSD = self.encoder.embeddings(x_BSD, positions_BS, types, embed_key)
    view = self.encoder.view(Side(segments_BS, jnp.arange(source_BS.shape[1])[None]))
    return self.encoder(x_BSD, view, positions_BS, key=stack_key)

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
    view = self.decoder.view(Side(segments_BT, jnp.arange(inputs_BT.shape[1])[None], prefix))
    memory = None
    if memory_BSD is not None:
      memory = self.decoder.memory(memory_BSD, segments_BT, memory_segments)
    return self.decoder(x_BTD, view, positions_BT, memory, stack_key)

  def logits(self, x_BTD):
    """[..., V] float32."""
    logits_BTV = attend(self.embedding, x_BTD) if self.output is None else self.output(x_BTD)
    logits_BTV = logits_BTV.astype(jnp.float32) * self.cfg.logits_scale
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
      one_BT = jnp.ones((batch, 1), jnp.int32)  # a row is one segment, and so is its source
      memory = self.decoder.memory(memory_BSD, one_BT, (memory_segments > 0).astype(jnp.int32))
      fixed = [block.seen(memory) for block in self.decoder.layers()]
    return dict(moving=moving, fixed=fixed)

  def prefill(self, prompt_BT, length_B, cache):
    """The cache after all but the last token of prompts whose tokens see the whole of them."""
    place_BS = jnp.arange(cache["moving"]["layers"][0]["keys"].shape[1])[None]
    positions_BT = place_BS[:, : prompt_BT.shape[1]]
    prompt_BS = (place_BS < length_B[:, None]).astype(jnp.int32)  # one segment, seen from all of it
    query = Side(jnp.ones_like(positions_BT), positions_BT)
    view = Whole(self.decoder.bias(query, Side(prompt_BS, place_BS, prompt_BS)))
    x_BTD = self._embed(prompt_BT, positions_BT)
    _, new = self.decoder.cached(
      x_BTD, view, positions_BT, cache["fixed"], cache["moving"]["layers"]
    )
    return dict(moving=dict(length=length_B - 1, layers=new), fixed=cache["fixed"])

  def decode_step(self, token_B, cache):
    """Logits [B, V] of the token after `token_B`, and the cache one longer."""
    moving = cache["moving"]
    position_BT = moving["length"][:, None]
    place_BS = jnp.arange(moving["layers"][0]["keys"].shape[1])[None]
    query, key = (Side(jnp.ones_like(place), place) for place in (position_BT, place_BS))
    view = Whole(self.decoder.bias(query, key))
    x_BTD = self._embed(token_B[:, None], position_BT)
    x_BTD, new = self.decoder.cached(x_BTD, view, position_BT, cache["fixed"], moving["layers"])
    moving = dict(length=moving["length"] + 1, layers=new)
    return self.logits(x_BTD)[:, 0], dict(moving=moving, fixed=cache["fixed"])

  def _embed(self, ids_BT, positions_BT, key=None):
    """What the decoder reads."""
    return self.decoder.embeddings(look_up(self.embedding, ids_BT), positions_BT, key=key)


def _row(ids_BT, segments, positions):
  if segments is None:
    segments = (ids_BT > 0).astype(jnp.int32)
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(ids_BT.shape[1]), ids_BT.shape)
  return segments, positions
