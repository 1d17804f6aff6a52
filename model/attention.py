"""Computes multi-head attention: projects to heads, attends by a pattern and projects back."""

import contextvars
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model import kernels, layers, patterns, positions
from model.config import LayerSettings, TransformerConfig
from model.disentangled import DisentangledBias
from model.placement import bind, constrain
from model.settings import DISENTANGLED

Pattern = patterns.FullAttention | patterns.ChunkedAttention | kernels.SplashAttention
Pattern |= patterns.OwnPattern


class Memory(NamedTuple):
  """The encoder's states as a decoder layer attends to them."""

  keys: jax.Array  # [B, S, G, K]
  values: jax.Array  # [B, S, G, K]
  pattern: Pattern


class Attention(nnx.Module):
  """Multi-head attention (Vaswani et al. 2017, section 3.2.2).

  With num_kv_heads < num_heads it is grouped-query attention (Ainslie et al. 2023).
  """

  def __init__(self, cfg: TransformerConfig, *, rngs: nnx.Rngs):
    self.query = _projection(cfg, "query", cfg.num_heads, rngs)
    self.key = _projection(cfg, "key", cfg.kv_heads, rngs)
    self.value = _projection(cfg, "value", cfg.kv_heads, rngs)
    heads = cfg.num_heads, cfg.head_size
    self.out = layers.linear(cfg, heads, cfg.dim, "out/kernel", rngs=rngs)
    self.query_norm = layers.norm(cfg, cfg.head_size, rngs=rngs) if cfg.qk_norm else None
    self.key_norm = layers.norm(cfg, cfg.head_size, rngs=rngs) if cfg.qk_norm else None

  def cross(self, x_BTD, memory: Memory, key=None):
    """Returns the attention of `x` to the encoder's states, [B, T, D]."""
    return self.attend(self.queries(x_BTD), *memory, key)

  def queries(self, x_BTD):
    """Returns the queries [B, T, H, K]."""
    q_BTHK = self.query(x_BTD)
    return constrain(q_BTHK if self.query_norm is None else self.query_norm(q_BTHK), "heads")

  def keys(self, x_BSD):
    """Returns the keys [B, S, G, K]."""
    k_BSGK = self.key(x_BSD)
    return constrain(k_BSGK if self.key_norm is None else self.key_norm(k_BSGK), "heads")

  def keys_values(self, x_BSD):
    """Returns keys and values, each [B, S, G, K]."""
    return self.keys(x_BSD), constrain(self.value(x_BSD), "heads")

  def attend(self, q_BTHK, k_BSGK, v_BSGK, pattern: Pattern, key=None):
    """Returns the projected attention [B, T, D] of all heads by the pattern."""
    if (observer := _OBSERVER.get()) is not None:
      observer(self, q_BTHK, k_BSGK, v_BSGK, pattern)
    return self.out(constrain(pattern(q_BTHK, k_BSGK, v_BSGK, key), "heads"))


class SelfAttention(Attention):
  """Self-attention, with the weights that a layer has of its own for distances and globals."""

  def __init__(self, cfg: TransformerConfig, *, causal: bool, rngs: nnx.Rngs):
    super().__init__(cfg, rngs=rngs)
    self.rotary_dim = cfg.rotary_size if cfg.positions == "rotary" else None
    self.rope_short = cfg.rope_short
    self.terms = cfg.disentangled_terms if cfg.positions in DISENTANGLED else ""
    own = bool(self.terms) and cfg.disentangled_projections
    query, key = (own and term in self.terms for term in ("p2c", "c2p"))
    self.position_query = _projection(cfg, "position_query", cfg.num_heads, rngs) if query else None
    self.position_key = _projection(cfg, "position_key", cfg.kv_heads, rngs) if key else None
    self.scale, self.max_distance = cfg.self_scale, cfg.relative_max_distance
    own = cfg.relative_per_layer
    self.relative = positions.RelativeBias(cfg, not causal, rngs=rngs) if own else None
    self.global_tokens = cfg.global_tokens if cfg.global_projections else 0
    own = cfg.global_projections
    self.query_global = _projection(cfg, "query_global", cfg.num_heads, rngs) if own else None
    self.key_global = _projection(cfg, "key_global", cfg.kv_heads, rngs) if own else None
    self.value_global = _projection(cfg, "value_global", cfg.kv_heads, rngs) if own else None
    self.block_norm = layers.norm(cfg, rngs=rngs) if cfg.global_blocks else None

  def __call__(
    self, x_BTD, layer: LayerSettings, pattern: Pattern, positions_BT, cache=None, key=None
  ):
    """Returns the self-attention of `x` [B, T, D], and the cache with its keys and values.

    With a cache, `x` attends to all cached keys; without one the returned cache is None. Its keys
    are [B, G * K, S, N] and its values [B, G, S, N, K], of N hypotheses of a row: `x` is then the N
    tokens that follow, or the first T tokens where N is 1.
    """

    def turn(x_BTHK):
      if self.rotary_dim is None:
        return x_BTHK
      rope = layer.rope_theta, layer.rope_scale, self.rotary_dim, self.rope_short
      return positions.rotary(x_BTHK, positions_BT[:, : x_BTHK.shape[1]], *rope)

    q_BTHK = self.queries(x_BTD)
    k_BSGK, v_BSGK = self.keys_values(x_BTD)
    q_BTHK, k_BSGK = turn(q_BTHK), turn(k_BSGK)
    own = patterns.Own(self._bias(pattern), self._first(x_BTD, turn), self._blocks(x_BTD, pattern))
    if cache is not None:
      B, T, G, K = k_BSGK.shape
      cache = dict(
        keys=_write(cache["keys"], k_BSGK.reshape(B, T, G * K).swapaxes(1, 2), positions_BT),
        values=_write(cache["values"], v_BSGK.swapaxes(1, 2), positions_BT),
      )
      k_BSGK = cache["keys"].reshape(B, G, K, -1).transpose(0, 3, 1, 2)
      v_BSGK = cache["values"].reshape(B, G, -1, K).swapaxes(1, 2)
    return self.attend(q_BTHK, k_BSGK, v_BSGK, own.added_to(pattern), key), cache

  def _bias(self, pattern):
    """Returns the layer's own bias, a function of queries, keys and distances, if it has one."""
    if self.relative is not None:
      return lambda q_BTHK, k_BSGK, distance_BTS: self.relative(distance_BTS)
    if not self.terms:
      return None
    states, query, key = pattern.shared.states[None], None, None
    if "p2c" in self.terms:
      query = (self.position_query or self.queries)(states)[0]
    if "c2p" in self.terms:
      key = (self.position_key or self.keys)(states)[0]
    return DisentangledBias(query, key, self.scale, self.max_distance)

  def _first(self, x_BTD, turn):
    """Returns queries of the first tokens, and keys and values of all, by their own projections."""
    if not self.global_tokens:
      return None
    q_BTHK = turn(constrain(self.query_global(x_BTD[:, : self.global_tokens]), "heads"))
    k_BSGK = turn(constrain(self.key_global(x_BTD), "heads"))
    return q_BTHK, k_BSGK, constrain(self.value_global(x_BTD), "heads")

  def _blocks(self, x_BTD, pattern):
    """Returns keys and values of the row's blocks, each [B, N, G, K]."""
    if self.block_norm is None:
      return None
    return self.keys_values(self.block_norm(pattern.shared.blocks.sums(x_BTD)))


def _projection(cfg, name: str, heads: int, rngs: nnx.Rngs):
  """Builds the linear layer `name` from states to the vectors of heads."""
  size = heads, cfg.head_size
  return layers.linear(cfg, cfg.dim, size, f"{name}/kernel", bias=cfg.qkv_bias, rngs=rngs)


def _write(cached_BXSN, new_BXT, positions_BT):
  """Returns keys or values with those of a token of each of N hypotheses, or of one's first T
  tokens. X stands for the axes between."""
  N, T = cached_BXSN.shape[3], new_BXT.shape[2]
  if T > N:
    return cached_BXSN.at[:, :, :T, 0].set(new_BXT)
  return cached_BXSN.at[jnp.arange(len(new_BXT)), :, positions_BT[:, 0]].set(new_BXT)


_OBSERVER = contextvars.ContextVar("observer", default=None)


def observe(observer):
  """Calls `observer(attention, q_BTHK, k_BSGK, v_BSGK, pattern)` at each attention in the body."""
  return bind(_OBSERVER, observer)
