"""Defines the Transformer (Vaswani et al. 2017): an encoder, a decoder, or both, from one block."""

import jax.numpy as jnp
from flax import nnx

from model import layers
from model.base import EncoderDecoder, positions_of, segments_of
from model.config import TransformerConfig
from model.embeddings import look_up
from model.masks import Tokens
from model.stack import Stack


class Transformer(EncoderDecoder):
  """An encoder, a decoder or both, with their embeddings."""

  def __init__(self, cfg: TransformerConfig, *, rngs: nnx.Rngs):
    def make_stack(depth, *, causal, cross):
      own = cfg.for_decoder() if causal else cfg
      return Stack(own, depth, causal=causal, cross=cross, rngs=rngs)

    super().__init__(cfg, make_stack, rngs=rngs)

  def encode(
    self, source_BS, segments=None, positions=None, key=None, *, types=None, global_mask=None
  ):
    """Returns the encoder's states [B, S, D].

    Segments (0 = padding) and positions are as in a packed batch; without them a row is one segment
    up to its padding (id 0). `types` [B, S] are 0 by default. Of a row's first model.global_tokens
    tokens those are global whose `global_mask` [B, S] is 1, by default all.
    """
    segments_BS, positions_BS = segments_of(source_BS, segments), positions_of(source_BS, positions)
    embed_key, stack_key = layers.split(key, 2)
    x_BSD = look_up(self.source_embedding or self.embedding, source_BS)
    x_BSD = self.encoder.embeddings(x_BSD, positions_BS, types, embed_key)
    index_BS = jnp.arange(source_BS.shape[1])[None]
    tokens = Tokens(segments_BS, index_BS, global_mask=global_mask)
    patterns = self.encoder.patterns_of(tokens)
    return self.encoder(x_BSD, patterns, positions_BS, None, stack_key, segments_BS)

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
    """Returns the decoder's states [B, T, D], all positions at once.

    Within its segment a token attends to itself, to earlier tokens and to all with a `prefix` [B,
    T] of 1, and also to the encoder's states `memory` [B, S, D] of its segment.
    """
    segments_BT, positions_BT = segments_of(inputs_BT, segments), positions_of(inputs_BT, positions)
    embed_key, stack_key = layers.split(key, 2)
    x_BTD = self._embed(inputs_BT, positions_BT, embed_key)
    tokens = Tokens(segments_BT, jnp.arange(inputs_BT.shape[1])[None], prefix)
    patterns, encoded = self.decoder.patterns_of(tokens), None
    if memory_BSD is not None:
      encoded = self.decoder.read(memory_BSD, segments_BT, memory_segments)
    return self.decoder(x_BTD, patterns, positions_BT, encoded, stack_key)

  def init_cache(self, batch: int, max_len: int, memory_BSD=None, memory_segments=None):
    """Returns an empty cache for `max_len` tokens, every leaf [B, ...].

    `moving` changes with each token and follows its beam; `fixed` is the memory of each layer.
    """
    cfg = self.decoder.cfg
    empty = jnp.zeros((batch, max_len, cfg.kv_heads, cfg.head_size), cfg.dtype)
    moving = dict(
      length=jnp.zeros(batch, jnp.int32),
      layers=[dict(keys=empty, values=empty) for _ in range(self.decoder.depth)],
    )
    fixed = [None] * self.decoder.depth
    if memory_BSD is not None:
      one_BT = jnp.ones((batch, 1), jnp.int32)  # a row is one segment, and so is its source
      segments_BS = (memory_segments > 0).astype(jnp.int32)
      encoded = self.decoder.read(memory_BSD, one_BT, segments_BS)
      fixed = [block.memory(encoded) for block in self.decoder.layers()]
    return dict(moving=moving, fixed=fixed)

  def prefill(self, prompt_BT, length_B, cache, *, prefix: bool = False):
    """Returns the cache with all but the last token of prompts [B, T], and that token [B].

    length_B is at least 1; ids beyond are not read. With `prefix` the tokens of a prompt attend to
    all of it, as in a prefix language model.
    """
    index_BS = _cache_index(cache)
    index_BT = index_BS[:, : prompt_BT.shape[1]]
    prompt_BS = (index_BS < length_B[:, None]).astype(jnp.int32)
    query = Tokens(jnp.ones_like(index_BT), index_BT)
    key = Tokens(prompt_BS, index_BS, prompt_BS if prefix else None)
    cache, _ = self._extend(prompt_BT, query, key, cache, length_B - 1)
    return cache, jnp.take_along_axis(prompt_BT, length_B[:, None] - 1, axis=1)[:, 0]

  def decode_step(self, token_B, cache):
    """Returns the logits [B, V] of the token after `token_B`, and the cache one longer."""
    length_B, index_BS = cache["moving"]["length"], _cache_index(cache)
    query = Tokens(jnp.ones_like(length_B[:, None]), length_B[:, None])
    key = Tokens(jnp.ones_like(index_BS), index_BS)
    cache, x_BTD = self._extend(token_B[:, None], query, key, cache, length_B + 1)
    return self.logits(x_BTD)[:, 0], cache

  def _extend(self, ids_BT, query, key, cache, length_B):
    """Returns the cache, `length_B` long with the tokens `query`, and the tokens' states."""
    x_BTD = self._embed(ids_BT, query.index)
    x_BTD, new = self.decoder.extend(x_BTD, query, key, cache["moving"]["layers"], cache["fixed"])
    return dict(moving=dict(length=length_B, layers=new), fixed=cache["fixed"]), x_BTD

  def _embed(self, ids_BT, positions_BT, key=None):
    return self.decoder.embeddings(look_up(self.embedding, ids_BT), positions_BT, key=key)


def _cache_index(cache):
  """Returns the index of each place of the cache, [1, S]."""
  return jnp.arange(cache["moving"]["layers"][0]["keys"].shape[1])[None]
