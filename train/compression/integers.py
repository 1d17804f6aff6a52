"""Turns weights into integers of 8 or 4 bits, or 8-bit floats, with scales for outputs or groups.

qwix quantizes and multiplies; two integers of 4 bits share a byte here.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

TYPES = {"int8": jnp.int8, "int4": jnp.int4, "fp8": jnp.float8_e4m3fn}
LARGEST = {"int8": 127.5, "int4": 7.5, "fp8": 448.0}  # qwix's, over which a scale is taken


class Axes(NamedTuple):
  """The axes of a weight as its product sees them."""

  inputs: tuple[int, ...]  # those that are summed over; scales have none of them, or a part
  packed: int  # along which two integers of 4 bits share a byte

  def channels(self, ndim: int) -> tuple[int, ...]:
    """Returns the axes with a scale for each place."""
    return tuple(axis for axis in range(ndim) if axis not in self.inputs)


def quantize(weight, kind: str, axes: Axes, group: int = 0) -> tuple[jax.Array, jax.Array]:
  """Returns the weight as it is stored, and its scales, float32.

  A scale is the largest magnitude among the inputs of an output over LARGEST[kind]; with `group`,
  among that many neighbours along the last axis of inputs.
  """
  import qwix  # 1 s, which other runs need not wait

  tiled = {axes.inputs[-1]: group} if group else {}
  channels = (*axes.channels(weight.ndim), *(axes.inputs[:-1] if group else ()))
  whole = qwix.quantize(weight, TYPES[kind], channelwise_axes=channels, tiled_axes=tiled)
  values = pack(whole.qvalue, axes.packed) if kind == "int4" else whole.qvalue
  return values, whole.scale.astype(jnp.float32)


def dequantize(values, scale, kind: str, axes: Axes, dtype=jnp.float32) -> jax.Array:
  """Returns the weight that is stored, in `dtype`."""
  values = values_of(values, kind, axes).astype(dtype)
  return values * spread(scale, values.shape).astype(dtype)


def values_of(values, kind: str, axes: Axes):
  """Returns the numbers that are stored, without their scales."""
  return unpack(values, axes.packed) if kind == "int4" else values


def spread(scale, shape):
  """Returns the scale with its groups repeated, so that it broadcasts to `shape`."""
  for axis, (size, count) in enumerate(zip(shape, scale.shape)):
    if count not in (1, size):
      scale = jnp.repeat(scale, size // count, axis)
  return scale


def pack(values, axis: int):
  """Returns uint8 of half the size along the axis, each of two neighbours of 4 bits."""
  pairs = jnp.moveaxis(values.astype(jnp.int8), axis, -1)
  pairs = pairs.reshape(*pairs.shape[:-1], -1, 2).astype(jnp.uint8)
  return jnp.moveaxis((pairs[..., 0] & 15) | (pairs[..., 1] << 4), -1, axis)


def unpack(values, axis: int):
  """Returns the int8 numbers that `pack` has packed."""
  values = jnp.moveaxis(values, axis, -1).astype(jnp.int8)
  pairs = jnp.stack([(values << 4) >> 4, values >> 4], axis=-1)
  return jnp.moveaxis(pairs.reshape(*pairs.shape[:-2], -1), -1, axis)


def product(x, values, scale, kind: str, axes: Axes, activations: str = "", range_of_x=None):
  """Returns [..., *out], the product of `x` [..., *in] with a weight that is stored.

  activations: "int8" or "fp8" quantizes `x` too, each row by its own range, or all by `range_of_x`.
  """
  import qwix

  count = len(axes.inputs)
  numbers = (tuple(range(x.ndim - count, x.ndim)), axes.inputs), ((), ())
  values = values_of(values, kind, axes)
  if activations:
    weight = qwix.QArray(values, scale.astype(x.dtype), qtype=TYPES[kind])
    return qwix.dot_general(quantized_rows(x, activations, count, range_of_x), weight, numbers)
  outputs = [values.shape[axis] for axis in axes.channels(values.ndim)]
  if math.prod(scale.shape) == math.prod(outputs):
    floats = dict(preferred_element_type=jnp.float32)
    y = jax.lax.dot_general(x, values.astype(x.dtype), numbers, **floats)
    return (y * scale.reshape(outputs)).astype(x.dtype)
  weight = values.astype(jnp.float32) * spread(scale, values.shape)
  return jax.lax.dot_general(x, weight.astype(x.dtype), numbers)


def quantized_rows(x, kind: str, count: int, range_of_x=None):
  """Returns `x` as qwix's array, quantized over its last `count` axes or by one range."""
  import qwix

  if range_of_x is None:
    return qwix.quantize(x, TYPES[kind], channelwise_axes=tuple(range(x.ndim - count)))
  scale = (range_of_x / LARGEST[kind]).astype(x.dtype)
  values = x / scale
  if kind == "int8":
    values = jnp.round(values)
  lowest, highest = (-128, 127) if kind == "int8" else (-LARGEST[kind], LARGEST[kind])
  values = jnp.clip(values, lowest, highest).astype(TYPES[kind])
  return qwix.QArray(values, scale.reshape((1,) * x.ndim))


def fake(x, kind: str, axes: Axes, group: int = 0):
  """Returns `x` rounded as `quantize` does, with the gradient of `x` (straight through: Bengio et
  al. 2013; Jacob et al. 2018)."""
  values, scale = quantize(jax.lax.stop_gradient(x), kind, axes, group)
  rounded = dequantize(values, scale, kind, axes, x.dtype)
  return x + jax.lax.stop_gradient(rounded - x)


def fake_rows(x, kind: str, count: int):
  """Returns `x` rounded over its last `count` axes, each row by its own range, as `fake` does."""
  axes = Axes(tuple(range(x.ndim - count, x.ndim)), x.ndim - 1)
  return fake(x, kind, axes)
