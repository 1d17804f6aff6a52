"""Defines feed-forward networks, norms, softmax and dropout, from which every stack is built.

The axis letters are the same in every file and every einsum, and an array's name ends in its axes:
  B batch   T query (target) positions   S key (source) positions   D model
  H heads   G key/value groups   R query heads per group (H = G * R)   K head size
  F feed-forward   V vocabulary   N beams
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from model import matmul
from model.placement import constrain

ACTIVATIONS = {
  "relu": jax.nn.relu,
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "silu": jax.nn.silu,
  "tanh": jnp.tanh,
}
GLOROT = nnx.initializers.xavier_uniform()
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
  """Splits a key, or a key for each row [B], into `num`; splits None (no dropout) into Nones."""
  if key is None:
    return (None,) * num
  if key.ndim == 0:
    return jax.random.split(key, num)
  return jax.vmap(functools.partial(jax.random.split, num=num), out_axes=1)(key)


def hash_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns a uint32 for each position, two rounds of a 32-bit finalizer over its index.

  The index counts in the whole array or, with a key for each row (the first axis), in the row. The
  bits are good enough to drop units, not for cryptography. Unlike threefry's bits they fuse into
  their consumer, and each device computes only its own part.
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
  """Returns `x` with elements zeroed with probability `rate`, the others over 1 - rate."""
  if key is None or rate == 0.0:
    return x
  keep = hash_bits(key, x.shape) >= jnp.uint32(round(rate * 2**32))
  return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def softmax(logits, dtype):
  """Returns the softmax of the last axis in `dtype`, computed in float32.

  The backward pass keeps the result in `dtype`. Autodiff would keep it in float32 too, which for
  bfloat16 weights is three times as much.
  """
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


def softcap(x, cap: float | None):
  """Returns `x` bent into the range from -cap to cap (Gemma 2, section 2); None: no cap."""
  return x if cap is None else cap * jnp.tanh(x / cap)


def norm(cfg, dim: int | None = None, *, rngs: nnx.Rngs):
  """Builds the config's norm of the last axis (by default `cfg.dim`), with float32 statistics."""
  options = dict(epsilon=cfg.norm_eps, dtype=cfg.dtype, rngs=rngs)
  if cfg.norm == "layer":
    options["use_bias"] = cfg.norm_bias
  return NORMS[cfg.norm](dim or cfg.dim, **options)


def initializer(std: float | None, default=GLOROT):
  """Returns a normal initializer of that deviation, or `default` for None."""
  return default if std is None else nnx.initializers.normal(std)


def dense(cfg, inputs: int, outputs: int, *, rngs: nnx.Rngs, **options) -> nnx.Linear:
  """Builds a linear layer outside of the sublayers; `options` replace what the config sets."""
  options = dict(kernel_init=initializer(cfg.init_std), dtype=cfg.dtype) | options
  return nnx.Linear(inputs, outputs, rngs=rngs, **options)


def linear(cfg, inputs, outputs, name: str, *, bias: bool | None = None, rngs: nnx.Rngs):
  """Builds a linear layer from axes `inputs` to axes `outputs`, each a size or a tuple of sizes.

  `name` is the end of its kernel's path, by which model/placement.py gathers it; `bias` is by
  default the config's.
  """
  options = dict(
    use_bias=cfg.bias if bias is None else bias,
    kernel_init=initializer(cfg.init_std),
    dot_general=matmul.WeightProduct(name, saves_inputs=cfg.remat == "none"),
    dtype=cfg.dtype,
    rngs=rngs,
  )
  if isinstance(inputs, tuple):
    axes = tuple(range(-len(inputs), 0))
    return nnx.LinearGeneral(inputs, outputs, axis=axes, **options)
  if isinstance(outputs, tuple):
    return ToHeads(inputs, outputs, **options)
  return nnx.Linear(inputs, outputs, **options)


class ToHeads(nnx.LinearGeneral):
  """A linear layer from the last axis to several, whose bias `matmul.add_bias` adds."""

  def __call__(self, x):
    """Returns the product of `x` [..., in] with the weight, and its bias, [..., *out]."""
    bias = None if self.bias is None else self.bias[...]
    x, weight, bias = self.promote_dtype((x, self.kernel[...], bias), dtype=self.dtype)
    y = self.dot_general(x, weight, (((x.ndim - 1,), (0,)), ((), ())))
    return y if bias is None else matmul.add_bias(y, bias)


class FeedForward(nnx.Module):
  """A position-wise network; a gated one has act(x W_gate) * (x W_up) (Shazeer 2020, GLU)."""

  def __init__(self, cfg, *, rngs: nnx.Rngs):
    self.activation, self.dropout = cfg.activation, cfg.activation_dropout
    make = functools.partial(linear, cfg, bias=cfg.mlp_bias, rngs=rngs)
    self.up = make(cfg.dim, cfg.mlp_dim, "mlp/up/kernel")
    self.gate = make(cfg.dim, cfg.mlp_dim, "mlp/gate/kernel") if cfg.gated else None
    self.down = make(cfg.mlp_dim, cfg.dim, "mlp/down/kernel")

  def __call__(self, x_BTD, key=None):
    """Returns the output [B, T, D]."""
    h_BTF = self.up(x_BTD)
    act = ACTIVATIONS[self.activation]
    h_BTF = act(h_BTF) if self.gate is None else act(self.gate(x_BTD)) * h_BTF
    return self.down(constrain(dropout(h_BTF, self.dropout, key), "hidden"))
