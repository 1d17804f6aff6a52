"""Multiplies activations by a layer's weight, whose gradient is one product over all rows."""

import contextvars
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from model import placement

ONES = 8
_AUTODIFF = contextvars.ContextVar("autodiff", default=False)


@dataclasses.dataclass(frozen=True)
class WeightProduct:
  """A layer's `dot_general`: `product`, after model/placement.py has gathered the weight.

  `name` is the end of the weight's path. With `saves_inputs` the backward pass gathers the weight
  again instead of keeping it gathered; without `saves_inputs` (under remat) the whole layer,
  gathering included, is computed again.
  """

  name: str
  saves_inputs: bool

  def __call__(self, x, weight, *args, **kwargs):
    place = placement.current()
    if not place.gathers:
      return product(x, weight, *args, **kwargs)

    def gathered(x, weight):
      return product(x, place.gather(weight, self.name), *args, **kwargs)

    return (jax.checkpoint(gathered) if self.saves_inputs else gathered)(x, weight)


def product(x, weight, dimension_numbers, precision=None, **more):
  """Returns [..., *out], the `jax.lax.dot_general` of `x` [..., *in] and `weight` [*in, *out].

  The gradient of the weight is a product of [N, in] with [N, out], where N counts all rows.
  Autodiff contracts several axes instead, for which XLA on CPU transposes the gradient of the
  output an element at a time: a third of the step of a small translation model. On a TPU autodiff's
  is the better one: reshaped rows cost copies of heads' vectors, an eighth of the step of Vaswani's
  base. The result is named "product" for layers.REMAT, whose policies see no product inside a
  written-out gradient. Raises ValueError for any other contraction.
  """
  (x_axes, w_axes), batch = dimension_numbers
  count = len(w_axes)
  more = {name: value for name, value in more.items() if value is not None}
  if (tuple(x_axes), tuple(w_axes)) != _axes(x, count) or any(map(len, batch)) or more:
    raise ValueError(f"not a layer's product: {dimension_numbers}, {more}")
  multiply = _multiply if _AUTODIFF.get() else _product
  return checkpoint_name(multiply(x, weight, count, precision), "product")


def add_bias(y, bias):
  """Returns [..., *out], the sum of `y` and a layer's bias [*out].

  On a TPU the gradient of the bias is a product of ones and all rows. By its compiler's estimates
  Vaswani's base is a twelfth faster so than by sums of gradients that come from attention kernels.
  """
  return y + bias if _AUTODIFF.get() else _add_bias(y, bias)


@jax.custom_vjp
def _add_bias(y, bias):
  return y + bias


def _add_bias_gradient(bias, gradient):
  axes = tuple(range(gradient.ndim - bias.ndim))

  def summed(gradient):
    return jax.lax.reduce_sum(gradient, axes)

  def product(gradient):  # with ONES columns, as XLA makes a sum of a product with one
    ones = jnp.ones((*gradient.shape[: len(axes)], ONES), gradient.dtype)
    return jax.lax.dot_general(ones, gradient, ((axes, axes), ((), ())))[0]

  return gradient, jax.lax.platform_dependent(gradient, tpu=product, default=summed)


_add_bias.defvjp(lambda y, bias: (y + bias, bias), _add_bias_gradient)


def use_autodiff():
  """Leaves gradients to autodiff until the block ends.

  JAX does not record the lines that led to an operation whose gradient is written out.
  """
  return placement.bind(_AUTODIFF, True)


def _axes(x, count):
  """Returns the contracted axes: the last `count` of `x`, the first `count` of the weight."""
  return tuple(range(x.ndim - count, x.ndim)), tuple(range(count))


def _multiply(x, weight, count, precision):
  return jax.lax.dot_general(x, weight, (_axes(x, count), ((), ())), precision=precision)


_product = jax.custom_vjp(_multiply, nondiff_argnums=(2, 3))


def _backward(count, precision, saved, y):
  x, weight = saved
  rows = math.prod(x.shape[: x.ndim - count])
  outs = weight.ndim - count
  axes = tuple(range(y.ndim - outs, y.ndim)), tuple(range(count, weight.ndim))
  to_x = jax.lax.dot_general(y, weight, (axes, ((), ())), precision=precision)

  def over(row_axes, x, y):
    contracted = tuple(range(row_axes))
    numbers = (contracted, contracted), ((), ())
    return jax.lax.dot_general(x, y, numbers, precision=precision).reshape(weight.shape)

  def over_rows(x, y):
    return over(1, x.reshape(rows, -1), y.reshape(rows, -1))

  over_axes = functools.partial(over, x.ndim - count)
  return to_x, jax.lax.platform_dependent(x, y, tpu=over_axes, default=over_rows)


_product.defvjp(lambda x, weight, *more: (_multiply(x, weight, *more), (x, weight)), _backward)
