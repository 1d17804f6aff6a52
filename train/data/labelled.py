"""Makes items of labelled examples (classes, tags, answers) for an encoder, long ones as windows.

An example is a head, a body and eos (mBART: and a language). The head is the first special token
and, for two texts, the first one with its separator. The body may be cut into windows, each of
which repeats the head. A class is the label of the row's first token, a tag that of its word's
first token, and an answer two marks at its ends, so items of all three kinds can be packed.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.data.source import Example, PickledByFields, Source, cached_lengths, digest, read_many
from train.data.tokenizer import Tokenizer


class Encoded(NamedTuple):
  """An example before it is cut."""

  head: Sequence[int]
  body: Sequence[int]
  label: Any = None  # of a type that the layout defines


class Window(NamedTuple):
  """A part of the body, and the tokens whose labels the window owns; each token has one owner."""

  start: int
  stop: int
  own_start: int
  own_stop: int


@dataclasses.dataclass(frozen=True)
class LabelLayout:
  """Encodes a task's examples and lays their labels along the tokens. A subclass adds `kind`,
  `extras` (keys of a batch -> dtypes), `encode` and `item`."""

  tokenizer: Tokenizer

  @property
  def fingerprint(self) -> str:
    """Returns the digest of everything that determines head and body."""
    return digest(self.tokenizer.fingerprint, *self.kind)

  def encode(self, examples: Sequence[Example]) -> list[Encoded]:
    """Returns head, body and label of each example."""
    raise NotImplementedError

  def item(self, encoded: Encoded, window: Window) -> dict[str, np.ndarray]:
    """Returns the extras of a window, each as long as its row."""
    raise NotImplementedError

  def blank_item(self, encoded: Encoded, window: Window) -> dict[str, np.ndarray]:
    """Returns the extras of a window without labels: zeros, but the second text's `source_types`
    are 1."""
    ends = len(self.tokenizer.roles.behind)
    length = len(encoded.head) + window.stop - window.start + ends
    rows = {key: np.zeros(length, dtype) for key, dtype in self.extras.items()}
    if "source_types" in rows:
      rows["source_types"][len(encoded.head) :] = 1
    return rows


def windows(length: int, size: int, stride: int) -> list[Window]:
  """Returns windows of at most `size` tokens that start every min(stride, size) tokens; with stride
  0, the first window alone.

  Of two windows that overlap, each owns its half of the overlap, where its tokens see more context
  on both sides (Devlin et al. 2019's "maximum context").
  """
  if not stride or length <= size:
    return [Window(0, min(length, size), 0, min(length, size))]
  stride = min(stride, size)
  starts = list(range(0, length - size + stride, stride))
  stops = [min(start + size, length) for start in starts]
  middles = [(start + stop + 1) // 2 for start, stop in zip(starts[1:], stops)]
  return [Window(*ends) for ends in zip(starts, stops, [0, *middles], [*middles, length])]


class ListSource(list):
  """A list of examples as a source; without a fingerprint, so nothing about it is cached."""

  fingerprint = ""


@dataclasses.dataclass(frozen=True)
class Labelled(PickledByFields):
  """The windows of a source's examples as items of at most `length` tokens each.

  A head may take half of the length, and more if the body leaves it free; a longer head is cut.
  """

  source: Source
  layout: LabelLayout
  length: int
  stride: int = 0

  def __post_init__(self):
    roles = self.layout.tokenizer.roles
    head = len(roles.before) + len(roles.between)
    if self.length < (least := max(4, 2 * head)):  # half of the length holds a head without text
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
    return self.layout.extras

  @functools.cached_property
  def _uncut(self) -> np.ndarray:
    """Returns the tokens of each example's head and body: [examples, 2]."""

    def measure(examples):
      return [[len(x.head), len(x.body)] for x in self.layout.encode(examples)]

    return cached_lengths(self.source, self.layout.fingerprint, measure)

  @functools.cached_property
  def index(self) -> list[tuple[int, Window]]:
    """Returns the example's index and the window of each item."""
    index = []
    for i, body in enumerate(self._uncut[:, 1].tolist()):
      size = self.length - self.head_length(i) - self._ends
      index += [(i, window) for window in windows(body, size, self.stride)]
    return index

  def head_length(self, index: int) -> int:
    """Returns the tokens of an example's head after the cut."""
    return int(self._head_lengths[index])

  @functools.cached_property
  def _head_lengths(self) -> np.ndarray:
    heads, bodies = self._uncut.T
    return np.minimum(heads, np.maximum(self.length // 2, self.length - bodies - self._ends))

  @property
  def requests(self) -> "Labelled":
    """Returns the items from which is predicted, of which item `index` holds
    `request_numbers(index)`: the items themselves."""
    return self

  def request_numbers(self, index: int) -> Sequence[int]:
    return (index,)

  @property
  def _ends(self) -> int:
    """Returns the number of special tokens behind a body."""
    return len(self.layout.tokenizer.roles.behind)

  def lengths(self) -> np.ndarray:
    return self._lengths

  @functools.cached_property
  def _lengths(self) -> np.ndarray:
    """Returns `lengths`; logs how many texts are cut."""
    (heads, bodies), kept = self._uncut.T, self._head_lengths
    if not self.stride and (cut_texts := int((kept + bodies + self._ends > self.length).sum())):
      logging.warning(
        f"of {len(heads)} examples, {cut_texts} are truncated to {self.length} tokens;"
        " a stride would keep all of them"
      )
    if cut_heads := int((kept < heads).sum()):
      logging.warning(
        f"of {len(heads)} examples, {cut_heads} have a question or first text that is cut;"
        f" task.source_len is {self.length}"
      )
    lengths = [[self.head_length(i) + w.stop - w.start + self._ends, 0] for i, w in self.index]
    return np.asarray(lengths, np.int32).reshape(-1, 2)

  def read(self, indices, positions):
    del positions  # nothing is random
    members = [self.index[index] for index in indices]
    examples = sorted({i for i, _ in members})
    encoded = dict(zip(examples, self.layout.encode(read_many(self.source, examples))))
    between, behind = self.layout.tokenizer.roles.between, self.layout.tokenizer.roles.behind
    items = []
    for i, window in members:
      example, kept = encoded[i], self.head_length(i)
      if len(example.head) > kept:
        example = example._replace(head=[*example.head[: kept - len(between)], *between])
      source = [*example.head, *example.body[window.start : window.stop], *behind]
      items.append({"source": source, **self.layout.item(example, window)})
    return items
