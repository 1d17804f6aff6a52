"""Combines other sources: the first examples of one, texts made of its fields, several joined."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

from train.common.errors import UserError, did_you_mean
from train.data.source import (
  Block,
  Changed,
  PickledByFields,
  Shards,
  Source,
  read_many,
)


@dataclasses.dataclass(frozen=True)
class First:
  """The first examples of another source, at most `count`."""

  of: Source
  count: int
  fingerprint: str

  def __len__(self) -> int:
    return min(len(self.of), self.count)

  def __getitem__(self, index: int) -> dict:
    if index >= len(self):  # ends an iteration
      raise IndexError(index)
    return self.of[index]

  def _getitems(self, indices: Sequence[int]) -> list[dict]:
    return read_many(self.of, indices)


@dataclasses.dataclass(frozen=True)
class Formatted(Changed):
  """The examples of another source, rendered as text by patterns for a text-to-text model.

  `patterns` maps names to patterns such as "question: {question}". A list is joined by blanks;
  `answers` is the text of the first answer, or empty without one.
  """

  patterns: Mapping[str, str]
  fingerprint: str

  def change(self, example):
    texts = {name: _to_text(value) for name, value in example.items()}
    answers = {"answers": example["answers"]} if "answers" in example else {}
    try:
      return {name: pattern.format_map(texts) for name, pattern in self.patterns.items()} | answers
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
      raise UserError(
        f"data: a pattern asks for {error}; the examples have {', '.join(texts)}"
        + did_you_mean(str(error).strip("'"), texts)
      ) from None


def _to_text(value: str | list) -> str:
  if value and isinstance(value[0], dict):
    return value[0]["text"]
  return " ".join(value) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Joined:
  """The examples of several sources, one after another."""

  parts: tuple[Source, ...]
  fingerprint: str

  @functools.cached_property
  def _first(self) -> list[int]:
    """Returns the index of each part's first example, and the number of all."""
    return [0, *itertools.accumulate(map(len, self.parts))]

  def __len__(self) -> int:
    return self._first[-1]

  def __getitem__(self, index: int) -> dict:
    if index >= len(self):  # ends an iteration
      raise IndexError(index)
    part = bisect.bisect_right(self._first, index) - 1
    return self.parts[part][index - self._first[part]]

  def _getitems(self, indices: Sequence[int]) -> list[dict]:
    examples = {}
    for part, first, stop in zip(self.parts, self._first, self._first[1:]):
      own = [index for index in indices if first <= index < stop]
      examples |= zip(own, read_many(part, [index - first for index in own]))
    return [examples[index] for index in indices]


@dataclasses.dataclass(frozen=True)
class JoinedShards(PickledByFields):
  """The shards of several corpora, one after another."""

  parts: tuple[Shards, ...]
  fingerprint: str

  @functools.cached_property
  def _first(self) -> list[int]:
    """Returns the number of each part's first shard, and the number of all."""
    return [0, *itertools.accumulate(part.num_shards for part in self.parts)]

  @property
  def num_bytes(self) -> int:
    return sum(part.num_bytes for part in self.parts)

  @property
  def num_shards(self) -> int:
    return self._first[-1]

  @property
  def num_examples(self) -> int:  # a part that does not know it raises AttributeError
    return sum(part.num_examples for part in self.parts)

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    part = bisect.bisect_right(self._first, shard) - 1
    return self.parts[part].blocks(shard - self._first[part], first)
