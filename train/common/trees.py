"""Weights of layers one by one (encoder/blocks/0/...) and stacked (encoder/blocks/..., a leading
axis): how they lie with model.scan_layers. As `path -> array`."""

import collections
import re
from collections.abc import Mapping

import jax
import numpy as np

_ONE = re.compile(r"(^|.*/)blocks/(\d+)/(.*)")
_ALL = re.compile(r"(^|.*/)blocks/(?!\d+/)(.*)")


def is_stacked(path: str) -> bool:
  """Whether the weight at `path` has the layers as its first axis."""
  return _ALL.fullmatch(path) is not None


def unstacked(weights: Mapping) -> dict:
  """Each layer's weights under its own path."""
  found = {}
  for path, weight in weights.items():
    if match := _ALL.fullmatch(path):
      for layer, part in enumerate(weight):
        found[f"{match[1]}blocks/{layer}/{match[2]}"] = part
    else:
      found[path] = weight
  return found


def stacked(weights: Mapping) -> dict:
  """All layers' weights under one path."""
  found, layers = {}, collections.defaultdict(dict)
  for path, weight in weights.items():
    if match := _ONE.fullmatch(path):
      layers[f"{match[1]}blocks/{match[3]}"][int(match[2])] = np.asarray(weight)
    else:
      found[path] = weight
  return found | {
    path: np.stack([parts[layer] for layer in sorted(parts)]) for path, parts in layers.items()
  }


def in_form_of(weights: Mapping, others: Mapping) -> dict:
  """`weights`, stacked if `others` are, else each layer under its own path."""
  return (stacked if any(map(is_stacked, others)) else unstacked)(weights)


def flatten(tree) -> dict:
  """path -> leaf."""
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def path_name(path) -> str:
  """A tree path as one string: `encoder/blocks/0/self_attention/query/kernel`."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
