"""Documents as windows of tokens, and what each pre-training objective makes of a window.

All documents of a source are encoded once into one array on disk, each ended by eos, and read from
there through a memory map: a window costs a copy of its tokens, however long its document is.
"""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.common.files import cache_dir, new_folder
from train.data import corruption, items
from train.data.source import CHUNK, Source, digest, read_many, reduced
from train.data.tokenizer import Tokenizer
from train.data.vocabulary import Roles


@dataclasses.dataclass(frozen=True)
class Tokens:
  """The ids of all documents in a row, an eos after each: int32, and where each document begins."""

  source: Source
  tokenizer: Tokenizer

  @functools.cached_property
  def ids(self) -> np.ndarray:
    """[tokens]."""
    return np.memmap(self._folder / "ids", np.int32, "r")

  @functools.cached_property
  def starts(self) -> np.ndarray:
    """[documents + 1]; the last is the number of tokens."""
    return np.load(self._folder / "starts.npy")

  @functools.cached_property
  def _folder(self):
    name = digest("tokens", self.source.fingerprint, self.tokenizer.fingerprint)[:32]
    folder = cache_dir("tokens") / name
    if folder.exists():
      return folder
    with new_folder(folder) as partial:
      self._write(partial)
    return folder

  def _write(self, folder):
    starts, empty, eos = [0], [], self.tokenizer.roles.eos
    with open(folder / "ids", "wb") as file:
      for first in range(0, len(self.source), CHUNK):
        numbers = range(first, min(first + CHUNK, len(self.source)))
        texts = [example["text"] for example in read_many(self.source, numbers)]
        for number, ids in enumerate(self.tokenizer.encode_batch(texts), first):
          if not ids:
            empty.append(number)
            continue
          file.write(np.asarray([*ids, eos], np.int32).tobytes())
          starts.append(starts[-1] + len(ids) + 1)
        logging.log_every_n_seconds(
          logging.INFO, "encoded %d of %d documents", 10, numbers.stop, len(self.source)
        )
    if empty:
      logging.warning(
        "of %d documents, %d are empty and left out: number %s%s",
        *(len(self.source), len(empty), ", ".join(map(str, empty[:5])), ", ..." * (len(empty) > 5)),
      )
    if len(starts) == 1:
      raise UserError("the data has no document with text: check the split and the files it names")
    np.save(folder / "starts.npy", np.asarray(starts, np.int64))

  def __reduce__(self):
    return Tokens, (self.source, self.tokenizer)  # a worker maps the file itself


class Objective(Protocol):
  """What is learned from a window; picklable."""

  extras: Mapping[str, str]
  ends: bool  # an eos is put behind each window, so that a document's own is left out

  def room(self, length: int) -> tuple[int, int]:
    """The most source and target tokens that a window of that length gives."""

  def __call__(self, ids: np.ndarray, before: int, rng: np.random.Generator) -> items.Item:
    """The item of a window's ids; `before` is the token in front of it, the start if none is."""


@dataclasses.dataclass(frozen=True)
class Windows:
  """Documents cut into windows of at most `length` tokens, each made an item by `objective`.

  cross_documents: windows run over the documents' ends, and all but the last are full; otherwise a
  window lies in one document, and its eos is left out where the objective puts one behind each
  window. A window of a single token is left out: nothing is before it.
  """

  tokens: Tokens
  length: int
  objective: Objective
  cross_documents: bool = False
  seed: int = 0
  fixed_masks: bool = False  # what is random in a window is the same in every epoch

  @property
  def fingerprint(self) -> str:
    return digest(self.tokens.source.fingerprint, self.tokens.tokenizer.fingerprint)

  @functools.cached_property
  def _spans(self) -> np.ndarray:
    """[windows, 2]: the places of the first token and of the one after the last."""
    starts = self.tokens.starts[[0, -1]] if self.cross_documents else self.tokens.starts
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
  def start(self) -> int:
    return self.tokens.tokenizer.roles.start

  def lengths(self) -> np.ndarray:
    spans = self._spans
    if not len(spans):
      raise UserError("no document has two tokens: check the data and the tokenizer")
    lengths, which = np.unique(spans[:, 1] - spans[:, 0], return_inverse=True)
    return np.asarray([self.objective.room(n) for n in lengths.tolist()], np.int32)[which]

  def read(self, numbers, places):
    made, roles = [], self.tokens.tokenizer.roles
    for number, place in zip(numbers, places):
      start, stop = self._spans[number].tolist()
      ids = np.asarray(self.tokens.ids[start:stop])
      fresh = start == 0 or self.tokens.ids[start - 1] == roles.eos
      before = roles.start if fresh or not self.cross_documents else int(self.tokens.ids[start - 1])
      rng = np.random.default_rng([self.seed, number if self.fixed_masks else place])
      made.append(self.objective(ids, before, rng))
    return made

  __reduce__ = reduced


def _framed(first, ids, eos):
  return np.concatenate([np.asarray(first, np.int32), ids, [eos]])


def _inputs(ids, before, roles):
  """The ids one later. The start is in front of each document, as it is when predicting."""
  inputs = np.concatenate([[before], ids[:-1]])
  return np.where(inputs == roles.eos, roles.start, inputs)


@dataclasses.dataclass(frozen=True)
class NextToken:
  """Each token given those before it."""

  roles: Roles

  extras = types.MappingProxyType({"inputs": "int32"})
  ends = False

  def room(self, length: int) -> tuple[int, int]:
    return 0, length

  def __call__(self, ids, before, rng):
    del rng
    return {"target": ids, "inputs": _inputs(ids, before, self.roles)}


@dataclasses.dataclass(frozen=True)
class PrefixLm:
  """A decoder that sees a random prefix whole and learns the rest (Raffel et al. 2020, fig. 4)."""

  roles: Roles

  extras = types.MappingProxyType({"inputs": "int32", "prefix": "int32", "weights": "float32"})
  ends = False

  def room(self, length: int) -> tuple[int, int]:
    return 0, length

  def __call__(self, ids, before, rng):
    place = rng.integers(1, len(ids))
    shown = np.arange(len(ids)) < place
    return {
      "target": ids,
      "inputs": _inputs(ids, before, self.roles),
      # inputs are the labels one later: the prefix is one longer there
      "prefix": (np.arange(len(ids)) <= place).astype(np.int32),
      "weights": np.where(shown, 0, 1).astype(np.float32),
    }


@dataclasses.dataclass(frozen=True)
class Denoise:
  """An encoder-decoder's pair of source and target."""

  corruption: corruption.Corruption
  roles: Roles
  extras = types.MappingProxyType({})
  ends = True

  def room(self, length: int) -> tuple[int, int]:
    source, target = self.corruption.room(length)
    frames = len(self.roles.source([], 99)), len(self.roles.target([], 99))
    return source + frames[0], target + frames[1]

  def __call__(self, ids, before, rng):
    del before
    source, target = self.corruption(ids, rng)
    endless = 2**31
    return {
      "source": np.asarray(self.roles.source(source, endless), np.int32),
      "target": np.asarray(self.roles.target(target, endless), np.int32),
    }


@dataclasses.dataclass(frozen=True)
class MaskedLm:
  """What an encoder reads, with what frames a text, and the labels of the tokens it cannot see.

  The eos between two documents of a window is never hidden.
  """

  roles: Roles  # with a mask
  words: np.ndarray  # ids of which random tokens are drawn
  rate: float
  word_starts: np.ndarray | None = None  # bool [V]: whole words are hidden
  extras = types.MappingProxyType({"labels": "int32", "weights": "float32"})
  ends = True

  def room(self, length: int) -> tuple[int, int]:
    return length + len(self.roles.first) + 1, 0

  def __call__(self, ids, before, rng):
    del before
    starts = np.ones(len(ids), bool) if self.word_starts is None else self.word_starts[ids]
    eos = ids == self.roles.eos
    starts[1:] |= eos[:-1]
    chosen = np.zeros(len(ids), bool)
    chosen[~eos] = corruption.choose_words(starts[~eos], self.rate, rng)
    hidden = corruption.hide(ids, chosen, self.roles.mask, self.words, rng)
    around = (len(self.roles.first), 1)
    return {
      "source": _framed(self.roles.first, hidden, self.roles.eos),
      "labels": np.pad(np.where(chosen, ids, 0), around),
      "weights": np.pad(chosen.astype(np.float32), around),
    }
