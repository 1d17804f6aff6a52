"""Writes our weights as the tensors of safetensors files, by the rows of a family."""

import json
import pathlib
from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from train.interop.families.base import Family, Row, reordered
from train.interop.weights import INDEX, SINGLE, outputs_axis, tensor_of

SHARD_BYTES = 5 * 10**9  # the most of a file that is written


def to_theirs(weight: np.ndarray, row: Row) -> np.ndarray:
  """Returns a weight as a tensor, or as the row's part of one."""
  if row.how in ("linear", "conv"):
    shape = (-1, weight.shape[-1]) if row.ours.endswith("out/kernel") else (len(weight), -1)
    matrix = weight.reshape(shape)
    return np.ascontiguousarray(matrix.T if row.how == "linear" else matrix)
  if row.how == "conv1d":
    width = weight.shape[0] // weight.shape[1]
    return np.ascontiguousarray(weight.reshape(width, -1, weight.shape[1]).transpose(2, 1, 0))
  if row.how == "gain":
    return weight - 1
  if row.how == "vector":
    return weight.reshape((1, -1) if row.theirs == "final_logits_bias" else -1)
  return weight


def switches(family: Family, kind: str, model: Mapping, params: Mapping) -> dict[str, bool]:
  """Returns the fields of config.json that say whether there are tensors of weights that may be
  zeros (Row.switch), for our weights."""
  rows, on = family.rows_of(kind, model), {}
  for path, weight in params.items():
    if switch := tensor_of(path, rows, "")[1].switch:
      on[switch[0]] = on.get(switch[0], False) or bool(np.any(weight))
  return on


def write(
  folder: pathlib.Path,
  family: Family,
  kind: str,
  model: Mapping,
  params: Mapping,
  on: Mapping[str, bool],
) -> None:
  """Writes our weights (path -> array) as model.safetensors, in shards with an index if they are
  large. `model` has the fields of TransformerConfig, `on` what `switches` returns."""
  parts, heads, prefix = {}, {}, "" if kind in family.bare else family.prefix_of(kind)
  rows = family.rows_of(kind, model)
  for path, weight in params.items():
    name, row = tensor_of(path, rows, prefix)
    if not row.switch or on[row.switch[0]]:
      pieces = parts.setdefault((name, outputs_axis(row)), {})
      pieces[row.part or 0] = to_theirs(np.asarray(weight, np.float32), row)
      heads |= {name: (row.parts, weight.shape[-2])} if row.by_head else {}
  whole = {
    name: np.ascontiguousarray(np.concatenate([pieces[i] for i in sorted(pieces)], axis=axis))
    for (name, axis), pieces in sorted(parts.items())
  } | family.make(model)
  whole |= {name: reordered(whole[name], *order) for name, order in heads.items()}
  if not model["tie_output"]:
    whole |= {theirs: whole[name] for name, theirs in family.untied.items() if name in whole}
  shards, size = [{}], 0
  for name, tensor in whole.items():
    if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
      shards.append({})
      size = 0
    shards[-1][name] = tensor
    size += tensor.nbytes
  meta = {"format": "pt"}  # transformers requires it
  if len(shards) == 1:
    safetensors.numpy.save_file(shards[0], folder / SINGLE, meta)
    return
  where = {}
  for number, shard in enumerate(shards, 1):
    file = f"model-{number:05}-of-{len(shards):05}.safetensors"
    safetensors.numpy.save_file(shard, folder / file, meta)
    where |= dict.fromkeys(shard, file)
  total = sum(tensor.nbytes for tensor in whole.values())
  index = dict(metadata=dict(total_size=total), weight_map=where)
  (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
