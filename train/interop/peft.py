"""Reads and writes adapters as Hugging Face's PEFT does: adapter_config.json and its safetensors.

An adapter's folder stands for the model that it adapts, whose folder it names: its tensors are
those of that model, with the updates added.
"""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy

from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.interop.families.base import Family
from train.interop.weights import Tensors, tensor_of
from train.interop.weights_out import to_theirs

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
# Settings that are read, or that do not change what an adapter computes; others must be empty.
KNOWN = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"}
KNOWN |= {"revision", "inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora"}
KNOWN |= {"fan_in_fan_out", "target_modules", "exclude_modules", "modules_to_save"}
KNOWN |= {"layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size"}
KNOWN |= {"init_lora_weights", "eva_config"}
EMPTY = (None, False, {}, [], "none")
# starts that leave the base as it is
KEEPING = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
TASKS = dict(classification="SEQ_CLS", tagging="TOKEN_CLS", qa="QUESTION_ANS", causal="CAUSAL_LM")
TASKS |= dict(translation="SEQ_2_SEQ_LM")


@dataclasses.dataclass(frozen=True)
class Adapter:
  """The folder of an adapter."""

  path: pathlib.Path

  @functools.cached_property
  def config(self) -> dict:
    """Returns adapter_config.json; raises UserError for settings that are not read."""
    file = self.path / CONFIG
    config = json_files.read(file, dict)
    if config.get("peft_type") != "LORA":
      raise UserError(f"{file}: peft_type is {config.get('peft_type')!r}; LORA is read")
    for name, value in config.items():
      if name not in KNOWN and value not in EMPTY:
        raise UserError(f"{file}: {name} is {value!r}: adapters with this setting are not read")
    if (start := config.get("init_lora_weights")) not in KEEPING:
      raise UserError(
        f"{file}: init_lora_weights is {start!r}, which changes the weights of the model that is"
        " adapted, too: merge the adapter by PEFT, or convert it to a plain one as it is saved"
      )
    for name in ("r", "lora_alpha"):
      if not isinstance(config.get(name), int | float) or config[name] <= 0:
        raise UserError(f"{file}: {name} is {config.get(name)!r}: expects a number above 0")
    return config

  @property
  def base(self) -> pathlib.Path:
    """Returns the folder of the model that is adapted; raises UserError where it is not here."""
    name = str(self.config.get("base_model_name_or_path") or "")
    for folder in (pathlib.Path(name), self.path / name):
      if name and (folder / "config.json").is_file():
        return folder
    raise UserError(
      f"{self.path / CONFIG}: base_model_name_or_path is {name!r}, and no such folder holds a"
      " config.json: fetch the model that is adapted, and write its folder there"
    )

  @functools.cached_property
  def tensors(self) -> dict[str, np.ndarray]:
    """Returns the adapter's tensors by their names in the model."""
    with as_user_error(f"{self.path / TENSORS} cannot be read"):
      stored = safetensors.numpy.load_file(self.path / TENSORS)
    if strange := [name for name in stored if not name.startswith(PREFIX)]:
      raise UserError(f"{self.path / TENSORS}: {strange[0]} does not begin with {PREFIX}")
    return {
      name.removeprefix(PREFIX).replace(".modules_to_save", ""): tensor
      for name, tensor in stored.items()
    }

  def with_head(self, config: Mapping, family: Family) -> dict:
    """Returns the base's config.json with the head that the adapter was trained for."""
    task = self.config.get("task_type")
    kind = next((kind for kind, name in TASKS.items() if name == task), None)
    names = [name for name, of in family.classes.items() if of == kind]
    config = dict(config)
    if not names or (config.get("architectures") or [None])[0] in names:
      return config
    config["architectures"] = names[:1]
    labels = [len(x) for name, x in self.tensors.items() if name in LABELS]
    if labels and "id2label" not in config:
      config["num_labels"] = labels[0]
    return config

  def over(self, base: Tensors) -> "Adapted":
    """Returns the base's tensors with the updates and the tensors that are trained whole."""
    scale = self.config["lora_alpha"] / self.config["r"]
    if self.config.get("use_rslora"):
      scale = self.config["lora_alpha"] / self.config["r"] ** 0.5
    return Adapted(base, self, scale)


# Kind of task -> ends of the names of modules that PEFT trains whole by itself.
USUAL = dict.fromkeys(("classification", "tagging"), ("classifier", "score"))
USUAL |= dict(qa=("qa_outputs",))
# The tensors of heads with a row for each label.
LABELS = ("classifier.weight", "score.weight", "classifier.out_proj.weight")


class Adapted:
  """The tensors of a model with the updates of an adapter, as weights.Tensors has them."""

  def __init__(self, base: Tensors, adapter: Adapter, scale: float):
    self.folder, self.base, self.scale = base.folder, base, scale
    self.transposed = bool(adapter.config.get("fan_in_fan_out"))
    self.updates: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    self.own: dict[str, np.ndarray] = {}
    prefix = ""  # of the body, in the adapter's names alone
    for name, tensor in adapter.tensors.items():
      if name.endswith(A):
        module = name.removesuffix(A)
        if module + B not in adapter.tensors:
          raise UserError(f"{adapter.path}: there is {name} and no {module}{B}")
        name = f"{module}.weight"
        there = self._base_name(name, adapter)
        self.updates[there] = tensor, adapter.tensors[module + B]
        prefix = name.removesuffix(there) if name.endswith(there) else ""
      elif "lora_embedding" in name:
        raise UserError(f"{adapter.path}: {name}: adapters of embeddings are not read")
      elif not name.endswith(B):
        self.own[name] = tensor
    self.own = {name.removeprefix(prefix): tensor for name, tensor in self.own.items()}
    self.shapes = dict(base.shapes) | {name: x.shape for name, x in self.own.items()}
    for name, (a, b) in self.updates.items():
      update = (a.shape[1], len(b)) if self.transposed else (len(b), a.shape[1])
      if base.shapes[name] != update:
        raise UserError(
          f"{adapter.path}: the update of {name} is {update}, and it is {base.shapes[name]} in"
          f" {base.folder}"
        )

  def _base_name(self, name: str, adapter: Adapter) -> str:
    """Returns the base's name of a tensor, whose file may lack the prefix of its body."""
    if name in self.base.shapes:
      return name
    for there in self.base.shapes:
      if name.endswith(f".{there}") or there.endswith(f".{name}"):
        return there
    raise UserError(f"{adapter.path} updates {name}, which {self.folder} does not have")

  def __contains__(self, name: str) -> bool:
    return name in self.shapes

  def __getitem__(self, name: str) -> np.ndarray:
    if name in self.own:
      return np.asarray(self.own[name], np.float32)
    tensor = self.base[name]
    if name not in self.updates:
      return tensor
    a, b = (np.asarray(x, np.float32) for x in self.updates[name])
    update = self.scale * (b @ a)  # [out, in]
    return tensor + (update.T if self.transposed else update)


def write(
  folder: pathlib.Path,
  family: Family,
  kind: str,
  model: Mapping,
  weights: Mapping[str, np.ndarray],
  merged: Mapping[str, np.ndarray],
  settings: Mapping,
  base: str,
) -> None:
  """Writes the adapters among the trained `weights` (path -> array), and each module whole of which
  another weight is trained, or which PEFT trains by itself.

  `merged` are all weights of the model, with the updates; `settings` is the section `lora` of the
  run, `model` its section `model`, `base` the folder of the model that is adapted. Raises UserError
  for a part of a tensor (fused projections), and for a layer with an adapter that is kept whole.
  """
  rows, prefix = family.rows_of(kind, model), family.prefix_of(kind)
  usual = USUAL.get(kind, ())
  tensors, targets, whole, transposed = {}, [], set(), False
  for path, weight in weights.items():
    match = re.fullmatch(r"(.*)/lora_([ab])", path)
    name, row = tensor_of(f"{match[1]}/kernel" if match else path, rows, prefix)
    if row.part is not None:
      raise UserError(
        f"--format peft: {match[1] if match else path} is a part of {name}, which has one adapter"
        " there, or is trained whole: merge it (--format hf)"
      )
    if match and row.how == "conv1d":
      raise UserError(
        f"--format peft: {match[1]} is a convolution there, of which PEFT has other adapters: leave"
        " it out of lora.layers, or merge it (--format hf)"
      )
    if match is None:
      whole.add(_module(name, usual))
      continue
    module, array = name.removesuffix(".weight"), np.asarray(weight, np.float32)
    rank = array.shape[-1] if match[2] == "a" else array.shape[0]
    matrix = array.reshape(-1, rank) if match[2] == "a" else array.reshape(rank, -1)
    tensors[f"{PREFIX}{module}{A if match[2] == 'a' else B}"] = np.ascontiguousarray(matrix.T)
    transposed = transposed or row.how == "conv"
    targets += [module] if match[2] == "a" else []
  for path, weight in merged.items():
    name, row = tensor_of(path, rows, prefix)
    module = _module(name, usual)
    if module in whole or module.endswith(usual):
      whole.add(module)
      tensors[f"{PREFIX}{name}"] = to_theirs(np.asarray(weight, np.float32), row)
  if both := [name for name in targets if any(f"{name}.".startswith(f"{x}.") for x in whole)]:
    raise UserError(
      f"--format peft: {both[0]} has an adapter, and PEFT keeps it whole, as other weights of it"
      " are trained (lora.train) or it is a head: merge it (--format hf)"
    )
  config = dict(
    peft_type="LORA",
    task_type=TASKS.get(kind),
    base_model_name_or_path=base,
    r=settings["rank"],
    lora_alpha=settings["alpha"],
    lora_dropout=settings["dropout"],
    target_modules=sorted(targets),
    modules_to_save=sorted(whole) or None,  # whole names: PEFT compares their ends
    fan_in_fan_out=transposed,
    bias="none",
    inference_mode=True,
  )
  safetensors.numpy.save_file(tensors, folder / TENSORS, {"format": "pt"})
  (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _module(name: str, usual: tuple[str, ...]) -> str:
  """Returns the name of the module of a tensor: the outermost that PEFT trains whole by itself
  (`usual`, ends of names), else the innermost."""
  parts = name.split(".")[:-1]
  ends = (end for end, part in enumerate(parts, start=1) if part.endswith(usual))
  return ".".join(parts[: next(ends, len(parts))])
