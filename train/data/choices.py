"""Makes items of texts with several choices: all choices of an example, each behind its text."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from train.common.errors import UserError
from train.data.label_layout import Classes
from train.data.labelled import Labelled, ListSource
from train.data.source import PickledByFields, Source, read_all
from train.data.tokenizer import Tokenizer


def split_choices(example: Mapping) -> list[str]:
  """Returns an example's choices, a list or a JSON list in a cell; raises UserError for another
  value or fewer than two."""
  choices = example["choices"]
  if isinstance(choices, str):
    try:
      choices = json.loads(choices)
    except (ValueError, RecursionError):
      choices = None
  known = isinstance(choices, Sequence) and not isinstance(choices, str) and len(choices) > 1
  if not known or not all(isinstance(choice, str) for choice in choices):
    raise UserError(f"choices are {example['choices']!r}; give a list of two texts or more")
  return list(choices)


def find_label(example: Mapping) -> int:
  """Returns the number of the right choice, which an example gives as a number from 0 or as the
  text; -1 without one. Raises UserError for a label that is neither."""
  label, choices = example.get("label"), split_choices(example)
  if label is None:
    return -1
  if label in choices:
    return choices.index(label)
  if str(label).isdecimal() and int(label) < len(choices):
    return int(label)
  raise UserError(f"the label {label!r} is none of the {len(choices)} choices: {choices}")


@dataclasses.dataclass(frozen=True)
class Choices(PickledByFields):
  """Examples as items: rows of text and choice, of at most `length` tokens each, one after another.

  `weights` are 1 on each choice's first token, `labels` on the right one's.
  """

  source: Source
  tokenizer: Tokenizer
  length: int

  @property
  def fingerprint(self) -> str:
    return self.source.fingerprint

  @property
  def extras(self) -> Mapping[str, str]:
    return self.requests.extras

  @functools.cached_property
  def _examples(self) -> list[tuple[int, int]]:
    """Returns each example's number of choices and right one."""
    examples = read_all(self.source)
    return [(len(split_choices(example)), find_label(example)) for example in examples]

  @functools.cached_property
  def requests(self) -> Labelled:
    """Returns the choices of all examples as items of their own."""
    flat = ListSource(
      {"text": example["text"], "choice": choice}
      for example in read_all(self.source)
      for choice in split_choices(example)
    )
    return Labelled(flat, Classes(self.tokenizer, ("text", "choice"), ()), self.length)

  def request_numbers(self, index: int) -> Sequence[int]:
    """Returns the numbers of an example's choices among the requests."""
    return range(self._starts[index], self._starts[index + 1])

  @functools.cached_property
  def _starts(self) -> list[int]:
    """Returns the first of each example's requests, and the number of requests."""
    return [0, *itertools.accumulate(count for count, _ in self._examples)]

  def lengths(self):
    sums = np.add.reduceat(self.requests.lengths(), self._starts[:-1], axis=0)
    return sums.astype(np.int32)

  def read(self, indices, positions):
    del positions  # nothing is random
    return list(map(self._item, indices))

  def _item(self, index: int):
    numbers = self.request_numbers(index)
    rows = self.requests.read(numbers, numbers)
    for number, row in enumerate(rows):
      row["weights"][0], row["labels"][0] = 1, number == self._examples[index][1]
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
