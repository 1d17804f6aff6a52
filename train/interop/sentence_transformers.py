"""Reads and writes the files of sentence-transformers: how a text's states become one vector."""

import dataclasses
import pathlib

from absl import logging

from train.common import json_files
from train.common.errors import UserError
from train.interop import weights
from train.interop.families.base import Row
from train.interop.settings import json_of

LONGEST = 1 << 20  # tokens that a file may name
# Their poolings -> ours: the names of pooling_mode, and of the flags pooling_mode_* before it.
MODES = {"cls": "first", "mean": "mean", "max": "max", "lasttoken": "last"}
FLAGS = {"cls_token": "first", "mean_tokens": "mean", "max_tokens": "max", "lasttoken": "last"}
# The classes of torch.nn in a Dense module -> our activations.
ACTIVATIONS = {
  "Identity": "",
  "Tanh": "tanh",
  "ReLU": "relu",
  "GELU": "gelu",
  "SiLU": "silu",
}
POOLING = dict(pooling_mode=str, word_embedding_dimension=int, include_prompt=bool)
DENSE = dict(in_features=int, out_features=int, bias=bool, activation_function=str)
TRANSFORMER = dict(max_seq_length=int, do_lower_case=bool)
NAMES = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"


@dataclasses.dataclass(frozen=True)
class Dense:
  """A dense layer on a text's vector."""

  folder: pathlib.Path
  inputs: int
  outputs: int
  bias: bool
  activation: str


@dataclasses.dataclass(frozen=True)
class Modules:
  """The modules behind an encoder."""

  pool: str = "mean"
  dense: tuple[Dense, ...] = ()
  normalize: bool = True
  source_len: int = 0  # tokens that are read of a text; 0: as many as the encoder reads
  lower_case: bool = False
  strip: bool = False

  def settings(self, longest: int) -> dict:
    """Returns the settings of the task `embedding`, for an encoder of `longest` tokens."""
    return dict(
      pool=self.pool,
      normalize=self.normalize,
      lower_case=self.lower_case,
      strip=self.strip,
      source_len=min(self.source_len or longest, longest),
      dense=tuple((x.inputs, x.outputs, x.bias, x.activation) for x in self.dense),
    )

  def params(self) -> dict[str, weights.Weight]:
    """Returns path -> weight of the dense layers."""
    params = {}
    for number, dense in enumerate(self.dense):
      tensors = weights.Tensors(dense.folder)
      rows = [Row("linear.weight", "kernel", "linear")]
      rows += [Row("linear.bias", "bias", "vector")] * dense.bias
      shapes = dict(kernel=(dense.inputs, dense.outputs), bias=(dense.outputs,))
      for row in rows:
        shape, there = shapes[row.ours], tensors.shapes.get(row.theirs)
        if there != shape[::-1]:
          raise UserError(f"{dense.folder}: {row.theirs} has shape {there}, not {shape[::-1]}")
        params[f"head/projections/{number}/{row.ours}"] = weights.Weight(
          tensors, row.theirs, row, shape
        )
      if unknown := sorted(tensors.shapes.keys() - {row.theirs for row in rows}):
        raise UserError(f"{dense.folder}: no counterpart here of {', '.join(unknown)}")
    return params


def read(folder: pathlib.Path, dim: int) -> Modules:
  """Returns the modules behind the encoder of a directory, whose states have `dim` numbers: by
  default the mean of the states, of length 1.

  Raises UserError, which names the module or the setting, where there is no counterpart.
  """
  file = folder / "modules.json"
  if not file.exists() and not (folder / "1_Pooling").exists():
    return Modules(**_transformer(folder))
  steps, modules = [], json_files.read(file, list[dict]) if file.exists() else []
  for module in modules or [dict(type="Pooling", path="1_Pooling"), dict(type="Normalize")]:
    steps.append((str(module.get("type", "")).split(".")[-1], str(module.get("path", ""))))
  steps = [(kind, path) for kind, path in steps if kind != "Dropout"]
  expected = ["Transformer"] * bool(modules) + ["Pooling"]
  kinds = [kind for kind, _ in steps]
  last = kinds[-1] == "Normalize"
  middle = kinds[len(expected) : len(kinds) - last]
  if kinds[: len(expected)] != expected or set(middle) - {"Dense"}:
    raise UserError(
      f"{file}: the modules are {', '.join(kinds)}; here there are Transformer, Pooling, any number"
      " of Dense, and Normalize, in this order"
    )
  if modules and steps[0][1] not in ("", "."):
    raise UserError(
      f"{file}: the Transformer is in the folder {steps[0][1]!r}: move its files (config.json,"
      " weights, tokenizer) beside modules.json, and set its path to ''"
    )
  paths = {path for _, path in steps if path not in ("", ".")}
  if bad := [path for path in paths if pathlib.PurePath(path).name != path]:
    raise UserError(f"{file}: {bad[0]!r} is no name of a folder beside it")
  dense, size = [], dim
  for kind, path in steps:
    if kind == "Dense":
      dense.append(_dense(folder / path, size))
      size = dense[-1].outputs
  pool = _pooling(folder / dict(steps)["Pooling"] / "config.json", dim)
  _report_prompts(folder / NAMES[2])
  return Modules(pool, tuple(dense), last, strip=bool(modules), **_transformer(folder))


def _transformer(folder) -> dict:
  file = folder / NAMES[1]
  given = json_of(file, TRANSFORMER)
  longest = given.get("max_seq_length") or 0
  if not 0 <= longest <= LONGEST:
    raise UserError(f"{file}: max_seq_length is {longest}; it must be 1 to {LONGEST}")
  return dict(source_len=longest, lower_case=given.get("do_lower_case") or False)


def _pooling(file, dim: int) -> str:
  given = json_of(file, POOLING, needed=True)
  used = [key.removeprefix("pooling_mode_") for key, value in given.items() if value is True]
  used = [name for name in used if name != "include_prompt"]
  mode = given.get("pooling_mode")
  pools = {MODES.get(mode)} if mode else {FLAGS.get(name) for name in used or ["mean_tokens"]}
  if len(pools) > 1 or None in pools:
    there, known = mode or " and ".join(used), ", ".join(MODES)
    raise UserError(f"{file}: the pooling is {there}; here there is one of {known}")
  size = given.get("word_embedding_dimension", given.get("embedding_dimension", dim))
  if size != dim:
    raise UserError(f"{file}: word_embedding_dimension is {size}, and the encoder has {dim}")
  return pools.pop()


def _dense(folder, size: int) -> Dense:
  file = folder / "config.json"
  given = json_of(file, DENSE, needed=True)
  name = str(given.get("activation_function", "torch.nn.modules.activation.Tanh")).split(".")[-1]
  if name not in ACTIVATIONS:
    raise UserError(f"{file}: activation_function is {name}; known: {', '.join(ACTIVATIONS)}")
  sizes = [given.get(key) for key in ("in_features", "out_features")]
  if sizes[0] != size or not sizes[1] or not 0 < sizes[1] <= LONGEST:
    raise UserError(f"{file}: in_features and out_features are {sizes}, and the input has {size}")
  return Dense(folder, *sizes, given.get("bias", True) is not False, ACTIVATIONS[name])


def _report_prompts(file) -> None:
  prompts = json_of(file, {}).get("prompts") or {}
  if isinstance(prompts, dict) and (named := {k: x for k, x in prompts.items() if x}):
    texts = ", ".join(f"{name}: {text!r}" for name, text in named.items())
    logging.info(
      "%s: prompts are not put before texts here; give them with the text: %s", file, texts
    )


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """Writes the modules of a directory into another one; without modules, does nothing."""
  if not (source / NAMES[0]).exists():
    return
  paths = [str(module.get("path", "")) for module in json_files.read(source / NAMES[0], list[dict])]
  files = [source / name for name in NAMES]
  files += [x for path in paths if path not in ("", ".") for x in sorted((source / path).glob("*"))]
  for file in files:
    if file.is_file():
      copied = target / file.relative_to(source)
      copied.parent.mkdir(exist_ok=True)
      copied.write_bytes(file.read_bytes())
