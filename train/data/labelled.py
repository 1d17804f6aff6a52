"""Labelled examples as rows for an encoder: classes, tags, answers; long ones as windows.

An example is a head (what begins a row, and a question or first sentence with what parts it from
the next), a body that may be cut into windows, and eos. Every window repeats the head. A class is
the label of the row's first token, a tag that of its word's first token, an answer two marks on its
ends: so all of them pack.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.data.source import Example, Source, measured, read_many, reduced
from train.data.tokenizer import Tokenizer


class Encoded(NamedTuple):
  """An example, uncut."""

  head: Sequence[int]
  body: Sequence[int]
  label: Any = None  # the encoder's own


class Encoder(Protocol):
  """What a task makes of its examples; picklable."""

  tokenizer: Tokenizer
  fingerprint: str  # of what decides head and body
  extras: Mapping[str, str]

  def encode(self, examples: Sequence[Example]) -> list[Encoded]: ...

  def item(self, encoded: Encoded, window: "Window") -> dict:
    """The extras of a window: each as long as head, window and eos together."""


class Window(NamedTuple):
  """A part of the body, and the part of that which it answers for: each token has one window."""

  start: int
  stop: int
  own_start: int
  own_stop: int


def windows(length: int, size: int, stride: int) -> list[Window]:
  """Windows of at most `size` tokens, begun every `stride` (0: the first alone, a truncation), or
  every `size` if that is less: no token is skipped.

  Of two that overlap, each answers for its half of the overlap: there its tokens see more on both
  sides (Devlin et al. 2019's "maximum context").
  """
  if not stride or length <= size:
    return [Window(0, min(length, size), 0, min(length, size))]
  stride = min(stride, size)
  starts = list(range(0, length - size + stride, stride))
  stops = [min(start + size, length) for start in starts]
  middles = [(start + stop + 1) // 2 for start, stop in zip(starts[1:], stops)]
  return [Window(*four) for four in zip(starts, stops, [0, *middles], [*middles, length])]


class Typed(list):
  """Examples that somebody gave, as a source; nothing is kept of them."""

  fingerprint = ""


@dataclasses.dataclass(frozen=True)
class Labelled:
  """The windows of a source's examples, at most `length` tokens each with head and eos.

  A head gets what the body leaves, and half of the length at least; what is more is cut.
  """

  source: Source
  encoder: Encoder
  length: int
  stride: int = 0

  def __post_init__(self):
    roles = self.encoder.tokenizer.roles
    head = len(roles.first) + len(roles.between)
    if self.length < (least := max(4, 2 * head)):  # half of the length holds a head of no text
      raise UserError(
        f"task.source_len is {self.length}: special tokens and one of text need {least}"
      )
    if not 0 <= self.stride < self.length - 1:
      raise UserError(
        f"task.stride is {self.stride}: with task.source_len={self.length}, windows begin 1 to"
        f" {self.length - 2} tokens apart; 0 keeps only the first of each text"
      )

  @property
  def fingerprint(self) -> str:
    return self.source.fingerprint

  @property
  def extras(self) -> Mapping[str, str]:
    return self.encoder.extras

  @functools.cached_property
  def _sizes(self) -> np.ndarray:
    """[examples, 2]: tokens of head and body."""

    def measure(examples):
      return [[len(one.head), len(one.body)] for one in self.encoder.encode(examples)]

    return measured(self.source, self.encoder.fingerprint, measure, 2)

  @functools.cached_property
  def index(self) -> list[tuple[int, Window]]:
    """Example number and window of each item."""
    found = []
    for number, body in enumerate(self._sizes[:, 1].tolist()):
      room = self.length - self.head_length(number) - 1
      found += [(number, window) for window in windows(body, room, self.stride)]
    return found

  def head_length(self, number: int) -> int:
    """Tokens of an example's head, of which a long one is cut."""
    return int(self._heads[number])

  @functools.cached_property
  def _heads(self) -> np.ndarray:
    heads, bodies = self._sizes.T
    return np.minimum(heads, np.maximum(self.length // 2, self.length - bodies - 1))

  def _warn(self):
    (heads, bodies), kept = self._sizes.T, self._heads
    cut = (kept + bodies + 1 > self.length) & (self.stride == 0)
    if cut.any():
      logging.warning(
        "of %d examples, %d are truncated to %d tokens; a stride would keep all of them",
        *(len(heads), cut.sum(), self.length),
      )
    if (kept < heads).any():
      logging.warning(
        "of %d examples, %d have a question or first text that is cut; task.source_len is %d",
        *(len(heads), (kept < heads).sum(), self.length),
      )

  def lengths(self) -> np.ndarray:
    self._warn()
    lengths = [self.head_length(number) + w.stop - w.start + 1 for number, w in self.index]
    return np.stack([np.asarray(lengths), np.zeros(len(lengths))], 1).astype(np.int32)

  def read(self, numbers, places):
    del places  # nothing is random
    chosen = [self.index[number] for number in numbers]
    examples = sorted({number for number, _ in chosen})
    encoded = self.encoder.encode(read_many(self.source, examples))
    between, eos = self.encoder.tokenizer.roles.between, self.encoder.tokenizer.roles.eos
    by_number = dict(zip(examples, encoded))
    made = []
    for number, window in chosen:
      one, kept = by_number[number], self.head_length(number)
      if len(one.head) > kept:
        one = one._replace(head=[*one.head[: kept - len(between)], *between])
      source = [*one.head, *one.body[window.start : window.stop], eos]
      made.append({"source": source, **self.encoder.item(one, window)})
    return made

  __reduce__ = reduced
