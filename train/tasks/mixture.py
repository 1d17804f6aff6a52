"""Mixes several tasks, or one task on several data sets, in one stream."""

import dataclasses
from collections.abc import Callable, Mapping

from absl import logging

from train.common.errors import NoSplit, UserError, choose
from train.data.mixed_items import MixedItems
from train.data.tokenizer import Tokenizer
from train.tasks.base import HuggingFace, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
  """Items of all parts, each with its share, in the same rows.

  Evaluation takes the parts that have the split. The part `main` defines everything else: loss,
  head and prediction.
  """

  main: str
  parts: Mapping[str, Task]
  shares: Mapping[str, float]  # they need not add up to 1
  tokenizer: Tokenizer
  source_len: int = 0
  target_len: int = 0
  pack: bool = True

  def __post_init__(self):
    choose(self.parts, self.main, "task.main")
    for name, share in self.shares.items():
      if not share > 0:
        raise UserError(f"task.parts.{name}.share is {share}: it must be more than 0")
    main = self.parts[self.main]
    for name, part in self.parts.items():
      if part.loss_key != main.loss_key:
        raise UserError(
          f"task.parts.{name} cannot share a loss with task.parts.{self.main}: {part.loss_key} is"
          f" not {main.loss_key}"
        )

  def __getattr__(self, name):
    if name.startswith("__") or name in ("main", "parts"):
      raise AttributeError(name)
    return getattr(self.parts[self.main], name)

  @property
  def max_positions(self) -> tuple[int, int]:
    source, target = zip(*(part.max_positions for part in self.parts.values()))
    return max(source), max(target)

  @property
  def prefix(self) -> bool:
    return any(part.prefix for part in self.parts.values())

  @property
  def has_score(self) -> bool:
    return any(part.has_score for part in self.parts.values())

  def items(self, split):
    items, missing = self._having(split, lambda part: part.items(split))
    if missing and split == "train":
      raise next(iter(missing.values()))
    if missing:
      logging.warning("task.parts without a split %r are left out: %s", split, ", ".join(missing))
    return MixedItems(items, {name: self.shares[name] for name in items})

  def scored_parts(self, split):
    """Returns the parts that have a score and the split, `main` under "": its metrics keep their
    plain names, which a config's best_metric names."""
    examples, _ = self._having(split, lambda part: part.examples(split))
    return {
      "" if name == self.main else name: part
      for name, part in self.parts.items()
      if part.has_score and name in examples
    }

  def configured(self, rows=None, **changes):
    """Returns the mixture whose parts with a score, and `main`, are configured."""
    parts = {
      name: part.configured(rows, **changes) if part.has_score or name == self.main else part
      for name, part in self.parts.items()
    }
    return dataclasses.replace(self, parts=parts)

  def directed(self, source_lang="", target_lang=""):
    """Returns the mixture whose part `main` is for texts of these languages."""
    main = self.parts[self.main].directed(source_lang, target_lang)
    return dataclasses.replace(self, parts={**self.parts, self.main: main})

  def hugging_face(self) -> HuggingFace:
    return HuggingFace("")

  def _having(self, split, get: Callable) -> tuple[dict, dict[str, NoSplit]]:
    """Returns `get(part)` of each part that has the split, and the others' errors; raises NoSplit
    if none has it."""
    values, missing = {}, {}
    for name, part in self.parts.items():
      try:
        values[name] = get(part)
      except NoSplit as error:
        missing[name] = error
    if not values:
      raise next(iter(missing.values()))
    return values, missing
