"""Defines the Transformer (Vaswani et al. 2017): an encoder, a decoder, or both, from one block."""

import jax.numpy as jnp
from flax import nnx

from model import layers
from model.attention import Memory
from model.base import EncoderDecoder, positions_of, segments_of
from model.config import TransformerConfig
from model.masks import Tokens
from model.search import Cache
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
    x_BSD = (self.source_embedding or self.embedding).look_up(source_BS)
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
    """Returns an empty cache for `max_len` tokens of one hypothesis of each row."""
    cfg = self.decoder.cfg
    # keys as the right factor of a product: a CPU searches greedily 1.08 times as fast
    keys = jnp.zeros((batch, cfg.kv_heads * cfg.head_size, max_len, 1), cfg.dtype)
    values = jnp.zeros((batch, cfg.kv_heads, max_len, 1, cfg.head_size), cfg.dtype)
    written = [dict(keys=keys, values=values) for _ in range(self.decoder.depth)]
    fixed = [None] * self.decoder.depth
    if memory_BSD is not None:
      one_BT = jnp.ones((batch, 1), jnp.int32)  # a row is one segment, and so is its source
      segments_BS = (memory_segments > 0).astype(jnp.int32)
      encoded = self.decoder.read(memory_BSD, one_BT, segments_BS)
      fixed = [heads_first(block.memory(encoded)) for block in self.decoder.layers()]
    length_BN = jnp.zeros((batch, 1), jnp.int32)
    return Cache(length_BN, fixed, written, jnp.zeros((batch, 1, max_len), jnp.int32))

  def prefill(self, prompt_BT, length_B, cache: Cache, *, prefix: bool = False):
    """Returns the cache with all but the last token of prompts [B, T], and that token [B].

    The cache is empty, of one hypothesis. length_B is at least 1; ids beyond are not read. With
    `prefix` the tokens of a prompt attend to all of it, as in a prefix language model.
    """
    index_BS = jnp.arange(cache.slots.shape[2])[None]
    index_BT = index_BS[:, : prompt_BT.shape[1]]
    prompt_BS = (index_BS < length_B[:, None]).astype(jnp.int32)
    query = Tokens(jnp.ones_like(index_BT), index_BT)
    key = Tokens(prompt_BS, index_BS, prompt_BS if prefix else None)
    cache, _ = self._extend(prompt_BT, query, key, cache)
    cache = cache._replace(moving=length_B[:, None] - 1)
    return cache, jnp.take_along_axis(prompt_BT, length_B[:, None] - 1, axis=1)[:, 0]

  def decode_step(self, token_BN, cache: Cache):
    """Returns the logits [B, N, V] of the tokens after `token_BN`, and the cache one longer.

    The N hypotheses of a row have equal lengths. Each attends to the keys that its own tokens have
    written, whichever slots they were in; keys and values stay where they are.
    """
    length_BN, (_, N, S) = cache.moving, cache.slots.shape
    query = Tokens(jnp.ones_like(length_BN), length_BN)
    index_BS = jnp.repeat(jnp.arange(S)[None], N, axis=1)
    key, own_BNS = Tokens(jnp.ones_like(index_BS), index_BS), True
    if N > 1:
      here_BS = jnp.arange(S) == length_BN[:, :1]
      slots_BNS = jnp.where(here_BS[:, None], jnp.arange(N)[:, None], cache.slots)
      cache = cache._replace(slots=slots_BNS)
      own_BNS = (slots_BNS[..., None] == jnp.arange(N)).reshape(-1, N, S * N)
    cache, x_BND = self._extend(token_BN, query, key, cache, own_BNS)
    return self.logits(x_BND), cache._replace(moving=length_BN + 1)

  def _extend(self, ids_BT, query, key, cache: Cache, mask=True):
    """Returns the cache with the tokens `query`, which attend to the tokens `key`, and their
    states."""
    x_BTD, memories = self._embed(ids_BT, query.index), [heads_first(x) for x in cache.fixed]
    x_BTD, written = self.decoder.extend(x_BTD, query, key, cache.written, memories, mask)
    return cache._replace(written=written), x_BTD

  def _embed(self, ids_BT, positions_BT, key=None):
    return self.decoder.embeddings(self.embedding.look_up(ids_BT), positions_BT, key=key)


def heads_first(memory: Memory | None) -> Memory | None:
  """Returns a memory with its axes S and G exchanged: products in each step read it as it is."""
  if memory is None:
    return None
  return memory._replace(keys=memory.keys.swapaxes(1, 2), values=memory.values.swapaxes(1, 2))
