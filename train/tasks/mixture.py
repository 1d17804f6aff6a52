"""Mixes several tasks, or one task on several data sets, in one stream."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

from absl import logging

from train.common.errors import NoSplit, UserError, choose
from train.data.mixed_items import MixedItems
from train.data.source import count_examples
from train.data.tokenizer import Tokenizer
from train.tasks.base import HuggingFace, Task

# A part's settings in its section, beside those of its task. max_epochs: how often its data are
# read at most, then the others have its place (0: any number).
PART = dict(share=1.0, max_epochs=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
  """Items of all parts, each at its rate, in the same rows.

  A rate is share * min(size, size_cap)**alpha, where the size is the number of training examples:
  alpha=1 mixes in proportion to the sizes, 0 by the shares alone (1/alpha is the temperature of
  Raffel et al. 2020, section 3.5.2, size_cap their limit K). Evaluation takes the parts that have
  the split. The part `main` defines everything else: loss, head and prediction.
  """

  main: str
  parts: Mapping[str, Task]
  shares: Mapping[str, float]  # they need not add up to 1
  tokenizer: Tokenizer
  alpha: float = 0.0
  size_cap: int = 0  # 0: none
  max_epochs: Mapping[str, float] = dataclasses.field(default_factory=dict)
  source_len: int = 0
  target_len: int = 0
  pack: bool = True

  one_pass = False  # parts are scored one by one

  def __post_init__(self):
    choose(self.parts, self.main, "task.main")
    for name, share in self.shares.items():
      if not share > 0:
        raise UserError(f"task.parts.{name}.share is {share}: it must be more than 0")
    if self.size_cap and not self.alpha:
      raise UserError(f"task.size_cap={self.size_cap} has no effect with task.alpha=0")
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
    if split != "train":
      return MixedItems(items, {name: self.shares[name] for name in items})
    return MixedItems(items, self._rates, {name: x for name, x in self.max_epochs.items() if x})

  @functools.cached_property
  def _rates(self) -> dict[str, float]:
    """Returns the rate of each part in training; logs them with the sizes, if these matter."""
    if not self.alpha:
      return dict(self.shares)
    rates, sizes = {}, {}
    for name, part in self.parts.items():
      size, known = count_examples(part.examples("train"))
      sizes[name] = f"{size} examples" if known else f"about {size} examples"
      rates[name] = self.shares[name] * min(size, self.size_cap or size) ** self.alpha
    total = sum(rates.values())
    lines = [f"{name} {rate / total:.2%} ({sizes[name]})" for name, rate in rates.items()]
    logging.info("rates of the mixture: %s", ", ".join(lines))
    return rates

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
