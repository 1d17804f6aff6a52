"""What a run learns. A task knows its data, its loss and its score; no more.

All tasks and models share one vocabulary of batch keys (int32 unless said otherwise):

| key              | shape  | what                                                          |
|------------------|--------|---------------------------------------------------------------|
| source           | [B, S] | what the encoder reads                                        |
| source_segments  | [B, S] | packed rows: 1, 2, ... for the items in a row, 0 = padding    |
| source_positions | [B, S] | place in the segment, from 0                                  |
| source_types     | [B, S] | 0 in a first text, 1 in a second; only where models tell them |
| inputs           | [B, T] | what the decoder reads: labels one later, the start first     |
| segments         | [B, T] | as source_segments                                            |
| positions        | [B, T] | as source_positions                                           |
| prefix           | [B, T] | 1 where the decoder's inputs are seen by their whole segment  |
| labels           | [B, T] | what to say there; without a decoder along the source, [B, S] |
| weights          | [B, T] | float32: how much each label counts, 0 on padding; likewise   |
| starts, ends     | [B, S] | 1 on the answer's first and last token                        |
| answerable       | [B, S] | 1 where an answer may lie                                     |
| row              | [B]    | requests only: the item's number, -1 = a row of padding       |
"""

import inspect
import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from train.common import json_files
from train.common.errors import UserError, choose, did_you_mean
from train.common.files import write_atomically
from train.data import sources
from train.data.batches import Layout
from train.data.items import Items
from train.data.tokenizer import Tokenizer
from train.data.tokenizer import train as train_tokenizer
from train.scoring.classes import Report
from train.tasks import (
  causal,
  classification,
  denoising,
  embedding,
  mixture,
  mlm,
  qa,
  tagging,
  translation,
)

TASKS = {
  "translation": translation.Translation,
  "mlm": mlm.Mlm,
  "causal": causal.Causal,
  "span": denoising.Denoising,
  "classification": classification.Classification,
  "tagging": tagging.Tagging,
  "qa": qa.Qa,
  "embedding": embedding.Embedding,
}
STYLED = {"prefix": "prefix", "denoise": "bert"}  # span tasks by the name of their style


class Task(Protocol):
  """A frozen dataclass with these attributes and methods; no base class."""

  tokenizer: Tokenizer
  source_len: int  # tokens in a row that the encoder reads; 0: there is no encoder
  target_len: int  # tokens in a row of the decoder; 0: there is none
  pack: bool  # several items in a row
  longest: int  # the most positions the model must tell apart
  decode_batch: int  # rows to predict from at a time
  has_score: bool  # whether there is a score to be had from predictions
  loss_key: tuple  # what the loss depends on: tasks that agree in it can be parts of a mixture

  def items(self, split: str) -> Items:
    """The split as what batches are made of."""

  def loss(self, model, batch, key) -> dict[str, tuple[Any, Any]]:
    """name -> (sum, weight); jitted. key None: no dropout."""

  def examples(self, split: str) -> Sequence[Mapping[str, Any]]:
    """The split as text."""

  def example(self, text: str) -> Mapping[str, Any]:
    """What a person typed, as an example without its answer."""

  def requests(self, examples: Sequence[Mapping[str, Any]]) -> Items:
    """The examples, without their answers, as items to predict from: one or several each."""

  def settings(self, **changes):
    """How to predict, a hashable dataclass: the config's way with `changes`. Its `tag()` names
    a file of outputs."""

  def predict(self, model, batch, settings) -> dict[str, Any]:
    """What the model makes of a batch of requests, each [B, ...]; jitted."""

  def outputs(self, examples, asked: Items, predictions: Sequence[Mapping], settings) -> list[dict]:
    """A dict for each example, fit for JSON, of the predictions for its requests (`asked`, in
    order); its `text` is the answer in short."""

  def render(self, output: dict, *, scores: bool, colour: bool) -> str:
    """An output as a person reads it, of one line or more; on a terminal with `colour`."""

  def score(self, outputs: Sequence[dict], examples: Sequence[Mapping[str, Any]]) -> dict:
    """Metrics of outputs against examples; a task that `has_score` has it and `report`."""

  def report(self, outputs, examples) -> Report | None:
    """What there is to tell of each class, if there are classes."""


def layout(task: Task, batch_size: int) -> Layout:
  """The shape of the task's batches, shared by the processes there are."""
  return Layout(
    batch_size,
    task.source_len,
    task.target_len,
    task.pack,
    jax.process_index(),
    jax.process_count(),
  )


def build(cfg, workdir) -> Task:
  """The task of a config section. Its tokenizer and labels are the workdir's, made of the training
  split first if they are not there."""
  settings, folder = cfg.to_dict(), pathlib.Path(workdir)
  if settings["name"] != "mixture":
    tokenizer = _tokenizer(settings.pop("tokenizer"), [settings["data"]], folder)
    return _make(settings | {"tokenizer": tokenizer}, folder)
  del settings["name"]
  main, parts, spec = (settings.pop(key) for key in ("main", "parts", "tokenizer"))
  for name, part in parts.items():
    if "share" not in part:
      raise UserError(f"task.parts.{name} has no `share`, its part of all items")
  shares = {name: part.pop("share") for name, part in parts.items()}
  tokenizer = _tokenizer(spec, [part["data"] for part in parts.values()], folder)
  shared = settings | {"tokenizer": tokenizer}
  parts = {name: _make(part, folder, shared) for name, part in parts.items()}
  return mixture.Mixture(main=main, shares=shares, parts=parts, **shared)


def make(settings) -> Task:
  """The task of a section that says all: its tokenizer itself, and labels."""
  return _make(settings, None)


def _make(settings, folder, shared=types.MappingProxyType({})) -> Task:
  """The task of these settings, and of those of `shared` that it knows."""
  name = settings.pop("name")
  if name in STYLED:
    name, style = "span", STYLED[name]
    if settings.setdefault("style", style) != style:
      raise UserError(f"task.style is {settings['style']!r}: for another than {style!r} use span")
  make = choose(TASKS, name, "task.name")
  known = inspect.signature(make).parameters
  if unknown := settings.keys() - known.keys():
    key = min(unknown)
    raise UserError(f"task.{key}: a {name} task has no such setting{did_you_mean(key, known)}")
  settings = {key: value for key, value in shared.items() if key in known} | settings
  if "labels" in known and not settings.get("labels") and not settings.get("regression"):
    settings["labels"] = _labels(make, settings["data"], folder / "labels.json")
  return make(**settings)


def _tokenizer(spec, data, folder) -> Tokenizer:
  """The folder's; else another run's (name "file") or one trained on the texts of all `data`."""
  path = folder / "tokenizer.json"
  if not path.exists():
    if spec["name"] == "file":
      if not spec.get("path"):
        raise UserError(
          "tokenizer.path is missing: the file that a tokenizer named file is read of"
        )
      Tokenizer.load(spec["path"]).save(path)
    else:
      splits = [sources.open_split(one, "train") for one in data]
      train_tokenizer(spec, (text for split in splits for text in _texts(split))).save(path)
  return Tokenizer.load(path)


NO_TEXTS = ("id", "label")  # fields that a tokenizer need not learn


def _texts(source):
  for number in range(len(source)):
    example = source[number]
    for key, text in example.items():
      if isinstance(text, str) and key not in NO_TEXTS:
        yield text
    if "words" in example:
      yield " ".join(example["words"])


def _labels(make, data, path) -> tuple[str, ...]:
  """The training split's labels, sorted."""
  if not path.exists():
    source = sources.open_split(data, "train", (make.label_field,))
    found = {label for number in range(len(source)) for label in make.labels_of(source[number])}
    write_atomically(path, json.dumps(sorted(found), ensure_ascii=False) + "\n")
  return tuple(json_files.read(path, list[str]))
