"""Takes a bounded sample of the texts of one or several sources, for training a tokenizer."""

import collections
import dataclasses
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.data import packing
from train.data.source import Example, Shards, Source, as_shards, read_many

READ_AT_ONCE = 256  # examples of an indexed source
PROBE = 1000  # examples whose mean length estimates that of all
OPEN_SHARDS = 16  # of which blocks are read in turn
NO_TEXTS = ("id", "label", "labels")  # fields that a tokenizer need not learn, "label_0" neither


@dataclasses.dataclass(frozen=True)
class Limits:
  """The size of a sample. The fields are optional keys of the section `tokenizer`."""

  sample_bytes: int = 200_000_000  # of text, as UTF-8
  sample_examples: int = 2_000_000
  sample_seed: int = 0

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if type(value) is not int or value < (name != "sample_seed"):
        raise UserError(f"tokenizer.{name} is {value!r}; it must be a whole number above 0")


KEYS = tuple(field.name for field in dataclasses.fields(Limits))


def split_limits(spec: Mapping) -> tuple[dict, Limits]:
  """Returns the section `tokenizer` without the keys of a sample, and these."""
  rest = {key: value for key, value in spec.items() if key not in KEYS}
  return rest, Limits(**{key: spec[key] for key in KEYS if key in spec})


@dataclasses.dataclass
class Sample:
  """Texts in a temporary file, which can be read again and again."""

  whole: bool = True  # all texts of all sources
  examples: int = 0
  bytes: int = 0  # of the texts, as UTF-8

  def __post_init__(self):
    self._file = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the sample

  def __iter__(self) -> Iterator[str]:
    self._file.seek(0)
    return map(json.loads, self._file)

  def add(self, examples: Iterable[Example], most_bytes: int, most_examples: int) -> bool:
    """Adds examples until the sample has one of the two sizes; returns whether it has all then. The
    first example of a sample is cut if it is too long."""
    for example in examples:
      texts = list(list_texts(example))
      size = sum(len(text.encode()) for text in texts)
      is_full = self.bytes + size > most_bytes or self.examples == most_examples
      if is_full and self.examples:
        return False
      if is_full:
        longest = most_bytes // (4 * len(texts))  # characters, of 4 bytes each at most
        texts = [text[:longest] for text in texts]
        size = sum(len(text.encode()) for text in texts)
      self.examples, self.bytes = self.examples + 1, self.bytes + size
      self._file.writelines(json.dumps(text).encode() + b"\n" for text in texts)
      if is_full:
        return False
    return True

  def cut(self, examples: int, size: int, place: int) -> None:
    """Removes what was added after a former state, `place` of the file."""
    self.examples, self.bytes = examples, size
    self._file.seek(place)
    self._file.truncate()

  @property
  def state(self) -> tuple[int, int, int]:
    """Returns the arguments with which `cut` leads back here."""
    return self.examples, self.bytes, self._file.tell()


def take(sources: Sequence[Source | Shards], limits: Limits) -> Sample:
  """Returns all texts of the sources where the limits allow it, else a seeded sample. Logs which.

  Of several sources the small ones are whole and the others have equal parts. The examples of an
  indexed source are drawn evenly and read in order; those of a corpus in shards are blocks, read in
  turn from shards in a seeded order.
  """
  sample, seed = Sample(), limits.sample_seed
  sized = [(_estimate_bytes(source, seed), source) for source in sources]
  sized.sort(key=lambda pair: pair[0])
  for place, (size, source) in enumerate(sized):
    share = len(sized) - place
    most_bytes = (limits.sample_bytes - sample.bytes) // share
    most_examples = (limits.sample_examples - sample.examples) // share
    sample.whole &= _add_source(sample, source, size, most_bytes, most_examples, seed)
  megabytes = sample.bytes / 1e6
  if sample.whole:
    logging.info("the texts are %d examples of %.1f MB", sample.examples, megabytes)
  else:
    logging.warning(
      "the tokenizer learns from a sample of %d examples, %.1f MB of about %.0f MB of text"
      " (tokenizer.sample_bytes=%d, tokenizer.sample_examples=%d)",
      sample.examples,
      megabytes,
      sum(size for size, _ in sized) / 1e6,
      limits.sample_bytes,
      limits.sample_examples,
    )
  return sample


def list_texts(example: Example) -> Iterator[str]:
  """Yields the texts of an example that a tokenizer learns."""
  for key, text in example.items():
    if isinstance(text, str) and key.split("_")[0] not in NO_TEXTS:
      yield text
  if "words" in example:
    yield " ".join(example["words"])


def _add_source(sample, source, size: float, most_bytes: int, most_examples: int, seed) -> bool:
  """Adds at most so many examples of a source; `size` is an estimate of its bytes. Returns whether
  it has no others."""
  limits = sample.bytes + most_bytes, sample.examples + most_examples
  if (shards := as_shards(source)) is not None:
    return sample.add(_read_shards(shards, seed), *limits)
  count, before = len(source), sample.state
  if size <= 1.25 * most_bytes and count <= most_examples:
    if sample.add(_read(source, range(count)), *limits):
      return True
    sample.cut(*before)
  number = min(int(most_bytes * count / max(size, 1)) or 1, most_examples, count)
  sample.add(_read(source, _draw_indices(count, number, seed)), *limits)
  return False


def _estimate_bytes(source, seed: int) -> float:
  """Returns the bytes of a source's texts, by the mean of PROBE examples, or of a corpus' files."""
  if (shards := as_shards(source)) is not None:
    return float(shards.num_bytes)
  examples = list(_read(source, _draw_indices(len(source), min(PROBE, len(source)), seed)))
  size = sum(len(text.encode()) for example in examples for text in list_texts(example))
  return size * len(source) / max(len(examples), 1)


def _draw_indices(count: int, number: int, seed: int) -> Sequence[int]:
  """Returns one index of each of `number` equal ranges of range(count)."""
  bounds = np.arange(number + 1) * count // max(number, 1)
  draw = np.random.default_rng(seed).random(number)
  return bounds[:-1] + (draw * np.diff(bounds)).astype(np.int64)


def _read(source: Source, indices: Sequence[int]) -> Iterator[Example]:
  for first in range(0, len(indices), READ_AT_ONCE):
    yield from read_many(source, [int(i) for i in indices[first : first + READ_AT_ONCE]])


def _read_shards(shards: Shards, seed: int) -> Iterator[Example]:
  """Yields the examples of all shards, a block in turn of each of OPEN_SHARDS."""
  order = packing.permuted(shards.num_shards, seed)
  waiting = (shards.blocks(order(place)) for place in range(shards.num_shards))
  opened = collections.deque(itertools.islice(waiting, OPEN_SHARDS))
  while opened:
    blocks = opened.popleft()
    if (block := next(blocks, None)) is not None:
      yield from block.examples
      opened.append(blocks)
    else:
      opened.extend(itertools.islice(waiting, 1))
