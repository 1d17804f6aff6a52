"""Activations times a layer's weight, with the weight's gradient as one product over all rows."""

import contextlib
import contextvars
import math

import jax
from jax.ad_checkpoint import checkpoint_name

_AUTODIFF = contextvars.ContextVar("autodiff", default=False)


def product(x, weight, dimension_numbers, precision=None, **more):
  """`jax.lax.dot_general` of `x` [..., *in] and `weight` [*in, *out]: [..., *out].

  The gradient of the weight is [N, in] times [N, out], where N are all rows. Autodiff's contracts
  several axes, for which XLA on CPU first transposes the gradient of the output, an element at a
  time: a third of the step of a small translation model, most of it for its logits. The result
  is named "product" for layers.REMAT, whose policies see no product in a written-out gradient.
  """
  (x_axes, w_axes), batch = dimension_numbers
  count = len(w_axes)
  more = {name: value for name, value in more.items() if value is not None}
  if (tuple(x_axes), tuple(w_axes)) != _axes(x, count) or any(map(len, batch)) or more:
    raise ValueError(f"not a layer's product: {dimension_numbers}, {more}")
  multiply = _plain if _AUTODIFF.get() else _product
  return checkpoint_name(multiply(x, weight, count, precision), "product")


@contextlib.contextmanager
def by_autodiff():
  """Within, gradients are autodiff's: of an operation whose gradient is written out, JAX forgets
  which lines led to it."""
  token = _AUTODIFF.set(True)
  try:
    yield
  finally:
    _AUTODIFF.reset(token)


def _axes(x, count):
  """What is summed over: the last `count` of `x`, the first of the weight."""
  return tuple(range(x.ndim - count, x.ndim)), tuple(range(count))


def _plain(x, weight, count, precision):
  return jax.lax.dot_general(x, weight, (_axes(x, count), ((), ())), precision=precision)


_product = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _forward(x, weight, count, precision):
  return _plain(x, weight, count, precision), (x, weight)


def _backward(count, precision, saved, y):
  x, weight = saved
  rows = math.prod(x.shape[: x.ndim - count])
  outs = weight.ndim - count
  axes = tuple(range(y.ndim - outs, y.ndim)), tuple(range(count, weight.ndim))
  to_x = jax.lax.dot_general(y, weight, (axes, ((), ())), precision=precision)
  flat = x.reshape(rows, -1), y.reshape(rows, -1)
  to_weight = jax.lax.dot_general(*flat, (((0,), (0,)), ((), ())), precision=precision)
  return to_x, to_weight.reshape(weight.shape)


_product.defvjp(_forward, _backward)
