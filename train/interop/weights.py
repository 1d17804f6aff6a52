"""Converts the tensors of safetensors files to our weights and back, one for one, by the rows of a
family."""

import contextlib
import json
import math
import pathlib
import re
import types
from collections.abc import Callable, Mapping

import numpy as np
import safetensors
import safetensors.numpy
from absl import logging
from flax import nnx

from train.common import json_files
from train.common.errors import UserError, as_user_error, indented
from train.common.trees import flatten
from train.interop.families.base import BUFFERS, Family, Row, reordered

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# A name without a folder, so that it cannot lead out of the directory. Links are followed: Hugging
# Face's cache consists of them.
SHARD = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
LISTED = 20  # tensors that an error names
# The fields of TransformerConfig that are sizes of tensors.
SIZES = ("vocab_size", "dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "embedding_dim")
SIZES += ("token_types", "relative_buckets", "position_offset")
MOST_POSITIONS, MOST_LAYERS = 1 << 24, 1000
ROUNDING = 0.01  # of a computed table, in 16 bits too
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


class Tensors:
  """The tensors of a folder's safetensors files by name; `tensors[name]` reads one as float32."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.shapes, self._stored = {}, {}
    for path in _files(folder):
      # the library refuses a header that does not cover the file exactly before it reads a tensor
      try:
        file = safetensors.safe_open(path, framework="np")
        slices = {stored: file.get_slice(stored) for stored in list(file.keys())}
      except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
          f"{path}: not a complete safetensors file ({error}{_beyond(path)}); fetch it again"
        ) from error
      for stored, tensor in slices.items():
        # ESM and old BERTs have TensorFlow's names for the two weights of a norm
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", stored))
        if tensor.get_dtype() not in DTYPES:
          raise UserError(
            f"{path}: {stored} is of {tensor.get_dtype()}; supported are {', '.join(DTYPES)}"
          )
        if name in self.shapes:
          raise UserError(f"{path}: {stored} is a second {name}, in this file or another one")
        self.shapes[name] = tuple(tensor.get_shape())
        self._stored[name] = file, stored

  def __contains__(self, name: str) -> bool:
    return name in self.shapes

  def __getitem__(self, name: str) -> np.ndarray:
    file, stored = self._stored[name]
    with as_user_error(f"{self.folder}: {stored} cannot be read"):
      return np.asarray(file.get_tensor(stored), np.float32)


def _beyond(path) -> str:
  """Returns the tensor that ends behind the file's end, for a message: the library names none."""
  with contextlib.suppress(Exception):  # the library's own error describes a broken header
    size = path.stat().st_size
    with open(path, "rb") as file:
      length = min(int.from_bytes(file.read(8), "little"), json_files.MOST_BYTES)
      header = json.loads(file.read(length))
    for name, entry in header.items():
      if name != "__metadata__" and entry["data_offsets"][1] > size:
        return f"; {name} would end at byte {entry['data_offsets'][1]} of {size}"
  return ""


def _files(folder) -> list[pathlib.Path]:
  if (folder / SINGLE).exists():
    return [folder / SINGLE]
  if not (folder / INDEX).exists():
    why = ""
    if pickled := [name for name in PICKLED if (folder / name).exists()]:
      why = (
        f"; {pickled[0]} is not read: a pickle can run any program, and the other formats are no"
        " longer in use. Load it with transformers if you trust it; save_pretrained(...) writes"
        " safetensors"
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
  """Raises UserError if a model (the fields of TransformerConfig) is larger than its tensors; must
  be called before the model is built. `read` names tensors that misfit a model of reasonable
  size."""
  for side in ("encoder", "decoder"):
    rows = family.rows_of("body", model).values()
    names = [row.theirs for row in rows if row.ours.startswith(f"{side}/blocks/")]
    layer = re.compile("|".join(re.escape(name).replace(r"\{\}", r"(\d{1,9})") for name in names))
    matches = [match for match in map(layer.search, tensors.shapes) if match and names]
    there = len({match[match.lastindex] for match in matches})
    if model["share_layers"] and there:
      there = MOST_LAYERS  # of one set of weights
    if (layers := model[f"{side}_layers"]) > there:
      raise UserError(
        f"{where}: {side}_layers is {layers}, but {names[0].format(there)} is not there: the"
        f" tensors have {there} layers"
      )
  most = max(map(math.prod, tensors.shapes.values()), default=0)
  for name in SIZES:
    if (model[name] or 0) > most:
      raise UserError(
        f"{where}: {name} is {model[name]}, and the largest tensor has {most} numbers"
      )
  if model["max_len"] > MOST_POSITIONS:
    raise UserError(f"{where}: {model['max_len']} positions; at most {MOST_POSITIONS} are read")


def weight_shapes(build: Callable) -> dict[str, tuple[int, ...]]:
  """Returns path -> shape of the weights of the model that `build` returns."""
  state = nnx.to_pure_dict(nnx.state(nnx.eval_shape(build)))
  return {path: leaf.shape for path, leaf in flatten(state).items()}


class Weight:
  """A weight of ours, which is made from its tensor when numpy converts it."""

  dtype = np.dtype(np.float32)

  def __init__(
    self, tensors: Tensors, name: str, row: Row, shape: tuple[int, ...], factor: float = 1.0
  ):
    self.tensors, self.name, self.row, self.shape = tensors, name, row, shape
    self.factor = np.float32(factor)

  def __array__(self, dtype=None, copy=None):
    del copy
    weight = to_ours(self.tensors[self.name], self.row, self.shape)
    if self.row.plus:
      weight = weight + self.tensors[self.row.plus][0]
    return (weight if self.factor == 1 else weight * self.factor).astype(dtype or np.float32)


def outputs_axis(row: Row) -> int:
  """Returns the axis of a tensor's outputs."""
  return 0 if row.how == "linear" else -1


def to_ours(tensor: np.ndarray, row: Row, shape) -> np.ndarray:
  """Returns a tensor, or the row's part of it, as a weight of `shape`."""
  if row.part is not None:
    if row.by_head:
      tensor = reordered(tensor, shape[-2], row.parts)
    tensor = np.split(tensor, row.parts, axis=outputs_axis(row))[row.part]
  if row.how == "gain":
    tensor = 1 + tensor
  axes = dict(linear=(1, 0), conv1d=(2, 1, 0)).get(row.how)
  return (tensor if axes is None else tensor.transpose(axes)).reshape(shape)


def tensor_of(path: str, rows: Mapping[str, Row], prefix: str) -> tuple[str, Row]:
  """Returns the tensor's name and the row for the weight at `path`; raises KeyError without one."""
  parts = re.split(r"(?<=/blocks/)(\d+)(?=/)", path)  # the number of a layer is the second
  row = rows["{}".join(parts[::2])]
  return (prefix if row.body else "") + row.theirs.format(*parts[1::2]), row


def read(
  tensors: Tensors,
  family: Family,
  kind: str,
  model: Mapping,
  shapes: Mapping[str, tuple[int, ...]],
  config: Mapping = types.MappingProxyType({}),
) -> dict[str, Weight]:
  """Returns path -> weight for each of `shapes` (path -> shape), of a `model` (the fields of
  TransformerConfig) with this config.json.

  Raises UserError with a list of the tensors that are not there, that have another shape, or that
  nothing here uses.
  """
  prefix = family.prefix_of(kind)
  prefix = prefix if any(name.startswith(prefix) for name in tensors.shapes) else ""
  # names in the table have the prefix that a model with a head has
  bare, rows = "" if prefix else family.prefix, family.rows_of(kind, model)
  copies = {
    copy.removeprefix(bare): original.removeprefix(bare)
    for copy, original in family.copies.items()
    if copy.startswith(bare)
  }
  ours, wrong, used = {}, _differing(tensors, family.tables(model)), set()
  untied = {} if model["tie_output"] else family.untied
  for path, shape in shapes.items():
    try:
      name, row = tensor_of(path, rows, prefix)
    except KeyError:
      message = f"{family.model_type} has no tensor for {path}, which config.json asks for"
      raise UserError(message) from None
    if row.switch and not config.get(*row.switch):
      ours[path] = np.zeros(shape, np.float32)
      continue
    if name not in tensors:  # the file may have a copy of it instead
      name = next((copy for copy in tensors.shapes if copies.get(copy) == name), name)
    used.add(name)
    if name in untied:  # transformers has both biases, and only adds the other
      name = untied[name]
      used.add(name)
    there = tensors.shapes.get(name, ())
    size = math.prod(there) // (1 if row.part is None else row.parts)
    if name not in tensors and name == "final_logits_bias":
      ours[path] = np.zeros(shape, np.float32)  # as in transformers
    elif name not in tensors:
      wrong.append(f"{name} is not there")
    elif size != math.prod(shape) or (row.how == "same" and there != shape):
      wrong.append(f"{name} has shape {there}, by config.json {shape} in all")
    else:
      ours[path] = Weight(tensors, name, row, shape, family.factor(config, path))
    if row.plus:
      used.add(row.plus)
      if tensors.shapes.get(row.plus, ())[1:] != shape[1:]:
        wrong.append(f"{row.plus} has shape {tensors.shapes.get(row.plus)}, and {name} {there}")
  unused = []
  groups = *family.heads.values(), *family.rows_with.values()
  of_heads = {row.theirs for rows in groups for row in rows if not row.body}
  of_heads |= family.copies.keys()
  for name in sorted(tensors.shapes.keys() - used):
    if re.search(family.computed, name) or re.search(BUFFERS, name):
      continue
    if re.search(family.left_out, name) or (kind == "body" and name in of_heads):
      unused.append(name)
    elif name not in copies:
      wrong.append(f"{name} has no counterpart here")
    elif copies[name] in tensors and not np.array_equal(tensors[name], tensors[copies[name]]):
      wrong.append(f"{name} must be a copy of {copies[name]} and differs")
  if wrong:
    lines = indented(wrong, LISTED)
    raise UserError(f"{tensors.folder}: tensors do not fit a {family.model_type}:{lines}")
  if unused:
    logging.info("%s: left out, as nothing here uses it: %s", tensors.folder, ", ".join(unused))
  return ours


def _differing(tensors: Tensors, tables: Mapping[str, np.ndarray]) -> list[str]:
  """Returns what is wrong with tensors that hold computed tables but differ from them."""
  wrong = []
  for name, table in tables.items():
    name = next((key for key in (name, name.removeprefix("model.")) if key in tensors), None)
    if name is None:
      continue
    there = tensors[name]
    rows = min(len(table), len(there))
    same = there.shape[1:] == table.shape[1:]
    error = float(np.abs(there[:rows] - table[:rows]).max()) if same else math.inf
    if not error < ROUNDING:
      wrong.append(f"{name} differs by {error:.3g} from sinusoids: it is a learned table")
  return wrong
