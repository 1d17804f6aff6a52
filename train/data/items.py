"""Defines the items that batches are packed from, and makes them of pairs of texts.

An item is a dict of sequences: `source`, which an encoder reads, and `target`, which a decoder
writes, both with eos; one of them may be absent. Other sequences of a task, under their batch keys
(labels, weights, inputs, ...), have the target's length or, without a target, the source's.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from absl import logging

from train.data import languages, packing
from train.data.source import Example, Shards, Source, as_shards, cached_lengths, read_many
from train.data.tokenizer import Tokenizer

Item = Mapping[str, Sequence[int] | np.ndarray]


class Made(NamedTuple):
  """An item of a streamed example, and what `Items.lengths` returns of one that is listed."""

  source_len: int
  target_len: int
  item: Item
  truncated: bool = False


class BlockItems(Sequence):
  """The items of a block, each made when it is read: as items they take several times the memory
  of their ids."""

  def __init__(self, count: int, make: Callable[[int], Made]):
    self._count, self._make = count, make

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, number: int) -> Made:
    if number >= self._count:  # ends an iteration
      raise IndexError(number)
    return self._make(number)


class Items(Protocol):
  """Items by index that pickle small: a worker process opens the data itself at its first read."""

  fingerprint: str  # hex digest of the data
  extras: Mapping[str, str]  # batch keys that the items have beside source and target -> dtypes
  start: int  # a decoder's first input; only where there are targets

  def lengths(self) -> np.ndarray:
    """Returns the most tokens of each item on each side, int32 [items, 2]: source, target."""

  def read(self, indices: Sequence[int], positions: Sequence[int]) -> list[Item]:
    """Returns the items at `indices`. Anything random in an item depends on its position in the
    stream: it differs between epochs and repeats after a restart."""

  @property
  def shards(self) -> Shards | None:
    """Returns the data that are read shard by shard, None where `lengths` and `read` list them."""

  def make(self, examples: Sequence[Example], key: Sequence[int]) -> Sequence[Made]:
    """Returns the items of a block of the shards. Anything random in them depends on `key`."""


def is_streamed(items: Items) -> bool:
  """Returns whether data of the items are read shard by shard."""
  return getattr(items, "is_streamed", False) or getattr(items, "shards", None) is not None


def is_drawn(items: Items) -> bool:
  """Returns whether anything in the items is random, so that it differs between epochs."""
  return getattr(items, "draws", False)


def order(items: Items, count: int, seed: int) -> Callable[[int], int]:
  """Returns the function from a position in an endless stream to the index of an item. Every epoch
  is shuffled anew, unless the items have an `order` of their own (a mixture's)."""
  own_order = getattr(items, "order", None)
  return own_order(seed) if own_order else packing.shuffled(count, seed)


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Examples with a source and a target text, framed by special tokens and cut to their lengths."""

  source: Source
  tokenizer: Tokenizer
  source_len: int
  target_len: int
  target_lang: str = ""  # of examples that name none (languages.frames)

  @property
  def extras(self):
    """Returns `inputs` where a decoder starts with the language of each example."""
    return {"inputs": "int32"} if self.tokenizer.roles.target_place == "start" else {}

  @property
  def fingerprint(self) -> str:
    return self.source.fingerprint

  @property
  def start(self) -> int:
    return self.tokenizer.roles.start

  def lengths(self) -> np.ndarray:
    def measure(examples):
      return [[len(item["source"]), len(item["target"])] for item in self._encode(examples)]

    key = f"{self.tokenizer.fingerprint} source target" + f" {self.target_lang}" * self._marked
    lengths = cached_lengths(self.source, key, measure)
    limits = (self.source_len, self.target_len)
    cut_sources, cut_targets = (lengths > limits).sum(0).tolist()
    if cut_sources or cut_targets:
      logging.warning(
        f"of {len(lengths)} examples, {cut_sources} sources are truncated to {self.source_len}"
        f" tokens and {cut_targets} targets to {self.target_len}"
      )
    return np.minimum(lengths, limits)

  def read(self, indices, positions):
    del positions  # nothing is random
    return self._encode(read_many(self.source, indices), self.source_len, self.target_len)

  @property
  def shards(self):
    return as_shards(self.source)

  def make(self, examples, key):
    del key  # nothing is random
    # an id takes 4 bytes in an array and 36 in a list
    rows = [(roles, *(np.asarray(x, np.int32) for x in ids)) for roles, *ids in self._ids(examples)]

    def make(number):
      roles, source, target = rows[number]
      item = self._item(roles, source, target, self.source_len, self.target_len)
      is_cut = len(roles.source(())) + len(source) > self.source_len
      is_cut |= len(roles.target(())) + len(target) > self.target_len
      return Made(len(item["source"]), len(item["target"]), item, is_cut)

    return BlockItems(len(rows), make)

  def _encode(self, examples, source_len=sys.maxsize, target_len=sys.maxsize):
    return [self._item(*row, source_len, target_len) for row in self._ids(examples)]

  def _ids(self, examples):
    """Returns roles, source ids and target ids of each example."""
    sources = _encode(self.tokenizer.encode_sources, examples, "source")
    targets = _encode(self.tokenizer.encode_targets, examples, "target")
    frames = languages.frames(self.tokenizer, examples, self.target_lang)
    return list(zip(frames, sources, targets))

  def _item(self, roles, source, target, source_len, target_len):
    row = {"source": roles.source(source, source_len), "target": roles.target(target, target_len)}
    if self.extras:
      row["inputs"] = [roles.start, *row["target"][:-1]]
    return row

  @property
  def _marked(self) -> bool:
    """Returns whether the target's language adds a token to sources."""
    return bool(self.target_lang and not self.tokenizer.roles.languages)


def _encode(encode, examples: Sequence[Example], field: str) -> list[list[int]]:
  """Returns the ids of a field's texts, which a prepared corpus has in their place."""
  values = [example[field] for example in examples]
  prepared = bool(values) and not isinstance(values[0], str)
  return [ids.tolist() for ids in values] if prepared else encode(values)
