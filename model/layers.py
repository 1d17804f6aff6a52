"""Attention, feed-forward, norms and dropout: the parts every stack is built from.

Axis letters, the same in every file and in every einsum; a name ends in its axes:
  B batch   T query (target) positions   S key (source) positions   D model
  H heads   G key/value groups   R query heads per group (H = G * R)   K head size
  F feed-forward   V vocabulary   N beams
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from model import placement

NEG_INF = -1e9  # finite, so a row with nothing to attend to gives no NaN

ACTIVATIONS = {
  "relu": jax.nn.relu,
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "silu": jax.nn.silu,
  "tanh": jnp.tanh,
}
NORMS = {"layer": nnx.LayerNorm, "rms": nnx.RMSNorm}
# What the forward pass keeps of each layer for the backward pass, which computes the rest again;
# None: everything, and nothing is computed twice.
REMAT = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.save_only_these_names("product"),
  "sublayers": jax.checkpoint_policies.save_only_these_names("sublayer"),
}


def split(key: jax.Array | None, num: int):
  """`num` keys, or `num` Nones: no key means no dropout (evaluation). Of a key for each row [B],
  `num` such keys."""
  if key is None:
    return (None,) * num
  if key.ndim == 0:
    return jax.random.split(key, num)
  return jax.vmap(functools.partial(jax.random.split, num=num), out_axes=1)(key)


def hash_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """One uint32 a position, from two rounds of a 32-bit finalizer over its index: in the whole
  array or, with a key for each row (its first axis), in the row.

  Good enough to drop units, not for cryptography. It fuses into its consumer and never leaves the
  registers: dropout of a [4096, 256] array takes 0.8 ms here against 4.7 with threefry bits, and
  each device computes only the bits of its own part.
  """

  def mix(x):  # "lowbias32": Wellons, Prospecting for hash functions, 2018
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)

  words = jax.random.key_data(key).reshape(*key.shape, *(1,) * (len(shape) - key.ndim), 2)
  index = jnp.zeros(shape, jnp.uint32)
  for axis in range(key.ndim, len(shape)):
    index = index * jnp.uint32(shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
  return mix(mix(index ^ words[..., 0]) + words[..., 1])


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """`x` with each element zeroed with probability `rate`, the rest scaled by 1 / (1 - rate)."""
  if key is None or rate == 0.0:
    return x
  keep = hash_bits(key, x.shape) >= jnp.uint32(round(rate * 2**32))
  return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def softmax(logits, dtype):
  """Of the last axis, computed in float32. The backward pass keeps it as it comes out, in `dtype`;
  autodiff keeps it in float32 too: of bfloat16 attention weights that is twice as much again."""
  return jax.nn.softmax(logits).astype(dtype)


def _softmax(logits, dtype):
  weights = softmax(logits, dtype)
  return weights, weights


def _softmax_gradient(dtype, weights, cotangent):
  del dtype
  weights, cotangent = weights.astype(jnp.float32), cotangent.astype(jnp.float32)
  product = weights * cotangent
  return (product - weights * product.sum(-1, keepdims=True),)


softmax.defvjp(_softmax, _softmax_gradient)


def norm(kind: str, dim: int, *, eps: float, dtype, rngs: nnx.Rngs):
  """A layer or RMS norm over the last axis; statistics in float32."""
  return NORMS[kind](dim, epsilon=eps, dtype=dtype, rngs=rngs)


def initializer(std: float | None):
  """Normal with that deviation, or Glorot's uniform (fan average) for None."""
  return nnx.initializers.xavier_uniform() if std is None else nnx.initializers.normal(std)


class Attention(nnx.Module):
  """Multi-head attention, in three moves: `queries`, `keys_values`, `attend`.

  Grouped-query when num_kv_heads < num_heads (Ainslie et al. 2023). `scale` multiplies the logits;
  `kept`: the backward pass finds what the forward pass computed (hooks.Product).
  """

  def __init__(
    self,
    dim: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    *,
    bias: bool,
    scale: float,
    dropout: float,
    init_std: float | None,
    impl: str,
    kept: bool,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.scale, self.dropout, self.impl = scale, dropout, impl
    linear = functools.partial(
      nnx.LinearGeneral, use_bias=bias, kernel_init=initializer(init_std), dtype=dtype, rngs=rngs
    )
    product = functools.partial(placement.Product, kept=kept)
    heads, kv_heads = (num_heads, head_dim), (num_kv_heads, head_dim)
    self.query = linear(dim, heads, dot_general=product("query/kernel"))
    self.key = linear(dim, kv_heads, dot_general=product("key/kernel"))
    self.value = linear(dim, kv_heads, dot_general=product("value/kernel"))
    self.out = linear(heads, dim, axis=(-2, -1), dot_general=product("out/kernel"))

  def queries(self, x_BTD):
    """[B, T, H, K]."""
    return placement.within(self.query(x_BTD))

  def keys_values(self, memory_BSD):
    """Keys and values, each [B, S, G, K]."""
    return placement.within(self.key(memory_BSD)), placement.within(self.value(memory_BSD))

  def attend(self, q_BTHK, k_BSGK, v_BSGK, view, key=None):
    """[B, T, D]; `view` says who sees whom (model/masks.py)."""
    placement.look(self, q_BTHK, k_BSGK, v_BSGK, view)
    return self.out(placement.within(view.mix(self, q_BTHK, k_BSGK, v_BSGK, key)))

  def mix(self, q_BTHK, k_BSGK, v_BSGK, bias, key=None):
    """[B, T, H, K]; `bias` is added to the logits: [B or 1, H or 1, T, S], float32."""
    if self.impl == "einsum":
      return self._einsum(q_BTHK, k_BSGK, v_BSGK, bias, key)
    # jax's own, which "splash" too leaves this to; TransformerConfig refuses attention dropout
    impl = "cudnn" if self.impl == "cudnn" else "xla"
    return jax.nn.dot_product_attention(
      q_BTHK, k_BSGK, v_BSGK, bias=bias, scale=self.scale, implementation=impl
    )

  def _einsum(self, q_BTHK, k_BSGK, v_BSGK, bias, key):
    B, T, H, K = q_BTHK.shape
    G, S = k_BSGK.shape[2], k_BSGK.shape[1]
    # Heads before positions: the products are 1.3 to 3 times faster on CPU than in the order BTHK.
    q_BGRTK = q_BTHK.reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4) * self.scale
    k_BGSK, v_BGSK = k_BSGK.swapaxes(1, 2), v_BSGK.swapaxes(1, 2)
    logits_BGRTS = jnp.einsum("BGRTK,BGSK->BGRTS", q_BGRTK, k_BGSK).astype(jnp.float32)
    logits_BHTS = logits_BGRTS.reshape(B, H, T, S) + bias
    weights_BHTS = softmax(logits_BHTS, v_BGSK.dtype)
    weights_BHTS = dropout(weights_BHTS, self.dropout, key)
    weights_BGRTS = weights_BHTS.reshape(B, G, H // G, T, S)
    y_BGRTK = jnp.einsum("BGRTS,BGSK->BGRTK", weights_BGRTS, v_BGSK)
    return y_BGRTK.transpose(0, 3, 1, 2, 4).reshape(B, T, H, K)


class FeedForward(nnx.Module):
  """Position-wise network; gated: act(x W_gate) * (x W_up) (Shazeer 2020, GLU variants)."""

  def __init__(
    self,
    dim: int,
    hidden: int,
    *,
    activation: str,
    gated: bool,
    bias: bool,
    dropout: float,
    init_std: float | None,
    kept: bool,
    dtype,
    rngs: nnx.Rngs,
  ):
    linear = functools.partial(
      nnx.Linear, use_bias=bias, kernel_init=initializer(init_std), dtype=dtype, rngs=rngs
    )
    self.activation, self.dropout = activation, dropout
    product = functools.partial(placement.Product, kept=kept)
    self.up = linear(dim, hidden, dot_general=product("mlp/up/kernel"))
    gate = linear(dim, hidden, dot_general=product("mlp/gate/kernel")) if gated else None
    self.gate = gate
    self.down = linear(hidden, dim, dot_general=product("mlp/down/kernel"))

  def __call__(self, x_BTD, key=None):
    h_BTF = self.up(x_BTD)
    act = ACTIVATIONS[self.activation]
    h_BTF = act(h_BTF) if self.gate is None else act(self.gate(x_BTD)) * h_BTF
    return self.down(placement.within(dropout(h_BTF, self.dropout, key)))


def written(cached_BSGK, new_BTGK, positions_BT):
  """The cache with one new token at its position, or with the first T at once: [B, S, G, K]."""
  if new_BTGK.shape[1] > 1:
    return cached_BSGK.at[:, : new_BTGK.shape[1]].set(new_BTGK)
  here_BS = jnp.arange(cached_BSGK.shape[1]) == positions_BT
  return jnp.where(here_BS[..., None, None], new_BTGK, cached_BSGK)
