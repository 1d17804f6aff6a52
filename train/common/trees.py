"""Names the leaves of trees by their paths, and stacks the weights of layers and splits them.

Without model.scan_layers each layer has its own weights (encoder/blocks/0/...); with it, layers are
stacked along a leading axis (encoder/blocks/...), except for the first ones of a model whose number
of layers is no multiple of the period in which its layers differ (encoder/lead/0/...).
"""

import collections
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

BEGINNING = 4096  # numbers of a weight that its checksum is of
_ONE = re.compile(r"(^|.*/)blocks/(\d+)/(.*)")
_ALL = re.compile(r"(^|.*/)blocks/(?!\d+/)(.*)")
_LEAD = re.compile(r"(^|.*/)lead/(\d+)/(.*)")


def is_stacked(path: str) -> bool:
  """Returns whether the weight at `path` has the layers as its first axis."""
  return _ALL.fullmatch(path) is not None


def unstack_layers(weights: Mapping) -> dict:
  """Returns `path -> array` with each layer's weights under its own path."""
  split, leads = {}, leading(weights)
  for path, weight in weights.items():
    if match := _ALL.fullmatch(path):
      for layer, part in enumerate(weight, start=leads[match[1]]):
        split[f"{match[1]}blocks/{layer}/{match[2]}"] = part
    elif match := _LEAD.fullmatch(path):
      split[f"{match[1]}blocks/{match[2]}/{match[3]}"] = weight
    else:
      split[path] = weight
  return split


def stack_layers(weights: Mapping, like: Mapping | None = None) -> dict:
  """Returns `path -> array` with the weights of layers stacked under one path.

  All layers of all stacks are, or those that are stacked in the paths of `like`.
  """
  others, layers = {}, collections.defaultdict(dict)
  leads = leading(like or {})
  stacked = None if like is None else {m[1] for m in map(_ALL.fullmatch, like) if m}
  for path, weight in weights.items():
    match = _ONE.fullmatch(path)
    if not match or (stacked is not None and match[1] not in stacked):
      others[path] = weight
    elif int(match[2]) < leads[match[1]]:
      others[f"{match[1]}lead/{match[2]}/{match[3]}"] = weight
    else:
      layers[f"{match[1]}blocks/{match[3]}"][int(match[2])] = np.asarray(weight)
  return others | {
    path: np.stack([parts[layer] for layer in sorted(parts)]) for path, parts in layers.items()
  }


def match_layers(weights: Mapping, others: Mapping) -> dict:
  """Returns `weights` with the layers stacked that are stacked in `others`."""
  return stack_layers(unstack_layers(weights), like=others)


def single_layers(path: str, leads: Mapping[str, int]) -> str:
  """Returns a pattern of the paths that `path` has where each layer has its own; `leads` are those
  of the weights (`leading`)."""
  if match := _ALL.fullmatch(path):
    first = "|".join(map(str, range(leads[match[1]])))
    number = rf"(?!(?:{first})/)\d+" if first else r"\d+"
    return f"{match[1]}blocks/{number}/{match[2]}"
  return _LEAD.sub(r"\1blocks/\2/\3", path)


def leading(paths) -> collections.Counter:
  """Returns the number of layers of each stack ("encoder/") that stand before the stacked ones."""
  layers = {(match[1], match[2]) for match in map(_LEAD.fullmatch, paths) if match}
  return collections.Counter(stack for stack, _ in layers)


def flatten(tree) -> dict:
  """Returns path -> leaf of a tree."""
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def path_name(path) -> str:
  """Returns a tree path as one string: `encoder/blocks/0/self_attention/query/kernel`."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def replace(tree, leaves: Mapping):
  """Returns the tree with the leaves that `leaves` has by path, in place of its own."""
  return jax.tree_util.tree_map_with_path(lambda path, x: leaves.get(path_name(path), x), tree)


def join(*parts: Mapping) -> dict:
  """Returns the nested dict of the leaves of several, of which no two have the same leaf."""
  whole: dict = {}
  for part in parts:
    for key, value in part.items():
      both = key in whole and isinstance(value, Mapping)
      whole[key] = join(whole[key], value) if both else value
  return whole


def keep(tree: Mapping, wanted: Callable[[str], bool], above: str = "") -> dict:
  """Returns the nested dict of the leaves of a tree whose paths are `wanted`."""
  kept = {}
  for key, value in tree.items():
    path = f"{above}{key}"
    if isinstance(value, Mapping):
      if inner := keep(value, wanted, f"{path}/"):
        kept[key] = inner
    elif wanted(path):
      kept[key] = value
  return kept


def checksum(weights: Mapping) -> int:
  """Returns a checksum of the beginning of each weight (path -> array), by which others are told
  apart."""
  crc = 0
  for path in sorted(weights):
    start = np.asarray(weights[path]).reshape(-1)[:BEGINNING]
    crc = zlib.crc32(path.encode() + start.tobytes(), crc)
  return crc


def beginnings(weights: Mapping) -> dict:
  """Returns path -> the first rows of each array, which have what `checksum` reads of it."""
  rows = {path: -(-BEGINNING // max(1, math.prod(x.shape[1:]))) for path, x in weights.items()}
  return {path: x[: rows[path]] if x.ndim else x for path, x in weights.items()}


def choose_layers(weights: Mapping, stack: str, layers: Sequence[int]) -> dict:
  """Returns `path -> array` of which the layers of `stack` ("encoder") are those of `weights` with
  these numbers, in this order; each layer has its own path (see `unstack_layers`)."""
  chosen, start = {}, f"{stack}/blocks/"
  for path, weight in weights.items():
    if not path.startswith(start):
      chosen[path] = weight
      continue
    number, rest = path.removeprefix(start).split("/", 1)
    for new, old in enumerate(layers):
      if old == int(number):
        chosen[f"{start}{new}/{rest}"] = weight
  return chosen


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
