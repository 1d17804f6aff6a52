"""Defines the recurrent baseline: an LSTM encoder, decoder, or both, with a Transformer's methods.

A decoder attends to its encoder by the global attention of Luong et al. 2015, "Effective Approaches
to Attention-based Neural Machine Translation", score `general`. Without input feeding, the result
of attention does not enter the recurrence, so all positions attend at once. The decoder's first
state is made of the mean of the encoder's states (Nematus, Sennrich et al. 2017), so `encode`
returns [B, S, D] and nothing else. Dropout lies between layers, not in time (Zaremba et al. 2014).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model import decoding, layers, masks, matmul
from model.base import EncoderDecoder, segments_of
from model.config import LSTMConfig
from model.placement import constrain
from model.recurrence import UNIFORM, Block, State, initial_state
from model.search import Cache


class Memory(NamedTuple):
  """The encoder states that a decoder attends to."""

  states: jax.Array  # [B, S, D]
  keys: jax.Array  # [B, S, D]
  mask: jax.Array  # [B, T or 1, S] bool


class Attention(nnx.Module):
  """The attention of Luong et al. 2015, equations 5, 7 and 8: tanh(W [context; x])."""

  def __init__(self, cfg: LSTMConfig, *, rngs: nnx.Rngs):
    def linear(inputs, name):
      product = matmul.WeightProduct(name, saves_inputs=True)
      return layers.dense(cfg, inputs, cfg.dim, use_bias=False, dot_general=product, rngs=rngs)

    self.general = linear(cfg.dim, "general/kernel")
    self.combine = linear(2 * cfg.dim, "combine/kernel")

  def __call__(self, x_BTD, memory: Memory):
    """Returns the output [B, T, D]."""
    logits_BTS = jnp.einsum("BTD,BSD->BTS", x_BTD, memory.keys).astype(jnp.float32)
    logits_BTS = jnp.where(memory.mask, logits_BTS, masks.NEG_INF)
    weights_BTS = layers.softmax(logits_BTS, x_BTD.dtype)
    context_BTD = jnp.einsum("BTS,BSD->BTD", weights_BTS, memory.states)
    return jnp.tanh(self.combine(jnp.concatenate([context_BTD, x_BTD], axis=-1)))


class Stack(nnx.Module):
  """Layers; a decoder with an encoder also has attention and the layers' first states."""

  def __init__(self, cfg: LSTMConfig, depth: int, *, causal: bool, cross: bool, rngs):
    self.dropout = cfg.dropout
    both = cfg.bidirectional and not causal
    self.blocks = nnx.List([Block(cfg, bidirectional=both, rngs=rngs) for _ in range(depth)])
    product = matmul.WeightProduct("first/kernel", saves_inputs=True)
    init = layers.initializer(cfg.init_std, UNIFORM)
    options = dict(kernel_init=init, dot_general=product, rngs=rngs)
    self.first = layers.dense(cfg, cfg.dim, depth * cfg.dim, **options) if cross else None
    self.attention = Attention(cfg, rngs=rngs) if cross else None

  def __call__(self, x_BTD, segments_BT, memory: Memory | None = None, key=None):
    """Returns the stack's states [B, T, D]."""
    *keys, last_key = layers.split(key, len(self.blocks) + 1)
    starts = [None] * len(self.blocks) if memory is None else self.starts(memory)
    for block, start_BTD, block_key in zip(self.blocks, starts, keys):
      x_BTD = block(layers.dropout(x_BTD, self.dropout, block_key), segments_BT, start_BTD)
    if memory is not None:
      x_BTD = self.attention(x_BTD, memory)
    return constrain(layers.dropout(x_BTD, self.dropout, last_key), "sublayer_input")

  def step(self, x_BND, states: list[State], memory: Memory | None):
    """Returns the outputs [B, N, D] of a token of N hypotheses, and the layers' states after it."""
    new = []
    for block, state in zip(self.blocks, states):
      new.append(block.forward.step(x_BND, state))
      x_BND = new[-1].hidden
    return x_BND if memory is None else self.attention(x_BND, memory), new

  def memory(self, states_BSD, mask_BTS) -> Memory:
    """Returns the encoder's states with the keys of this decoder."""
    return Memory(states_BSD, self.attention.general(states_BSD), mask_BTS)

  def starts(self, memory: Memory):
    """Returns for each layer the cells [B, T or 1, D] before a segment's first token."""
    share_BTS = memory.mask / jnp.maximum(memory.mask.sum(-1, keepdims=True), 1)
    mean_BTD = jnp.einsum("BTS,BSD->BTD", share_BTS.astype(memory.states.dtype), memory.states)
    cells_BTD = jnp.tanh(self.first(mean_BTD).astype(jnp.float32))
    return jnp.split(cells_BTD, len(self.blocks), axis=-1)


class LSTM(EncoderDecoder):
  """An encoder, a decoder or both, with their embeddings; the methods are the Transformer's."""

  def __init__(self, cfg: LSTMConfig, *, rngs: nnx.Rngs):
    super().__init__(cfg, functools.partial(Stack, cfg, rngs=rngs), rngs=rngs)

  def encode(self, source_BS, segments=None, positions=None, key=None, *, types=None):
    """Returns the encoder's states [B, S, D]; positions and types make no difference.

    Segments are as in a packed batch, 0 = padding; without them a row is one segment up to its
    padding (id 0).
    """
    del positions, types
    x_BSD = self._embed(self.source_embedding or self.embedding, source_BS)
    return self.encoder(x_BSD, segments_of(source_BS, segments), key=key)

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

    A token depends on itself, on earlier tokens of its segment and on the encoder's states `memory`
    of its segment. Raises ValueError for a prefix, which no recurrence can attend to as a whole.
    """
    del positions
    if prefix is not None:
      raise ValueError("an LSTM reads from left to right and cannot attend to a whole prefix")
    segments_BT, memory = segments_of(inputs_BT, segments), None
    if memory_BSD is not None:
      mask_BTS = masks.same_segment(segments_BT, memory_segments)
      memory = self.decoder.memory(memory_BSD, mask_BTS)
    return self.decoder(self._embed(self.embedding, inputs_BT), segments_BT, memory, key)

  def init_cache(self, batch: int, max_len: int, memory_BSD=None, memory_segments=None):
    """Returns the cache before the first of any number of tokens."""
    del max_len
    depth, fixed = self.cfg.decoder_layers, None
    cells = [jnp.zeros((batch, 1, self.cfg.dim))] * depth
    if memory_BSD is not None:
      fixed = self.decoder.memory(memory_BSD, memory_segments[:, None] > 0)
      cells = self.decoder.starts(fixed)
    return Cache([initial_state(cell_BND, self.cfg.dtype) for cell_BND in cells], fixed)

  def prefill(self, prompt_BT, length_B, cache, *, prefix: bool = False):
    """Returns the cache with all but the last token of prompts [B, T], and that token [B].

    length_B is at least 1; ids beyond are not read. train/build.py refuses an LSTM for tasks with a
    prefix.
    """
    del prefix
    return decoding.prefill(self.decode_step, cache, prompt_BT, length_B)

  def decode_step(self, token_BN, cache: Cache):
    """Returns the logits [B, N, V] of the tokens after `token_BN`, and the cache one longer."""
    x_BND = self._embed(self.embedding, token_BN)
    x_BND, moving = self.decoder.step(x_BND, cache.moving, cache.fixed)
    return self.logits(x_BND), cache._replace(moving=moving)

  def _embed(self, table, ids):
    return table.look_up(ids) * self.cfg.dim**0.5
