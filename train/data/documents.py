"""Cuts documents into windows of tokens, which each pre-training objective turns into items.

All documents of an indexed source are encoded once into one array on disk, each ended by eos, and
read through a memory map: a window costs a copy of its tokens, however long its document is. Those
of a streamed source are encoded block by block.
"""

import dataclasses
import functools
import itertools
import operator
import types
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.common.files import cache_dir, new_folder
from train.data import corruption, items
from train.data.roles import Roles
from train.data.source import PickledByFields, Source, as_shards, digest, read_in_chunks
from train.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Tokens(PickledByFields):  # a worker process maps the file itself
  """The ids of all documents in one int32 array, an eos after each, and the documents' starts."""

  source: Source
  tokenizer: Tokenizer

  @functools.cached_property
  def ids(self) -> np.ndarray:
    """Returns the ids: int32 [tokens]."""
    return np.memmap(self._folder / "ids", np.int32, "r")

  @functools.cached_property
  def starts(self) -> np.ndarray:
    """Returns each document's first index, and the number of tokens: [documents + 1]."""
    return np.load(self._folder / "starts.npy")

  @functools.cached_property
  def _folder(self):
    name = digest("tokens", self.source.fingerprint, self.tokenizer.fingerprint)[:32]
    folder = cache_dir("tokens") / name
    if not folder.exists():
      with new_folder(folder) as partial:
        self._write(partial)
    return folder

  def _write(self, folder):
    starts, empty = [0], []
    with open(folder / "ids", "wb") as file:
      for first, examples in read_in_chunks(self.source):
        for number, pieces in itertools.groupby(self._encode(examples), operator.itemgetter(0)):
          if length := sum(file.write(ids.tobytes()) // ids.itemsize for _, ids in pieces):
            starts.append(starts[-1] + length)
          else:
            empty.append(first + number)
    if empty:
      examples = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
      logging.warning(
        f"of {len(self.source)} documents, {len(empty)} are empty and left out: number {examples}"
      )
    if len(starts) == 1:
      raise UserError("the data has no document with text: check the split and the files it names")
    np.save(folder / "starts.npy", np.asarray(starts, np.int64))

  def _encode(self, examples) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each document's number and ids in one or more pieces, of which eos is the last one,
    or an empty piece for an empty document."""
    eos = np.asarray([self.tokenizer.roles.eos], np.int32)
    texts = [example["text"] for example in examples]
    prepared = bool(texts) and not isinstance(texts[0], str)  # arrays of ids
    encoded = enumerate(texts) if prepared else self.tokenizer.encode_parts(texts)
    for number, parts in itertools.groupby(encoded, operator.itemgetter(0)):
      length = 0
      for _, ids in parts:
        length += len(ids)
        yield number, np.asarray(ids, np.int32)
      if length:
        yield number, eos

  def join(self, examples) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids and starts of some documents as `ids` and `starts` are of all."""
    lengths, pieces = np.zeros(len(examples) + 1, np.int64), [np.zeros(0, np.int32)]
    for number, ids in self._encode(examples):
      lengths[number + 1] += len(ids)
      pieces.append(ids)
    return np.concatenate(pieces), np.cumsum(lengths[(lengths > 0) | (np.arange(len(lengths)) < 1)])


class Objective(Protocol):
  """A pre-training objective: turns a window into an item; picklable."""

  extras: Mapping[str, str]
  ends: bool  # an eos is put after each window, so that the document's own eos is left out
  draws: bool  # something in an item is random

  def max_lengths(self, length: int) -> tuple[int, int]:
    """Returns the most source and target tokens of an item from a window of that length."""

  def __call__(self, ids: np.ndarray, before: int, rng: np.random.Generator) -> items.Item:
    """Returns the item of a window's ids; `before` is the token before it, or the start. Without
    `draws`, `rng` may be None."""


@dataclasses.dataclass(frozen=True)
class Windows(PickledByFields):
  """Items made by `objective` from windows of at most `length` tokens.

  With cross_documents, windows cross the documents' ends, and all but the last are full. Otherwise
  a window lies in one document, without the document's eos if the objective puts an eos after each
  window. Windows of a single token are left out: they have no token to predict from.
  """

  tokens: Tokens
  length: int
  objective: Objective
  cross_documents: bool = False
  seed: int = 0
  fixed_masks: bool = False  # a window's random choices are the same in every epoch

  @property
  def fingerprint(self) -> str:
    return digest(self.tokens.source.fingerprint, self.tokens.tokenizer.fingerprint)

  @functools.cached_property
  def _spans(self) -> np.ndarray:
    return self._cut(self.tokens.starts)

  def _cut(self, starts: np.ndarray) -> np.ndarray:
    """Returns the start and stop of each window in the ids of documents: [windows, 2]."""
    starts = starts[[0, -1]] if self.cross_documents else starts
    starts, stops = starts[:-1], starts[1:] - (self.objective.ends and not self.cross_documents)
    counts = -(-(stops - starts) // self.length)  # windows of each document
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(starts, counts) + within * self.length
    spans = np.stack([first, np.minimum(first + self.length, np.repeat(stops, counts))], 1)
    return spans[spans[:, 1] - spans[:, 0] > 1]

  @property
  def extras(self) -> Mapping[str, str]:
    return self.objective.extras

  @property
  def draws(self) -> bool:
    """Returns whether an item differs between epochs."""
    return self.objective.draws and not self.fixed_masks

  @property
  def start(self) -> int:
    return self.tokens.tokenizer.roles.start

  def lengths(self) -> np.ndarray:
    spans = self._spans
    if not len(spans):
      raise UserError("no document has two tokens: check the data and the tokenizer")
    sizes, inverse = np.unique(spans[:, 1] - spans[:, 0], return_inverse=True)
    lengths = [self.objective.max_lengths(size) for size in sizes.tolist()]
    return np.asarray(lengths, np.int32)[inverse]

  def read(self, indices, positions):
    read = []
    for index, position in zip(indices, positions):
      number = index if self.fixed_masks else position
      read.append(self._item(self.tokens.ids, *self._spans[index].tolist(), (number,)))
    return read

  @property
  def shards(self):
    return as_shards(self.tokens.source)

  def make(self, examples, key):
    """Returns the windows of a block, whose ends no window crosses."""
    ids, starts = self.tokens.join(examples)
    # a block is the same in every epoch, its place in the stream is not
    key = key[1:] if self.fixed_masks else key
    spans, max_lengths = self._cut(starts), functools.cache(self.objective.max_lengths)

    def make(number):
      start, stop = spans[number].tolist()
      return items.Made(*max_lengths(stop - start), self._item(ids, start, stop, (*key, number)))

    return items.BlockItems(len(spans), make)

  def _item(self, ids, start, stop, key) -> items.Item:
    before = int(ids[start - 1]) if start and self.cross_documents else self.start
    # a generator takes 15 us
    rng = np.random.default_rng([self.seed, *key]) if self.objective.draws else None
    return self.objective(np.asarray(ids[start:stop]), before, rng)


@dataclasses.dataclass(frozen=True)
class NextToken:
  """Predicts each token from the tokens before it."""

  roles: Roles

  extras = types.MappingProxyType({"inputs": "int32"})
  ends = draws = False

  def max_lengths(self, length: int) -> tuple[int, int]:
    return 0, length

  def __call__(self, ids, before, rng):
    del rng
    inputs = np.empty_like(ids)
    inputs[0], inputs[1:] = before, ids[:-1]
    # the start precedes each document, as when predicting
    inputs[inputs == self.roles.eos] = self.roles.start
    return {"target": ids, "inputs": inputs}


class PrefixLm(NextToken):
  """Predicts the tokens after a random prefix, visible as a whole (Raffel et al. 2020, fig. 4)."""

  extras = types.MappingProxyType({"inputs": "int32", "prefix": "int32", "weights": "float32"})
  draws = True

  def __call__(self, ids, before, rng):
    cut, place = rng.integers(1, len(ids)), np.arange(len(ids))
    # the inputs are the labels one later, so the prefix is one token longer there
    prefix, weights = (place <= cut).astype(np.int32), (place >= cut).astype(np.float32)
    return super().__call__(ids, before, rng) | {"prefix": prefix, "weights": weights}


@dataclasses.dataclass(frozen=True)
class Denoise:
  """Predicts an encoder-decoder's target from its source, both made by a corruption."""

  corruption: corruption.Corruption
  roles: Roles
  extras = types.MappingProxyType({})
  ends = draws = True

  def max_lengths(self, length: int) -> tuple[int, int]:
    source, target = self.corruption.max_lengths(length)
    return source + len(self.roles.source([])), target + len(self.roles.target([]))

  def __call__(self, ids, before, rng):
    del before
    source, target = self.corruption(ids, rng)
    return {
      "source": np.asarray(self.roles.source(source), np.int32),
      "target": np.asarray(self.roles.target(target), np.int32),
    }


@dataclasses.dataclass(frozen=True)
class MaskedLm:
  """Predicts the hidden tokens of an encoder's input, which special tokens frame.

  The eos between two documents of a window is never hidden. Although items have no target, its
  length is given as the most tokens that are hidden, so that a row can limit them.
  """

  roles: Roles  # with a mask
  words: np.ndarray  # ids of which random tokens are drawn
  rate: float
  word_starts: np.ndarray | None = None  # bool [V]: if given, whole words are hidden
  extras = types.MappingProxyType({"labels": "int32", "weights": "float32"})
  ends = draws = True

  def max_lengths(self, length: int) -> tuple[int, int]:
    return length + len(self.roles.first) + 1, corruption.most_hidden(length, self.rate)

  def __call__(self, ids, before, rng):
    del before
    starts = np.ones(len(ids), bool) if self.word_starts is None else self.word_starts[ids]
    eos = ids == self.roles.eos
    starts[1:] |= eos[:-1]
    chosen = np.zeros(len(ids), bool)
    chosen[~eos] = corruption.choose_words(starts[~eos], self.rate, rng)
    hidden = corruption.hide(ids, chosen, self.roles.mask, self.words, rng)
    first, frame = np.asarray(self.roles.first, np.int32), (len(self.roles.first), 1)
    return {
      "source": np.concatenate([first, hidden, [self.roles.eos]]),
      "labels": np.pad(np.where(chosen, ids, 0), frame),
      "weights": np.pad(chosen.astype(np.float32), frame),
    }
