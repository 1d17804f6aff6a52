"""Computes multi-head attention: projects to heads, attends by a pattern and projects back."""

import contextvars
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model import kernels, layers, patterns, positions
from model.config import LayerSettings, TransformerConfig
from model.placement import bind, constrain

Pattern = patterns.FullAttention | patterns.ChunkedAttention | kernels.SplashAttention


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
    self.rotary_dim = cfg.rotary_size if cfg.positions == "rotary" else None
    heads, kv_heads = (cfg.num_heads, cfg.head_size), (cfg.kv_heads, cfg.head_size)
    options = dict(bias=cfg.qkv_bias, rngs=rngs)
    self.query = layers.linear(cfg, cfg.dim, heads, "query/kernel", **options)
    self.key = layers.linear(cfg, cfg.dim, kv_heads, "key/kernel", **options)
    self.value = layers.linear(cfg, cfg.dim, kv_heads, "value/kernel", **options)
    self.out = layers.linear(cfg, heads, cfg.dim, "out/kernel", rngs=rngs)
    self.query_norm = layers.norm(cfg, cfg.head_size, rngs=rngs) if cfg.qk_norm else None
    self.key_norm = layers.norm(cfg, cfg.head_size, rngs=rngs) if cfg.qk_norm else None

  def __call__(
    self, x_BTD, layer: LayerSettings, pattern: Pattern, positions_BT, cache=None, key=None
  ):
    """Returns the self-attention of `x` [B, T, D], and the cache with its keys and values.

    With a cache, `x` attends to all cached keys; without one the returned cache is None.
    """
    q_BTHK = self.queries(x_BTD)
    k_BSGK, v_BSGK = self.keys_values(x_BTD)
    if self.rotary_dim is not None:
      rope = layer.rope_theta, layer.rope_scale, self.rotary_dim
      q_BTHK = positions.rotary(q_BTHK, positions_BT, *rope)
      k_BSGK = positions.rotary(k_BSGK, positions_BT, *rope)
    if cache is not None:
      cache = dict(
        keys=_write(cache["keys"], k_BSGK, positions_BT),
        values=_write(cache["values"], v_BSGK, positions_BT),
      )
      k_BSGK, v_BSGK = cache["keys"], cache["values"]
    return self.attend(q_BTHK, k_BSGK, v_BSGK, pattern, key), cache

  def cross(self, x_BTD, memory: Memory, key=None):
    """Returns the attention of `x` to the encoder's states, [B, T, D]."""
    return self.attend(self.queries(x_BTD), *memory, key)

  def queries(self, x_BTD):
    """Returns the queries [B, T, H, K]."""
    q_BTHK = self.query(x_BTD)
    return constrain(q_BTHK if self.query_norm is None else self.query_norm(q_BTHK), "heads")

  def keys_values(self, x_BSD):
    """Returns keys and values, each [B, S, G, K]."""
    k_BSGK = self.key(x_BSD)
    k_BSGK = k_BSGK if self.key_norm is None else self.key_norm(k_BSGK)
    return constrain(k_BSGK, "heads"), constrain(self.value(x_BSD), "heads")

  def attend(self, q_BTHK, k_BSGK, v_BSGK, pattern: Pattern, key=None):
    """Returns the projected attention [B, T, D] of all heads by the pattern."""
    if (observer := _OBSERVER.get()) is not None:
      observer(self, q_BTHK, k_BSGK, v_BSGK, pattern)
    return self.out(constrain(pattern(q_BTHK, k_BSGK, v_BSGK, key), "heads"))


def _write(cached_BSGK, new_BTGK, positions_BT):
  """Returns the cache [B, S, G, K] with a new token at its position, or with the first T tokens."""
  if new_BTGK.shape[1] > 1:
    return cached_BSGK.at[:, : new_BTGK.shape[1]].set(new_BTGK)
  here_BS = jnp.arange(cached_BSGK.shape[1]) == positions_BT
  return jnp.where(here_BS[..., None, None], new_BTGK, cached_BSGK)


_OBSERVER = contextvars.ContextVar("observer", default=None)


def observe(observer):
  """Calls `observer(attention, q_BTHK, k_BSGK, v_BSGK, pattern)` at each attention in the body."""
  return bind(_OBSERVER, observer)
