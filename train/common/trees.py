"""Names the leaves of trees by their paths, and stacks the weights of layers and splits them.

Without model.scan_layers each layer has its own weights (encoder/blocks/0/...); with it, all layers
are stacked along a leading axis (encoder/blocks/...).
"""

import collections
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

_ONE = re.compile(r"(^|.*/)blocks/(\d+)/(.*)")
_ALL = re.compile(r"(^|.*/)blocks/(?!\d+/)(.*)")


def is_stacked(path: str) -> bool:
  """Returns whether the weight at `path` has the layers as its first axis."""
  return _ALL.fullmatch(path) is not None


def unstack_layers(weights: Mapping) -> dict:
  """Returns `path -> array` with each layer's weights under its own path."""
  split = {}
  for path, weight in weights.items():
    if match := _ALL.fullmatch(path):
      for layer, part in enumerate(weight):
        split[f"{match[1]}blocks/{layer}/{match[2]}"] = part
    else:
      split[path] = weight
  return split


def stack_layers(weights: Mapping) -> dict:
  """Returns `path -> array` with all layers' weights under one path."""
  others, layers = {}, collections.defaultdict(dict)
  for path, weight in weights.items():
    if match := _ONE.fullmatch(path):
      layers[f"{match[1]}blocks/{match[3]}"][int(match[2])] = np.asarray(weight)
    else:
      others[path] = weight
  return others | {
    path: np.stack([parts[layer] for layer in sorted(parts)]) for path, parts in layers.items()
  }


def match_layers(weights: Mapping, others: Mapping) -> dict:
  """Returns `weights`, stacked if `others` are stacked, else each layer under its own path."""
  return (stack_layers if any(map(is_stacked, others)) else unstack_layers)(weights)


def flatten(tree) -> dict:
  """Returns path -> leaf of a tree."""
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def path_name(path) -> str:
  """Returns a tree path as one string: `encoder/blocks/0/self_attention/query/kernel`."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def mean(trees: Sequence):
  """Returns the mean of trees in float32, or the only tree as it is."""
  if len(trees) == 1:
    return trees[0]
  return jax.tree.map(lambda *xs: sum(x.astype(jnp.float32) for x in xs) / len(xs), *trees)


def abstract(x) -> jax.ShapeDtypeStruct:
  """Returns the shape, type and sharding of an array."""
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def on_host(x) -> np.ndarray:
  """Returns a numpy array of that shape that takes no memory and makes Orbax read a numpy array."""
  return np.broadcast_to(np.zeros((), x.dtype), x.shape)
