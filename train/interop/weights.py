"""Tensors of safetensors files as our weights, by a family's rows, and back. Strict both ways."""

import json
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from train.errors import UserError
from train.interop.families import Family, Row

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # of a file that is written
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


class Tensors:
  """The tensors of a folder's safetensors files by name, each read when it is asked for."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.shapes, self._stored = {}, {}
    for path in _files(folder):
      try:
        file = safetensors.safe_open(path, framework="np")
      except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: no whole safetensors file ({error}); fetch it again") from error
      for stored in list(file.keys()):
        # as TensorFlow called a norm's two; of ESM and of old BERTs
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", stored))
        self.shapes[name] = tuple(file.get_slice(stored).get_shape())
        self._stored[name] = file, stored

  def __contains__(self, name: str) -> bool:
    return name in self.shapes

  def __getitem__(self, name: str) -> np.ndarray:
    file, stored = self._stored[name]
    return np.asarray(file.get_tensor(stored), np.float32)


def _files(folder) -> list[pathlib.Path]:
  if (folder / SINGLE).exists():
    return [folder / SINGLE]
  if not (folder / INDEX).exists():
    found = [name for name in PICKLED if (folder / name).exists()]
    why = (
      f"; {found[0]} is not read: a pickle can run any program, and the other forms are out of use."
      " Load it with transformers, where you trust it, and save_pretrained(...) writes safetensors"
      if found
      else ""
    )
    raise UserError(f"{folder}: holds neither {SINGLE} nor {INDEX}{why}")
  try:
    names = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{folder / INDEX}: no index of shards ({error!r})") from error
  paths = [folder / name for name in sorted(set(names))]
  if missing := [path.name for path in paths if not path.exists()]:
    raise UserError(f"{folder / INDEX} names files that are not there: {', '.join(missing)}")
  return paths


class Weight:
  """A weight of ours, made of its tensor when numpy asks for it."""

  dtype = np.dtype(np.float32)

  def __init__(self, tensors: Tensors, name: str, row: Row, shape: tuple[int, ...]):
    self.tensors, self.name, self.row, self.shape = tensors, name, row, shape

  def __array__(self, dtype=None, copy=None):
    del copy
    return to_ours(self.tensors[self.name], self.row, self.shape).astype(dtype or np.float32)


def to_ours(tensor: np.ndarray, row: Row, shape) -> np.ndarray:
  """A tensor, or its part, as a weight of that shape."""
  if row.part is not None:
    tensor = np.split(tensor, 3, axis=-1)[row.part]
  return (tensor.T if row.how == "linear" else tensor).reshape(shape)


def to_theirs(weight: np.ndarray, row: Row) -> np.ndarray:
  """A weight as a tensor, or a part of one."""
  if row.how in ("linear", "conv"):
    outputs = weight.shape[-1] if row.ours.endswith("out/kernel") else None
    matrix = weight.reshape(-1, outputs) if outputs else weight.reshape(len(weight), -1)
    return np.ascontiguousarray(matrix.T if row.how == "linear" else matrix)
  if row.how == "vector":
    return weight.reshape((1, -1) if row.theirs == "final_logits_bias" else -1)
  return weight


def template(path: str) -> tuple[str, str]:
  """Our weight's path with {} for its layer, and the layer's number ("" if it is in none)."""
  number = next(iter(re.findall(r"/blocks/(\d+)/", path)), "")
  return re.sub(r"/blocks/\d+/", "/blocks/{}/", path), number


def named(family: Family, kind: str, gated: bool, path: str, prefix: str) -> tuple[str, Row] | None:
  """The tensor's name for our weight, and its row; None where the family has none such."""
  ours, number = template(path)
  for row in family.rows_of(kind, gated):
    if row.ours == ours:
      return (prefix if row.body else "") + row.theirs.format(number), row
  return None


def read(
  tensors: Tensors, family: Family, kind: str, gated: bool, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Weight]:
  """Each of our weights (path -> shape), from its tensor.

  UserError that lists the tensors which are not there, are of another shape, or would be lost.
  """
  prefix = family.prefix if any(name.startswith(family.prefix) for name in tensors.shapes) else ""
  found, wrong, used = {}, [], set()
  for path, shape in shapes.items():
    known = named(family, kind, gated, path, prefix)
    if known is None:
      raise UserError(f"{family.model_type} has no tensor for our {path}: config.json is no such")
    name, row = known
    if name not in tensors:  # perhaps a copy of it
      copies = [one for one in tensors.shapes if _original(one, family, prefix) == name]
      name = copies[0] if copies else name
    used.add(name)
    if name == "final_logits_bias" and name not in tensors:
      found[path] = np.zeros(shape, np.float32)  # as transformers has it then
      continue
    if name not in tensors:
      wrong.append(f"{name} is not there")
      continue
    size = int(np.prod(tensors.shapes[name])) // (1 if row.part is None else 3)
    if size != int(np.prod(shape)) or (row.how == "same" and tensors.shapes[name] != shape):
      wrong.append(f"{name} has shape {tensors.shapes[name]}, config.json says {shape} in all")
      continue
    found[path] = Weight(tensors, name, row, shape)
  left = []
  for name in sorted(tensors.shapes.keys() - used):
    copied = _original(name, family, prefix)
    if re.search(family.computed, name):
      continue
    if re.search(family.left_out, name) or (kind == "body" and _of_a_head(name, family)):
      left.append(name)
    elif copied is None:
      wrong.append(f"{name} has no counterpart here")
    elif copied in tensors and not np.array_equal(tensors[name], tensors[copied]):
      wrong.append(f"{name} is to be a copy of {copied}, and is not")
  if wrong:
    raise UserError(f"{tensors.folder}: tensors do not fit a {family.model_type}:" + listed(wrong))
  if left:
    logging.info("%s: left out, as nothing here uses it: %s", tensors.folder, ", ".join(left))
  return found


def _of_a_head(name: str, family: Family) -> bool:
  """Whether it is a tensor of one of the family's heads."""
  rows = [row for rows in family.heads.values() for row in rows if not row.body]
  return name in family.copies or any(name == row.theirs for row in rows)


def _original(name: str, family: Family, prefix: str) -> str | None:
  """The tensor that this one repeats; the table's names are those of a model with a head."""
  if prefix:
    return family.copies.get(name)
  found = family.copies.get(family.prefix + name)
  return found and found.removeprefix(family.prefix)


def write(
  folder: pathlib.Path, family: Family, kind: str, model: Mapping, params: Mapping[str, np.ndarray]
) -> None:
  """Our weights (path -> array) as model.safetensors, in shards with an index if they are large.
  `model` are the fields of TransformerConfig."""
  parts, prefix = {}, "" if kind == "body" else family.prefix
  for path, weight in params.items():
    name, row = named(family, kind, model["gated"], path, prefix)
    parts.setdefault(name, {})[row.part or 0] = to_theirs(np.asarray(weight, np.float32), row)
  whole = {
    name: np.ascontiguousarray(np.concatenate([made[i] for i in sorted(made)], axis=-1))
    for name, made in sorted(parts.items())
  } | family.make(model)
  shards, size = [{}], 0
  for name, tensor in whole.items():
    if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
      shards.append({})
      size = 0
    shards[-1][name] = tensor
    size += tensor.nbytes
  meta = {"format": "pt"}  # transformers asks for it
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


def listed(lines: Iterable[str], most: int = 20) -> str:
  """The lines below one another, of many the first."""
  lines = list(lines)
  more = [f"... and {len(lines) - most} more"] if len(lines) > most else []
  return "".join(f"\n  {line}" for line in [*lines[:most], *more])
