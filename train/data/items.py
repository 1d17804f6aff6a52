"""What batches are made of: items, each some tokens, read by number.

An item is a dict of equally long rows: `source` (what an encoder reads) and `target` (what a
decoder says), eos included, of which one may be absent; and along the target, or without one along
the source, whatever else a task needs, under its batch key: labels, weights, inputs, ...
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from absl import logging

from train.data import packing
from train.data.source import Source, measured, read_many
from train.data.tokenizer import Tokenizer

Item = Mapping[str, Sequence[int] | np.ndarray]


class Items(Protocol):
  """Pickles small: a worker process opens the data itself, when it first reads."""

  fingerprint: str  # hex digest of the data
  extras: Mapping[str, str]  # batch keys that the items say themselves, and their dtypes
  start: int  # what a decoder reads first; where there are targets

  def lengths(self) -> np.ndarray:
    """The most tokens each item takes on each side, int32 [items, 2]: source, target."""

  def read(self, numbers: Sequence[int], places: Sequence[int]) -> list[Item]:
    """The items of those numbers. What is random in one is a function of its place in the stream:
    another in every epoch, the same after a restart."""


def order(items: Items, count: int, seed: int) -> Callable[[int], int]:
  """The item's number at each place of an endless stream: shuffled anew in every epoch, unless the
  items have an `order` of their own (a mixture's)."""
  own = getattr(items, "order", None)
  return own(seed) if own else packing.shuffled(count, seed)


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Examples with a source and a target text, each cut to its length, with what the tokenizer puts
  in front of it and eos."""

  source: Source
  tokenizer: Tokenizer
  source_len: int
  target_len: int

  @property
  def fingerprint(self) -> str:
    return self.source.fingerprint

  @property
  def extras(self) -> Mapping[str, str]:
    return {}

  @property
  def start(self) -> int:
    return self.tokenizer.roles.start

  def lengths(self) -> np.ndarray:
    def measure(examples):
      endless = 2**31
      return [[len(source), len(target)] for source, target in self._encode(examples, endless)]

    found = measured(self.source, f"{self.tokenizer.fingerprint} source target", measure, 2)
    limits = (self.source_len, self.target_len)
    cut = (found > limits).sum(0).tolist()
    if any(cut):
      logging.warning(
        "of %d examples, %d sources are truncated to %d tokens and %d targets to %d",
        *(len(found), cut[0], limits[0], cut[1], limits[1]),
      )
    return np.minimum(found, limits)

  def read(self, numbers, places):
    del places  # nothing is random
    both = self._encode(read_many(self.source, numbers))
    return [dict(source=source, target=target) for source, target in both]

  def _encode(self, examples, longest=None):
    """The two rows of each, cut to their lengths or to `longest`."""
    sources = self.tokenizer.encode_sources([example["source"] for example in examples])
    targets = self.tokenizer.encode_targets([example["target"] for example in examples])
    roles, source_len = self.tokenizer.roles, longest or self.source_len
    return [
      (roles.source(source, source_len), roles.target(target, longest or self.target_len))
      for source, target in zip(sources, targets)
    ]
