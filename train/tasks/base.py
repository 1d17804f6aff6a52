"""The members that are alike in most tasks: a task of this base has a loss and no score."""

import dataclasses
import types
from collections.abc import Mapping, Sequence

import numpy as np

from train.common.errors import UserError, did_you_mean
from train.data import sources
from train.data.tokenizer import Tokenizer
from train.tasks.protocol import HuggingFace, require_score

BPE = types.MappingProxyType(dict(name="bpe", vocab_size=8000))
BPE_WITH_MASK = types.MappingProxyType(BPE | dict(special=("<mask>",)))


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of tokens to predict from, as items."""

  ids: Sequence[Sequence[int]]

  fingerprint = ""  # nothing is cached
  extras = types.MappingProxyType({})

  def lengths(self):
    return np.asarray([[len(row), 0] for row in self.ids], np.int32).reshape(-1, 2)

  def read(self, indices, positions):
    del positions  # nothing is random
    return [{"source": self.ids[index]} for index in indices]


def option(default, text: str):
  """Returns a field of settings with its default and the help text of its flag."""
  return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of prediction, none for most tasks. Subclasses add fields by `option`."""

  def tag(self) -> list[str]:
    """Returns the parts that the settings add to the name of a file of outputs."""
    return []

  def changed(self, changes: Mapping, task: "Base", prefix: str = "--"):
    """Returns the settings with `changes`; raises UserError for a key that is no field, as the
    `prefix` writes it."""
    known = [field.name for field in dataclasses.fields(self)]
    for key in changes:
      if key not in known:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(
          f"{prefix}{key}: a {type(task).__name__} task has no such setting of prediction ({there})"
          + did_you_mean(key, known)
        )
    return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
  """A task with a loss and no score. A subclass adds its settings as fields, `items`, `loss`,
  `loss_key`, and `requests`, `predict` and `outputs`."""

  data: Mapping  # see train/data/sources.py
  tokenizer: Tokenizer
  pack: bool = True
  decode_batch: int = 32  # rows

  default_tokenizer = BPE  # the spec in a config that names no other
  columns = ("text",)  # keys that the data's examples must have
  label_column = ""  # the one with labels, which are collected before training; "": there are none
  source_len = 0
  target_len = 0
  prefix = False
  has_score = False
  settings_class = Settings
  hf_kind = ""

  def __post_init__(self):
    """Completes fields of settings, which a config gives as a section with what differs."""
    for field in dataclasses.fields(self):
      given = getattr(self, field.name)
      if isinstance(field.default, Settings) and isinstance(given, Mapping):
        settings = field.default.changed(given, self, f"task.{field.name}.")
        object.__setattr__(self, field.name, settings)

  @property
  def max_positions(self) -> int:
    return max(self.source_len, self.target_len)

  def head(self, cfg, rngs):
    del cfg, rngs

  def examples(self, split):
    return sources.open_split(self.data, split, self.columns)

  def example(self, text):
    return {"text": text}

  def settings(self, **changes):
    return self.settings_class().changed(changes, self)

  def render(self, output, *, scores, colour):
    del scores, colour
    return output["text"]

  def score(self, outputs, examples):
    del outputs, examples
    require_score(self)

  def report(self, outputs, examples):
    del outputs, examples

  def scored_parts(self, split):
    del split
    return {"": self}

  def hugging_face(self) -> HuggingFace:
    return HuggingFace(self.hf_kind)
