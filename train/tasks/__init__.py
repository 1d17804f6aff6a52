"""What a run learns. A task knows its data, its loss and its score; no more.

All tasks and models share one vocabulary of batch keys (int32 unless said otherwise):

| key              | shape  | what                                                          |
|------------------|--------|---------------------------------------------------------------|
| inputs           | [B, T] | what the decoder reads: labels shifted right, bos first       |
| labels           | [B, T] | what it should say                                            |
| weights          | [B, T] | float32: how much each label counts, 0 on padding             |
| source           | [B, S] | what the encoder reads                                        |
| segments         | [B, T] | packed rows: 1, 2, ... for the examples in a row, 0 = padding |
| positions        | [B, T] | place in the segment, from 0                                  |
| source_segments  | [B, S] | the same of the source                                        |
| source_positions | [B, S] |                                                               |
| row              | [B]    | decoding only: the example's number, -1 = a row of padding    |
"""

import inspect
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from train.data import sources
from train.data.tokenizer import Tokenizer
from train.data.tokenizer import train as train_tokenizer
from train.errors import UserError, choose, did_you_mean
from train.tasks import translation

TASKS = {"translation": translation.Translation}


class Task(Protocol):
  """A frozen dataclass with these methods; no base class."""

  tokenizer: Tokenizer
  longest: int  # the most positions the model must tell apart

  def batches(self, split: str, batch_size: int, seed: int, workers: int):
    """Endless training batches (dict of numpy), with get_state, set_state and close."""

  def eval_batches(self, split: str, batch_size: int) -> Iterator[dict]:
    """One pass over a split, in training's shapes."""

  def loss(self, model, batch, key) -> dict[str, tuple[Any, Any]]:
    """name -> (sum, weight); jitted. key None: no dropout."""

  def examples(self, split: str) -> Sequence[Mapping[str, str]]:
    """The split as text."""

  def predict_batches(self, inputs: Sequence[str], batch_size: int) -> Iterator[dict]:
    """Batches that cover `inputs`, in few fixed shapes, each with `row`."""

  def predict(self, model, batch, settings) -> dict[str, Any]:
    """What the model makes of a batch; jitted."""

  def output(self, prediction: Mapping[str, Any]) -> dict:
    """One row of `predict`, on the host, as what a person reads."""

  def score(self, outputs: Sequence[dict], examples: Sequence[Mapping[str, str]]) -> dict:
    """Metrics of outputs against examples."""


def build(cfg, workdir) -> Task:
  """The task of a config section; its tokenizer is the workdir's, trained first if need be."""
  settings = cfg.to_dict()
  name = settings.pop("name")
  make = choose(TASKS, name, "task.name")
  known = inspect.signature(make).parameters
  if unknown := settings.keys() - known.keys():
    key = min(unknown)
    raise UserError(f"task.{key}: a {name} task has no such setting{did_you_mean(key, known)}")
  settings["tokenizer"] = _tokenizer(settings["tokenizer"], settings["data"], workdir)
  return make(**settings)


def _tokenizer(spec, data, workdir) -> Tokenizer:
  path = pathlib.Path(workdir) / "tokenizer.json"
  if not path.exists():
    source = sources.open_split(data, "train")
    texts = (text for i in range(len(source)) for text in source[i].values())
    train_tokenizer(spec, texts).save(path)
  return Tokenizer.load(path)
