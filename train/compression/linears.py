"""Finds a model's linear layers by patterns of their paths, to give them other products.

A layer is changed from outside: its class becomes a subclass, and it may get weights beside its
kernel. Its kernel keeps its path.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence

from flax import nnx

from train.common.errors import UserError, did_you_mean
from train.common.trees import is_stacked

KINDS = (nnx.Linear, nnx.LinearGeneral)


def find(
  model: nnx.Module, patterns: Sequence[str], key: str, *more: type
) -> dict[str, nnx.Module]:
  """Returns path -> layer of the linear layers, and modules of the types `more`, whose path
  (encoder/blocks/0/mlp/up) matches one of the patterns by `re.search`.

  Raises UserError with `key` for a pattern that matches none.
  """
  every = {
    "/".join(map(str, path)): module
    for path, module in nnx.iter_modules(model)
    if isinstance(module, (*KINDS, *more))
  }
  for pattern in patterns:
    try:
      matches = any(re.search(pattern, path) for path in every)
    except re.error as error:
      raise UserError(f"{key}: {pattern!r} is no pattern: {error}") from None
    if not matches:
      raise no_match(key, pattern, every, "layer")
  return {
    path: module
    for path, module in every.items()
    if any(re.search(pattern, path) for pattern in patterns)
  }


def no_match(key: str, pattern: str, paths: Iterable[str], what: str) -> UserError:
  """Returns the error of a pattern of `key` that matches none of the paths, with near ones."""
  known = sorted({re.sub(r"\d+", "0", path) for path in paths})
  words = sorted({word for path in known for word in (path, *path.split("/"))})
  return UserError(
    f"{key}: {pattern!r} matches no {what}; there are {', '.join(known[:8])}, ..."
    + did_you_mean(pattern.strip("^$()"), words)
  )


def shapes(path: str, layer: nnx.Module) -> tuple[tuple, tuple, tuple]:
  """Returns the axes of a layer's kernel: those of stacked layers (one or none), in and out; the
  kernel itself may be packed."""
  stacked = layer.kernel.shape[:1] if is_stacked(f"{path}/kernel") else ()
  sides = layer.in_features, layer.out_features
  return stacked, *((side,) if isinstance(side, int) else tuple(side) for side in sides)


def flat_product(x, weight, count: int):
  """Returns [..., out], the product of the last `count` axes of `x` with `weight` [in, out]."""
  size = math.prod(x.shape[x.ndim - count :])
  return x.reshape(*x.shape[: x.ndim - count], size) @ weight


def change(module: nnx.Module, make: Callable[[type], type]) -> None:
  """Gives the module the class that `make` returns for its own, a subclass of that."""
  object.__setattr__(module, "__class__", _made(make, type(module)))


@functools.cache
def _made(make: Callable[[type], type], module_class: type) -> type:
  return make(module_class)
