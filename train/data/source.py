"""Defines what all sources of examples share: the protocol, batched reading, and a disk cache of
lengths."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.common.files import cache_dir
from train.data import packing
from train.data.bad_records import FEW, log_once

CHUNK = 1024  # examples read at a time, fewer if they are long
FIRST_CHUNK = 16  # the first ones, whose lengths are not known yet
CHUNK_CHARACTERS = 1 << 21  # of several examples; encoding them takes some 130 bytes for each
SECONDS = 10  # between two lines of progress
PROBE = 1000  # examples whose mean size estimates how many there are
Example = dict[str, str]


class Source(Protocol):
  """Examples by index that pickle small: a worker process opens the data at its first read.

  `fingerprint` is the hex digest of the source's content. `read_many` calls `_getitems`, if
  there is one, to read many examples at once, about 8 times faster a record than one by one.
  """

  fingerprint: str

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...

  def _getitems(self, indices: Sequence[int]) -> list[Example]: ...


LARGE = 64 << 20  # bytes of text; larger data are streamed


def is_large(num_bytes: int, stream: bool | None) -> bool:
  """Returns whether data are streamed: as `stream` demands, by their size without a demand."""
  return num_bytes > LARGE if stream is None else stream


class Block(NamedTuple):
  """Examples that are read together, and what of the data is no example."""

  examples: list[Example]
  bad: Sequence[str] = ()  # file, place and reason of each record that was skipped
  dropped: int = 0  # examples with a blank field


class Shards(Protocol):
  """A corpus that is too large to list: its examples are read shard by shard, in any order.

  A shard is a range of a file, or a file that can only be read from its beginning. Opening the
  corpus takes no pass over it. It pickles small: a worker process opens the files itself. Shards
  that know the number of their examples have it as `num_examples`.
  """

  fingerprint: str  # hex digest of the files' sizes and samples of their bytes
  num_bytes: int  # of all files
  num_shards: int

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    """Yields the blocks of a shard from number `first` on, always the same ones, each of bounded
    size. Raises UserError, with file and place, for what cannot be read."""


def as_shards(source: Source | Shards) -> Shards | None:
  """Returns a streamed source itself, None for an indexed one."""
  return source if hasattr(source, "num_shards") else None


def sample(shards: Shards, seed: int) -> Iterator[Example]:
  """Yields all examples, shard by shard in an order that depends on the seed alone, so that the
  first ones are a sample. Bad records are left out; the first FEW of them are logged."""
  shard_at, bad = packing.permuted(shards.num_shards, seed), 0
  for position in range(shards.num_shards):
    for block in shards.blocks(shard_at(position)):
      for message in block.bad[: max(FEW - bad, 0)]:
        log_once(f"skipped: {message}")
      bad += len(block.bad)
      yield from block.examples


def first_example(source: Source | Shards) -> Example | None:
  """Returns the first example, None if there is none."""
  if as_shards(source) is None:
    return source[0] if len(source) else None
  return next(all_examples(source), None)


def all_examples(shards: Shards) -> Iterator[Example]:
  """Yields the examples of all shards in their order."""
  for shard in range(shards.num_shards):
    for block in shards.blocks(shard):
      yield from block.examples


def count_examples(source: Source | Shards) -> tuple[int, bool]:
  """Returns the number of examples, and whether it is known. Of shards without `num_examples` it is
  an estimate: their bytes by the mean size of the first examples of a sample."""
  if as_shards(source) is None:
    return len(source), True
  if known := getattr(source, "num_examples", 0):
    return known, True
  examples = list(itertools.islice(sample(source, 0), PROBE))
  if len(examples) < PROBE:
    return len(examples), True
  values = (value for example in examples for value in example.values())
  size = sum(len(str(value).encode()) + 1 for value in values)  # with a line's end
  return max(source.num_bytes * PROBE // size, PROBE), False


def digest(*parts: object) -> str:
  """Returns the hex digest of the parts as text."""
  return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def read_many(source: Source, indices: Sequence[int]) -> list[Example]:
  """Returns the examples at `indices`, read in one call where the source supports it."""
  getitems = getattr(source, "_getitems", None)
  return getitems(indices) if getitems and len(indices) else [source[i] for i in indices]


def read_all(source: Source) -> Iterator[Example]:
  """Yields all examples, read CHUNK at a time."""
  for first in range(0, len(source), CHUNK):
    yield from read_many(source, range(first, min(first + CHUNK, len(source))))


def read_in_chunks(source: Source) -> Iterator[tuple[int, list[Example]]]:
  """Yields all examples in chunks with the index of the first, and logs the progress.

  A chunk has at most CHUNK examples, and CHUNK_CHARACTERS characters unless it is one example.
  """
  began = shown = time.monotonic()
  first, count = 0, min(FIRST_CHUNK, CHUNK)
  while first < len(source):
    examples, size, total = [], 0, 0
    for example in read_many(source, range(first, min(first + count, len(source)))):
      length = sum(len(value) for value in example.values() if isinstance(value, (str, list)))
      if examples and size + length > CHUNK_CHARACTERS:
        yield first, examples
        first, examples, size = first + len(examples), [], 0
      examples.append(example)
      size, total = size + length, total + length
    yield first, examples
    first += len(examples)
    count = max(1, min(CHUNK, 4 * count, count * CHUNK_CHARACTERS // max(total, 1)))
    if (now := time.monotonic()) - shown > SECONDS:
      shown = now
      logging.info("encoded %d of %d examples", first, len(source))
  if shown > began:
    logging.info("encoded all %d examples in %.0f s", len(source), time.monotonic() - began)


def cached_lengths(source: Source, key: str, measure: Callable) -> np.ndarray:
  """Returns `measure(examples)`, two lengths for each example of a source: int32 [examples, 2].

  The lengths are cached on disk under the source's fingerprint and `key`, which must name
  everything else that determines the lengths. A source with an empty fingerprint is not cached.
  """
  if not source.fingerprint:
    return np.asarray(measure(source), np.int32).reshape(len(source), 2)
  if not len(source):
    raise UserError("the data has no example: check the split and the files it names")
  path = cache_dir("lengths") / f"{digest(source.fingerprint, key)[:32]}.npy"
  with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged: written below
    lengths = np.load(path)
    if lengths.shape == (len(source), 2):
      return lengths
  lengths = np.concatenate(
    [np.asarray(measure(examples), np.int32) for _, examples in read_in_chunks(source)]
  )
  temporary = path.with_name(f"{uuid.uuid4().hex}.npy")
  np.save(temporary, lengths)
  os.replace(temporary, path)
  return lengths


class PickledByFields:
  """The base of a dataclass that is pickled without its cached properties."""

  def __reduce__(self):
    return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))


@dataclasses.dataclass(frozen=True)
class Changed(PickledByFields):
  """The examples of another source, each as `change` returns it. A subclass adds `change` and
  `fingerprint`. It has shards if the other has them, and else is read by index."""

  of: Source | Shards

  def __len__(self) -> int:
    return len(self.of)

  def __getitem__(self, index: int) -> Example:
    return self.change(self.of[index])

  def _getitems(self, indices: Sequence[int]) -> list[Example]:
    return [self.change(example) for example in read_many(self.of, indices)]

  @property
  def num_bytes(self) -> int:
    return self.of.num_bytes

  @property
  def num_shards(self) -> int:  # as_shards: a source that is read by index raises AttributeError
    return self.of.num_shards

  @property
  def num_examples(self) -> int:  # shards that do not know it raise AttributeError
    return self.of.num_examples

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    for block in self.of.blocks(shard, first):
      yield block._replace(examples=[self.change(example) for example in block.examples])

  def change(self, example: Example) -> Example:
    """Returns an example of this source for one of the other."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Ranges(PickledByFields):
  """The shards of a source that is read by index: ranges of `size` examples, one block each."""

  of: Source
  size: int = 256

  @property
  def fingerprint(self) -> str:
    return self.of.fingerprint

  @functools.cached_property
  def num_bytes(self) -> int:
    """Returns an estimate by the first examples."""
    examples = read_many(self.of, range(min(self.size, len(self.of))))
    size = sum(len(str(value)) for example in examples for value in example.values())
    return size * len(self.of) // max(len(examples), 1)

  @property
  def num_shards(self) -> int:
    return -(-len(self.of) // self.size)

  @property
  def num_examples(self) -> int:
    return len(self.of)

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    if not first:
      start = shard * self.size
      stop = min(start + self.size, len(self.of))
      yield Block(read_many(self.of, range(start, stop)))
