"""Tensors of safetensors files as our weights, by a family's rows, and back. Strict both ways."""

import contextlib
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.interop.families import Family, Row

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# A name and no path, so none leads out of the folder. Links in it are followed: whoever put them
# there owns the folder, and Hugging Face's cache is made of such.
SHARD = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
SHARD_BYTES = 5 * 10**9  # of a file that is written
# Fields of TransformerConfig that are sizes of tensors.
SIZES = ("vocab_size", "dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "embedding_dim")
SIZES += ("token_types", "relative_buckets", "position_offset")
MOST_POSITIONS = 1 << 24
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


class Tensors:
  """The tensors of a folder's safetensors files by name, each read when it is asked for."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.shapes, self._stored = {}, {}
    for path in _files(folder):
      # the library refuses what does not cover the file exactly, before it reads or makes a tensor
      try:
        file = safetensors.safe_open(path, framework="np")
        found = {stored: file.get_slice(stored) for stored in list(file.keys())}
      except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
          f"{path}: no whole safetensors file ({error}{_beyond(path)}); fetch it again"
        ) from error
      for stored, tensor in found.items():
        # as TensorFlow called a norm's two; of ESM and of old BERTs
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", stored))
        if tensor.get_dtype() not in DTYPES:
          raise UserError(
            f"{path}: {stored} is of {tensor.get_dtype()}; read are {', '.join(DTYPES)}"
          )
        if name in self.shapes:
          raise UserError(f"{path}: {stored} is there twice, in this file or another, as {name}")
        self.shapes[name] = tuple(tensor.get_shape())
        self._stored[name] = file, stored

  def __contains__(self, name: str) -> bool:
    return name in self.shapes

  def __getitem__(self, name: str) -> np.ndarray:
    file, stored = self._stored[name]
    with as_user_error(f"{self.folder}: {stored} cannot be read"):
      return np.asarray(file.get_tensor(stored), np.float32)


def _beyond(path) -> str:
  """Which tensor ends behind the file's end, for a message; the library names none."""
  with contextlib.suppress(Exception):  # of a header that is none the library says what is wrong
    size = path.stat().st_size
    with open(path, "rb") as file:
      length = min(int.from_bytes(file.read(8), "little"), json_files.MOST_BYTES)
      header = json.loads(file.read(length))
    for name, told in header.items():
      if name != "__metadata__" and told["data_offsets"][1] > size:
        return f"; {name} would end at byte {told['data_offsets'][1]} of {size}"
  return ""


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
  index = json_files.read(folder / INDEX)
  if not index.get("weight_map") or not json_files.fits(index["weight_map"], dict[str, str]):
    raise UserError(f"{folder / INDEX}: no index of shards: weight_map is no dict[str, str]")
  names = sorted(set(index["weight_map"].values()))
  if bad := [name for name in names if not SHARD.fullmatch(name)]:
    raise UserError(f"{folder / INDEX}: weight_map has {bad[0]!r}, no name of a .safetensors file")
  if missing := [name for name in names if not (folder / name).is_file()]:
    raise UserError(f"{folder / INDEX} names files that are not there: {', '.join(missing)}")
  return [folder / name for name in names]


def check_sizes(tensors: Tensors, family: Family, model: Mapping, where) -> None:
  """UserError if config.json's model (the fields of TransformerConfig) is larger than the tensors
  there: nothing may be built of it. Which of them do not fit a smaller one, `read` tells then."""
  for side in ("encoder", "decoder"):
    names = [row.theirs for row in family.rows if row.ours.startswith(f"{side}/blocks/")]
    found = re.compile("|".join(re.escape(name).replace(r"\{\}", r"(\d{1,9})") for name in names))
    there = len({one[one.lastindex] for one in map(found.search, tensors.shapes) if one and names})
    if (told := model[f"{side}_layers"]) > there:
      raise UserError(
        f"{where}: {side}_layers is {told}, but {names[0].format(there)} is not there: the tensors"
        f" have {there} layers"
      )
  most = max(map(math.prod, tensors.shapes.values()), default=0)
  for name in SIZES:
    if (model[name] or 0) > most:
      raise UserError(
        f"{where}: {name} is {model[name]}, and the largest tensor has {most} numbers"
      )
  if model["max_len"] > MOST_POSITIONS:
    raise UserError(f"{where}: {model['max_len']} positions; at most {MOST_POSITIONS} are read")


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
    size = math.prod(tensors.shapes[name]) // (1 if row.part is None else 3)
    if size != math.prod(shape) or (row.how == "same" and tensors.shapes[name] != shape):
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
