"""Opens a run's folder and hf:DIR, a Hugging Face directory, as one kind of trained model."""

import functools
import operator
import os
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from train import schema, sharding, tasks
from train.checkpoint import open_to_read
from train.common import paths
from train.common.errors import UserError, choose
from train.common.trees import flatten, path_name
from train.data.tokenizer import Tokenizer
from train.interop.directory import Directory
from train.interop.families.base import question_tokens
from train.record import data_files

PREFIX = "hf:"
# Weights that belong to what a model was trained for, by patterns of their paths.
HEAD = ("^head/", "^output_bias")
# Sizes in the section `model` that are sides of weights, or at most their number.
SIZES = ("dim", "mlp_dim", "num_heads", "head_dim", "embedding_dim", "vocab_size", "encoder_layers")
SIZES += ("decoder_layers", "decoder_heads", "decoder_head_dim", "decoder_mlp_dim")
WORDS, OUTPUT = "embedding/embedding", "^output(_transform)?/"
NO_WORDS = dict(output_bias=False, tie_output=True, output_transform="none")


class Pretrained(Protocol):
  """A trained model, of which each part is read when it is needed."""

  name: str  # the run's folder, or hf:DIR
  config: Any  # the run's config; None for hf:DIR, which has no data
  directory: Directory | None  # what hf:DIR holds; None for a run
  kind: str  # the name of its task, "body" for a model without a head
  model: dict  # the section `model` of a config
  tokenizer: Tokenizer | None  # None where a run has saved none
  tokenizer_path: str  # what `task.tokenizer.path` names it by

  def weights(self, which: str) -> tuple[dict[str, Any], list[int]]:
    """Returns path -> array and the steps of the checkpoints `which` (latest, best, STEP,
    average:N, average:STEP,...). The arrays of hf:DIR are read when numpy converts them."""

  def check_sizes(self, which: str) -> None:
    """Raises UserError where the section `model` describes a larger model than is saved."""

  def place(self, which: str, like) -> tuple[Any, list[int]]:
    """Returns the weights as a tree sharded as `like`, and the steps of the checkpoints."""

  def task(self, pair: bool = False, strict: bool = False) -> tasks.Task:
    """Builds the task to predict with.

    pair: a classifier of hf:DIR reads two texts. strict: hf:DIR writes as transformers' generate.
    """


def open(name: str | os.PathLike, body: bool = False) -> Pretrained:
  """Opens a run's folder or hf:DIR; `body` leaves out the head of the latter."""
  return _HuggingFace(str(name), body) if str(name).startswith(PREFIX) else _Run(str(name))


class _Run:
  """The folder of a run."""

  directory = None
  kind = property(operator.attrgetter("config.task.name"))

  def __init__(self, name: str):
    self.name, self.path = name, paths.of(name)
    self.tokenizer_path = f"{name}/tokenizer.json"

  @functools.cached_property
  def config(self):
    return schema.load_run(self.path)

  @property
  def model(self) -> dict:
    return self.config.model.to_dict()

  @functools.cached_property
  def tokenizer(self) -> Tokenizer | None:
    data_files.check(self.path)
    path = self.path / "tokenizer.json"
    return Tokenizer.load(path) if path.exists() else None

  def weights(self, which):
    if not (self.path / "checkpoints").is_dir():
      raise UserError(f"init_from.workdir {self.name} holds no checkpoints")
    with open_to_read(self.path) as checkpoints:
      params, steps = checkpoints.read(which)
      return flatten(params), steps

  def check_sizes(self, which):
    with open_to_read(self.path) as checkpoints:
      if not (shapes := checkpoints.shapes(which)):
        return
    largest = max([len(shapes), *(side for shape in shapes.values() for side in shape)])
    for key in SIZES:
      if (self.model.get(key) or 0) > largest:
        raise UserError(
          f"{self.path}/config.json: model.{key} is {self.model[key]}, and no side of a saved"
          f" weight is above {largest}; restore the file"
        )

  def place(self, which, like):
    with open_to_read(self.path) as checkpoints:
      return checkpoints.read(which, like)

  def task(self, pair=False, strict=False):
    if pair:
      raise UserError("--pair is for hf:DIR; the config of a run has this setting")
    data_files.check(self.path)
    return tasks.build(self.config.task, self.path, write=False)


class _HuggingFace:
  """A Hugging Face directory."""

  config = None
  kind = property(operator.attrgetter("directory.kind"))
  model = property(operator.attrgetter("directory.model"))
  tokenizer = property(operator.attrgetter("directory.tokenizer"))

  def __init__(self, name: str, body: bool):
    self.name = self.tokenizer_path = name
    self.directory = Directory(paths.of(name.removeprefix(PREFIX)), body)

  def weights(self, which):
    return self.directory.params, []

  def check_sizes(self, which):
    """Does nothing: a directory's sizes are compared with its tensors as it is opened."""

  def place(self, which, like):
    if which != "latest":
      raise UserError(f"--checkpoint {which}: {self.name} has one set of weights")
    weights = self.directory.params
    return jax.tree_util.tree_map_with_path(
      lambda path, x: sharding.put_weight(weights[path_name(path)], x), like
    ), []

  def task(self, pair=False, strict=False):
    with self.directory.naming_options():
      return tasks.make(self.directory.task(pair, strict))


def resolve(config: Mapping) -> dict:
  """Returns `config` (plain nested dicts) with its model taken over from another one.

  A config that starts from a trained model names it and inherits from it:

    init_from=dict(workdir="runs/mlm")      # or "hf:DIR"; `which` and `skip` if not as below
    model=dict(inherit="encoder", **changes)

  The section `model` becomes the origin's with `changes`, `task.tokenizer` the origin's,
  `init_from.which` "latest", and `init_from.skip` HEAD and the parts left out. A model that takes
  some of the origin's layers (`init_from.encoder_layers=(0, 2, 5)`) has no others. `inherit` is one
  of
    "model": the whole model with the bias of its outputs, whose decoder's states get labels in a
      task with labels, without the bias;
    "encoder": its decoder is left out (and of hf:DIR the head, `which="body"`), unless it has no
      encoder, which for labels is "model". A classification
      takes over the head of hf:DIR (`pool_activation`, and where they are not BERT's `pool` and
      `transform`) and, if task.pool is "first" or its own, its pooler;
    "pretraining": the whole model with all its weights (skip=()) if task.name is the origin's; of
      another task the body alone, with `changes`.
  A config without `model.inherit` is returned as it is.

  Raises UserError where there is no such model, or where it lacks the encoder or decoder that the
  task reads with (task.source_len, task.target_len).
  """
  if "inherit" not in config["model"]:
    return dict(config)
  task, changes = dict(config["task"]), dict(config["model"])
  inherit = changes.pop("inherit")
  choose(dict.fromkeys(("model", "encoder", "pretraining")), inherit, "model.inherit")
  origin = open(config["init_from"]["workdir"])
  labels = tasks.predicts_labels(task["name"])
  if labels and inherit == "encoder" and not origin.model["encoder_layers"]:
    inherit = "model"
  either = labels and inherit == "model"
  for side, length in (("encoder", "source_len"), ("decoder", "target_len")):
    if task.get(length) and not origin.model[f"{side}_layers"] and not either:
      raise UserError(
        f"init_from.workdir {origin.name} has no {side}, which a {task['name']} task needs"
      )
  task["tokenizer"] = dict(name="file", path=origin.tokenizer_path)
  model = origin.model | changes
  same = origin.model.get("output_bias") == model.get("output_bias")  # a translator's is learned
  start = dict(which="latest", skip=HEAD[:1] if same else HEAD)
  if either:  # a head on the states of the whole model
    model, start["skip"] = _without_words(origin.model) | changes, (*HEAD, OUTPUT)
    task |= origin.directory.head_settings(task) if origin.directory else {}
  body = "body" if origin.directory else "latest"
  if inherit == "encoder":
    model = _without_words(origin.model) | dict(decoder_layers=0) | changes
    start = dict(which=body, skip=(*HEAD, "^decoder/", OUTPUT))
    if origin.directory:
      directory = open(origin.name, body=True).directory
      if not origin.model["decoder_layers"]:
        task |= directory.head_settings(task)
      if directory.pooler and task.get("pool") in ("first", directory.head.pool):
        start["skip"] = ("^head/labels",)
  elif inherit == "pretraining" and origin.kind == task["name"]:
    model, start["skip"] = origin.model, ()
    if "head_activation" in task:
      task["head_activation"] = _mlm_activation(origin)
  elif inherit == "pretraining":
    start = dict(which=body, skip=(*HEAD, OUTPUT))
  if origin.directory and model["global_tokens"] and task["name"] in tasks.TASKS:
    which = origin.directory.family.globals_for(tasks.TASKS[task["name"]].hf_kind)
    task |= dict(global_attention=which, pack=False)
    if which == "question":
      model = model | dict(global_tokens=question_tokens(model["max_len"])) | changes
  start |= config["init_from"]
  for stack in ("encoder", "decoder"):
    if layers := start.get(f"{stack}_layers"):
      model = model | {f"{stack}_layers": len(layers)}
  return dict(config) | dict(model=model, task=task, init_from=start)


def _without_words(model: Mapping) -> dict:
  """Returns the section `model` without the layers that predict words alone; an LSTM has fewer."""
  return model | {name: value for name, value in NO_WORDS.items() if name in model}


def _mlm_activation(origin: Pretrained) -> str:
  """Returns the activation of a masked-LM head, "" for the model's."""
  if not origin.directory:
    return origin.config.task.get("head_activation", "")
  activation = origin.directory.head.activation
  return "" if activation == origin.model["activation"] else activation


def build_task(section, folder) -> tasks.Task:
  """Builds the task of a config section as `tasks.build` does; its tokenizer may be hf:DIR's."""
  spec, path = section["tokenizer"], paths.of(folder) / "tokenizer.json"
  source = spec.get("path") if spec["name"] == "file" else None
  if source and str(source).startswith(PREFIX) and not path.exists():
    open(source).tokenizer.save(path)
  return tasks.build(section, folder)
