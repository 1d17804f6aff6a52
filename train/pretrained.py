"""Opens a run's folder and hf:DIR, a Hugging Face directory, as one kind of trained model."""

import functools
import operator
import os
import re
from collections.abc import Mapping
from typing import Any, Protocol

import jax
from flax import nnx

from train import schema, sharding, tasks
from train.build import build_model
from train.checkpoint import open_to_read
from train.common import paths
from train.common.errors import UserError
from train.common.trees import (
  checksum,
  choose_layers,
  flatten,
  match_layers,
  path_name,
  unstack_layers,
)
from train.compression import lora, quantization
from train.data.tokenizer import Tokenizer
from train.interop.directory import Directory, open_directory
from train.record import data_files, others

PREFIX = "hf:"
# Sizes in the section `model` that are sides of weights, or at most their number.
SIZES = ("dim", "mlp_dim", "num_heads", "head_dim", "embedding_dim", "vocab_size", "encoder_layers")
SIZES += ("decoder_layers", "decoder_heads", "decoder_head_dim", "decoder_mlp_dim")
WORDS = "embedding/embedding"


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

  def build(self, model: Mapping, task, platform: str | None = None) -> nnx.Module:
    """Builds a model of the section `model` with the task's head, without weights (nnx.eval_shape);
    it computes as this one does, with rounded weights if this one's are."""

  def task(self, pair: bool = False, strict: bool = False) -> tasks.Task:
    """Builds the task to predict with.

    pair: a classifier of hf:DIR reads two texts. strict: hf:DIR writes as transformers' generate.
    """


def open(name: str | os.PathLike, body: bool = False) -> Pretrained:
  """Opens a run's folder or hf:DIR; `body` leaves out the head of the latter."""
  if str(name).startswith(PREFIX):
    return _HuggingFace(str(name), body)
  run = _Run(str(name))
  return Adapted(run.name) if run.has_adapters else run


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
  def has_adapters(self) -> bool:
    """Returns whether the run has trained adapters of another model alone."""
    return (self.path / "config.json").exists() and bool(self.config.get("lora", {}).get("rank"))

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
    weights, settings = flatten(params), quantized(self)
    if settings and settings["stored"]:
      model = nnx.eval_shape(lambda: build_model(self.model, self.task(), seed=0))
      weights = quantization.floats(weights, settings, model)
    return weights, steps

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

  def build(self, model, task, platform=None):
    if (settings := quantized(self)) and not model.get("scan_layers"):
      settings = of_single_layers(self, settings)

    def make():
      built = build_model(model, task, 0, platform)
      if settings:
        quantization.apply(built, settings)
      return built

    return nnx.eval_shape(make)

  def task(self, pair=False, strict=False):
    if pair:
      raise UserError("--pair is for hf:DIR; the config of a run has this setting")
    data_files.check(self.path)
    return tasks.build(self.config.task, self.path, write=False)


class Adapted(_Run):
  """The folder of a run that trained adapters of another model (compression/lora.py), whose weights
  are the other model's with the updates added."""

  def adapters(self, which) -> tuple[dict[str, Any], list[int]]:
    """Returns path -> array of what is saved, the adapters and the weights that are trained whole,
    and the steps."""
    return super().weights(which)

  def origin(self) -> tuple[Pretrained, Mapping]:
    """Returns the other model and its weights; raises UserError where they have changed."""
    start = self.config.init_from
    origin = open(start.workdir, body=start.which == "body")
    theirs, _ = origin.weights(start.which)
    others.check(self.path, "base", origin.name, checksum(theirs))
    return origin, theirs

  def weights(self, which):
    own, steps = self.adapters(which)
    origin, theirs = self.origin()
    start = self.config.init_from
    layers = dict(encoder=start.encoder_layers, decoder=start.decoder_layers)
    theirs = parts(origin, theirs, layers, not self.model["decoder_layers"])
    kept = {path for path in theirs if not any(re.search(skip, path) for skip in start.skip)}
    base = self._rounded({path: theirs[path] for path in kept})
    return lora.merge(base | unstack_layers(own), self.config.lora), steps

  def _rounded(self, base: Mapping) -> dict:
    """Returns the base as the run held it: rounded to integers, if its config says so."""
    settings, trained = self.config.get("quantize", {}), lora.is_trained(self.config.lora)
    return _rounded(self, base, settings, trained) if settings.get("weights") else dict(base)

  def check_sizes(self, which):
    """Does nothing: what is saved is a part of the model."""

  def place(self, which, like):
    weights, steps = self.weights(which)
    weights = match_layers(weights, flatten(like))
    return _place(weights, like), steps


class _HuggingFace:
  """A Hugging Face directory."""

  config = None
  kind = property(operator.attrgetter("directory.kind"))
  model = property(operator.attrgetter("directory.model"))
  tokenizer = property(operator.attrgetter("directory.tokenizer"))

  def __init__(self, name: str, body: bool):
    self.name = self.tokenizer_path = name
    self.directory = open_directory(paths.of(name.removeprefix(PREFIX)), body)

  def weights(self, which):
    return self.directory.params, []

  def check_sizes(self, which):
    """Does nothing: a directory's sizes are compared with its tensors as it is opened."""

  def place(self, which, like):
    if which != "latest":
      raise UserError(
        f"{self.name} has one set of weights, latest, and no {which} (--checkpoint, distill.which)"
      )
    return _place(self.directory.params, like), []

  def build(self, model, task, platform=None):
    return nnx.eval_shape(lambda: build_model(model, task, 0, platform))

  def task(self, pair=False, strict=False):
    with self.directory.naming_options():
      return tasks.make(self.directory.task(pair, strict))


def quantized(origin: Pretrained) -> dict:
  """Returns the section `quantize` of a run that quantizes, else {}; the weights of adapters are
  merged into floats."""
  plain = origin.config is None or isinstance(origin, Adapted)
  settings = {} if plain else origin.config.get("quantize", {})
  return dict(settings) if settings.get("weights") else {}


def rounded(origin: Pretrained, weights: Mapping) -> Mapping:
  """Returns weights (path -> array of single layers) as the model computes with them: those of a
  run that is aware of integers (the section `quantize`) rounded."""
  settings = quantized(origin)
  if not settings or settings["stored"]:
    return weights
  return _rounded(origin, weights, settings, quantization.none)


def of_single_layers(run: Pretrained, settings: Mapping, leave=quantization.none) -> dict:
  """Returns the section `quantize` of a run with patterns of single layers, where the run's are
  stacked; `leave` is that of `quantization.find`."""
  if not run.model.get("scan_layers"):
    return dict(settings)
  stacked = nnx.eval_shape(lambda: build_model(run.model, run.task(), seed=0))
  return quantization.of_single_layers(settings, stacked, leave)


def _rounded(run: Pretrained, weights: Mapping, settings: Mapping, leave) -> dict:
  single, task = run.model | dict(scan_layers=False), run.task()
  model = nnx.eval_shape(lambda: build_model(single, task, seed=0))
  settings = of_single_layers(run, settings, leave)
  stored = quantization.store(model, settings, weights, leave=leave).weights
  return quantization.floats(stored, settings, model, leave)


def _place(weights: Mapping, like):
  """Returns the weights as a tree sharded as `like`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: sharding.put_weight(weights[path_name(path)], x), like
  )


def parts(origin: Pretrained, weights: Mapping, layers: Mapping, alone: bool) -> dict:
  """Returns the origin's weights, each layer under its own path, with the `layers` of its stacks
  ((): all) in their order; `alone`: for an encoder or decoder by itself, whose words have one path.

  Raises UserError for a layer that the origin does not have.
  """
  own = "source_embedding/embedding"
  if alone and own in weights:
    words = {WORDS: weights[own]}
    weights = {path: weights[path] for path in weights if path != own} | words
  weights = unstack_layers(weights)
  for stack, chosen in layers.items():
    count = origin.model[f"{stack}_layers"] if chosen else 0
    for layer in chosen:
      if not isinstance(layer, int) or not 0 <= layer < count:
        there = f"layers 0 to {count - 1}" if count else "no such layers"
        raise UserError(
          f"init_from.{stack}_layers is {tuple(chosen)}: there is no layer {layer!r}, but {there}"
        )
    weights = choose_layers(weights, stack, chosen) if chosen else weights
  return weights


def build_task(section, folder) -> tasks.Task:
  """Builds the task of a config section as `tasks.build` does; its tokenizer may be hf:DIR's."""
  spec, path = section["tokenizer"], paths.of(folder) / "tokenizer.json"
  source = spec.get("path") if spec["name"] == "file" else None
  if source and str(source).startswith(PREFIX) and not path.exists():
    open(source).tokenizer.save(path)
  return tasks.build(section, folder)
