"""The recurrent baseline: an LSTM encoder, a decoder, or both, behind a Transformer's methods.

A decoder looks at its encoder by the global attention of Luong et al. 2015, "Effective Approaches
to Attention-based Neural Machine Translation", score `general`. There is no input feeding: what
was attended to does not enter the recurrence, so that all positions attend at once. Its first
state is made of the mean of what it sees of the encoder (Nematus, Sennrich et al. 2017), so that
`encode` returns [B, S, D] and no more. Dropout is Zaremba et al.'s (2014), on what goes up and not
on what goes along.
"""

import functools
import typing

import jax
import jax.numpy as jnp
from flax import nnx

from model import layers, masks, matmul, placement
from model.config import LSTMConfig
from model.embeddings import attend, look_up
from model.recurrence import Block, State, beginning, initializer


class Memory(typing.NamedTuple):
  """What a decoder sees of the encoder."""

  states: jax.Array  # [B, S, D]
  keys: jax.Array  # [B, S, D]
  seen: jax.Array  # [B, T or 1, S] bool


class Attention(nnx.Module):
  """Luong et al. 2015, equations 5, 7 and 8: tanh(W [context; x])."""

  def __init__(self, cfg: LSTMConfig, *, rngs: nnx.Rngs):
    linear = functools.partial(
      nnx.Linear,
      use_bias=False,
      kernel_init=layers.initializer(cfg.init_std),
      dtype=cfg.dtype,
      rngs=rngs,
    )
    product = functools.partial(placement.Product, kept=True)
    self.general = linear(cfg.dim, cfg.dim, dot_general=product("general/kernel"))
    self.combine = linear(2 * cfg.dim, cfg.dim, dot_general=product("combine/kernel"))

  def __call__(self, x_BTD, memory: Memory):
    """[B, T, D]."""
    logits_BTS = jnp.einsum("BTD,BSD->BTS", x_BTD, memory.keys).astype(jnp.float32)
    logits_BTS = jnp.where(memory.seen, logits_BTS, layers.NEG_INF)
    weights_BTS = layers.softmax(logits_BTS, x_BTD.dtype)
    context_BTD = jnp.einsum("BTS,BSD->BTD", weights_BTS, memory.states)
    return jnp.tanh(self.combine(jnp.concatenate([context_BTD, x_BTD], axis=-1)))


class Stack(nnx.Module):
  """Layers; in a decoder with an encoder also what they begin from and what looks at it."""

  def __init__(self, cfg: LSTMConfig, depth: int, *, bidirectional: bool, cross: bool, rngs):
    self.dropout = cfg.dropout
    self.blocks = nnx.List(
      [Block(cfg, bidirectional=bidirectional, rngs=rngs) for _ in range(depth)]
    )
    first = functools.partial(
      nnx.Linear,
      cfg.dim,
      depth * cfg.dim,
      kernel_init=initializer(cfg.init_std),
      dtype=cfg.dtype,
      dot_general=placement.Product("first/kernel", kept=True),
      rngs=rngs,
    )
    self.first = first() if cross else None
    self.attention = Attention(cfg, rngs=rngs) if cross else None

  def __call__(self, x_BTD, segments_BT, memory: Memory | None = None, key=None):
    """[B, T, D]."""
    *keys, last_key = layers.split(key, len(self.blocks) + 1)
    starts = [None] * len(self.blocks) if memory is None else self.starts(memory)
    for block, start_BTD, block_key in zip(self.blocks, starts, keys):
      x_BTD = block(layers.dropout(x_BTD, self.dropout, block_key), segments_BT, start_BTD)
    if memory is not None:
      x_BTD = self.attention(x_BTD, memory)
    return placement.read(layers.dropout(x_BTD, self.dropout, last_key))

  def step(self, x_BD, states: list[State], memory: Memory | None):
    """[B, D] and the layers' new states."""
    new = []
    for block, state in zip(self.blocks, states):
      new.append(block.forward.step(x_BD, state))
      x_BD = new[-1].hidden
    if memory is not None:
      x_BD = self.attention(x_BD[:, None], memory)[:, 0]
    return x_BD, new

  def memory(self, states_BSD, seen_BTS) -> Memory:
    return Memory(states_BSD, self.attention.general(states_BSD), seen_BTS)

  def starts(self, memory: Memory):
    """For each layer the cell [B, T or 1, D] that a segment's first token finds."""
    share_BTS = memory.seen / jnp.maximum(memory.seen.sum(-1, keepdims=True), 1)
    mean_BTD = jnp.einsum("BTS,BSD->BTD", share_BTS.astype(memory.states.dtype), memory.states)
    cells_BTD = jnp.tanh(self.first(mean_BTD).astype(jnp.float32))
    return jnp.split(cells_BTD, len(self.blocks), axis=-1)


class LSTM(nnx.Module):
  """Encoder and/or decoder with their embeddings; methods as model/transformer.py has them."""

  def __init__(self, cfg: LSTMConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg
    embed = functools.partial(
      nnx.Embed,
      cfg.vocab_size,
      cfg.dim,
      embedding_init=nnx.initializers.normal(cfg.table_std),
      dtype=cfg.dtype,
      rngs=rngs,
    )
    E, D = cfg.encoder_layers, cfg.decoder_layers
    both = bool(E and D)
    self.embedding = embed()
    self.source_embedding = embed() if both and not cfg.share_embeddings else None
    stack = functools.partial(Stack, cfg, rngs=rngs)
    self.encoder = stack(E, bidirectional=cfg.bidirectional, cross=False) if E else None
    self.decoder = stack(D, bidirectional=False, cross=both) if D else None
    output = functools.partial(
      nnx.Linear,
      cfg.dim,
      cfg.vocab_size,
      use_bias=False,
      dot_general=matmul.product,
      dtype=cfg.dtype,
      rngs=rngs,
    )
    init = layers.initializer(cfg.init_std)
    self.output = None if cfg.tie_output else output(kernel_init=init)
    self.output_bias = nnx.Param(jnp.zeros(cfg.vocab_size)) if cfg.output_bias else None

  def encode(self, source_BS, segments=None, positions=None, key=None, *, types=None):
    """Hidden states [B, S, D]. Segments as in a packed batch, 0 = padding; without them a row is
    one segment up to its padding (id 0). Positions and types are not told apart."""
    del positions, types
    x_BSD = self._embed(self.source_embedding or self.embedding, source_BS)
    return self.encoder(x_BSD, _segments(source_BS, segments), key=key)

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
    """Hidden states [B, T, D] of all positions at once; each knows itself and those before, and of
    the memory its own segment. ValueError for a prefix, which would be seen from its beginning."""
    del positions
    if prefix is not None:
      raise ValueError("an LSTM reads from left to right: it sees no prefix whole")
    segments_BT, memory = _segments(inputs_BT, segments), None
    if memory_BSD is not None:
      seen_BTS = masks.same(segments_BT, memory_segments)
      memory = self.decoder.memory(memory_BSD, seen_BTS)
    return self.decoder(self._embed(self.embedding, inputs_BT), segments_BT, memory, key)

  def logits(self, x_BTD):
    """[..., V] float32."""
    logits_BTV = attend(self.embedding, x_BTD) if self.output is None else self.output(x_BTD)
    logits_BTV = logits_BTV.astype(jnp.float32)
    return logits_BTV if self.output_bias is None else logits_BTV + self.output_bias[...]

  def init_cache(self, batch: int, max_len: int, memory_BSD=None, memory_segments=None):
    """The cache before the first of any number of tokens, every leaf [B, ...]."""
    del max_len
    depth, fixed = self.cfg.decoder_layers, None
    cells = [jnp.zeros((batch, self.cfg.dim))] * depth
    if memory_BSD is not None:
      fixed = self.decoder.memory(memory_BSD, memory_segments[:, None] > 0)
      cells = [cell_BTD[:, 0] for cell_BTD in self.decoder.starts(fixed)]
    return dict(moving=[beginning(cell_BD, self.cfg.dtype) for cell_BD in cells], fixed=fixed)

  def decode_step(self, token_B, cache):
    """Logits [B, V] of the token after `token_B`, and the cache one longer."""
    x_BD = self._embed(self.embedding, token_B)
    x_BD, moving = self.decoder.step(x_BD, cache["moving"], cache["fixed"])
    return self.logits(x_BD), dict(moving=moving, fixed=cache["fixed"])

  def _embed(self, table, ids):
    return look_up(table, ids) * self.cfg.dim**0.5


def _segments(ids_BT, segments):
  return (ids_BT > 0).astype(jnp.int32) if segments is None else segments
