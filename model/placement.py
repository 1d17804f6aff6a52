"""Where those who compile a model reach into it: it says what it computes, they how that lies.

A model is the same function whatever they do here; without them it is left as it is.
"""

import contextlib
import contextvars
import dataclasses

import jax

from model import matmul

# How a kernel is spread over devices, which the compiler cannot find out: a function from
# `kernel(*arrays)`, for arrays that lead with rows and, if they have four axes, heads, to one that
# takes them wherever they are.
_KERNEL = contextvars.ContextVar("kernel", default=lambda kernel: kernel)
# Where an array lies, by name: "read", activations [B, T, D] that a sublayer or the output reads;
# "between", those that are added, normed or dropped on the way; "within", heads [B, T, H, K] and
# hidden units [B, T, F]; "table", vectors [V, D] to look up.
_ARRAY = contextvars.ContextVar("array", default=lambda name, x: x)
# What is done to a layer's weight, given its name, before it is multiplied with; None: nothing.
_WEIGHT = contextvars.ContextVar("weight", default=None)
# Who looks on at each attention: a function of it, its queries, keys and values, and its view.
_LOOK = contextvars.ContextVar("look", default=lambda *attention: None)


def spread(kernel):
  """The kernel, wherever its arrays are."""
  return _KERNEL.get()(kernel)


def between(x_BTD):
  return _ARRAY.get()("between", x_BTD)


def read(x_BTD):
  return _ARRAY.get()("read", x_BTD)


def within(x_BTH):
  return _ARRAY.get()("within", x_BTH)


def table(x_VD):
  return _ARRAY.get()("table", x_VD)


def look(attention, q_BTHK, k_BSGK, v_BSGK, view):
  """For those who want to see what is attended to: `view.mix` says it of any values."""
  _LOOK.get()(attention, q_BTHK, k_BSGK, v_BSGK, view)


@dataclasses.dataclass(frozen=True)
class Product:
  """`products.product` of activations and a layer's weight, `weight` being its name.

  What is done to the weight is done again for the backward pass: the result is not kept. If not
  `kept`, all of the layer is computed again, and there is nothing to do for that.
  """

  weight: str
  kept: bool

  def __call__(self, x, weight, *args, **kwargs):
    prepare = _WEIGHT.get()
    if prepare is None:
      return matmul.product(x, weight, *args, **kwargs)

    def product(x, weight):
      return matmul.product(x, prepare(self.weight, weight), *args, **kwargs)

    return (jax.checkpoint(product) if self.kept else product)(x, weight)


@contextlib.contextmanager
def use(kernel=None, array=None, weight=None, look=None):
  """Within, these are what is done; None: nothing."""
  values = {_KERNEL: kernel or _nothing, _ARRAY: array or _nothing, _WEIGHT: weight}
  values[_LOOK] = look or _nothing
  tokens = {variable: variable.set(value) for variable, value in values.items()}
  try:
    yield
  finally:
    for variable, token in tokens.items():
      variable.reset(token)


def _nothing(*args):
  return args[-1]
