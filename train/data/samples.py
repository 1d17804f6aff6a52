"""Takes a bounded sample of the texts of one or several sources, for training a tokenizer."""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.data import packing
from train.data.source import Example, Shards, Source, read_many

READ_AT_ONCE = 128  # examples
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


@dataclasses.dataclass(frozen=True)
class Part:
  """The examples that a sample has of one source."""

  source: Source | Shards
  seed: int
  indices: np.ndarray | None = None  # ascending; None: all, or the first blocks of shuffled shards
  examples: int = 0
  bytes: int = 0  # of text
  whole: bool = False  # the source has no other examples

  def read(self) -> Iterator[Example]:
    """Yields examples of the source in the sample's order, perhaps more than `examples`."""
    if hasattr(self.source, "blocks"):
      yield from _read_shards(self.source, self.seed)
      return
    chosen = range(len(self.source)) if self.indices is None else self.indices
    for first in range(0, len(chosen), READ_AT_ONCE):
      yield from read_many(self.source, [int(i) for i in chosen[first : first + READ_AT_ONCE]])

  def measured(self, most_bytes: int, most_examples: int) -> "Part":
    """Returns the part with as many examples as the two limits allow."""
    examples = size = 0
    for example in self.read():
      more = sum(len(text.encode()) for text in list_texts(example))
      if size + more > most_bytes or examples == most_examples:
        return dataclasses.replace(self, examples=examples, bytes=size)
      examples, size = examples + 1, size + more
    return dataclasses.replace(self, examples=examples, bytes=size, whole=self.indices is None)


@dataclasses.dataclass(frozen=True)
class Sample:
  """Texts of sources, which can be read again and again."""

  parts: Sequence[Part]
  seed: int

  def __iter__(self) -> Iterator[str]:
    for part in self.parts:
      for example in itertools.islice(part.read(), part.examples):
        yield from list_texts(example)

  def describe(self) -> dict:
    """Returns the sample's size, for run.json."""
    examples, size = (sum(getattr(x, name) for x in self.parts) for name in ("examples", "bytes"))
    whole = all(part.whole for part in self.parts)
    return dict(whole=whole, examples=examples, bytes=size, seed=self.seed)


def take(sources: Sequence[Source | Shards], limits: Limits) -> Sample:
  """Returns all texts of the sources where the limits allow it, else a seeded sample, and logs its
  size.

  Of several sources the small ones are whole and the others have equal parts. The examples of an
  indexed source are drawn evenly and read in order; those of a corpus in shards are blocks, read in
  turn from shards in a seeded order.
  """
  parts, most = {}, (limits.sample_bytes, limits.sample_examples)
  sizes = [_estimate_bytes(source, limits.sample_seed) for source in sources]
  ascending = sorted(range(len(sources)), key=lambda i: sizes[i])
  for place, number in enumerate(ascending):
    share = [left // (len(sources) - place) for left in most]
    part = parts[number] = _take_part(sources[number], sizes[number], *share, limits.sample_seed)
    most = most[0] - part.bytes, most[1] - part.examples
  sample = Sample([parts[number] for number in range(len(sources))], limits.sample_seed)
  facts = sample.describe()
  if facts["whole"]:
    logging.info("the texts are %d examples, %.1f MB", facts["examples"], facts["bytes"] / 1e6)
  else:
    logging.warning(
      "the tokenizer learns from a sample of %d examples, %.1f MB of about %.0f MB of text:"
      " tokenizer.sample_bytes is %d, tokenizer.sample_examples %d",
      facts["examples"],
      facts["bytes"] / 1e6,
      sum(sizes) / 1e6,
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


def _take_part(source, size: float, most_bytes: int, most_examples: int, seed: int) -> Part:
  """Returns the whole source within the limits, else a sample; `size` is an estimate in bytes."""
  part = Part(source, seed)
  streamed = hasattr(source, "blocks")
  if streamed or (size <= 2 * most_bytes and len(source) <= most_examples):
    part = part.measured(most_bytes, most_examples)
    if streamed or part.whole:
      return part
  number = int(most_bytes * len(source) / max(size, 1))
  indices = _draw_indices(len(source), min(number, most_examples, len(source)), seed)
  return dataclasses.replace(part, indices=indices).measured(most_bytes, most_examples)


def _estimate_bytes(source, seed: int) -> float:
  """Returns the bytes of a source's texts, by the mean of PROBE examples, or of a corpus' files."""
  if hasattr(source, "blocks"):
    return float(source.num_bytes)
  indices = _draw_indices(len(source), min(PROBE, len(source)), seed)
  probe = Part(source, seed, indices).measured(2**62, PROBE)
  return probe.bytes * len(source) / max(probe.examples, 1)


def _draw_indices(count: int, number: int, seed: int) -> np.ndarray:
  """Returns one index of each of `number` equal ranges of range(count)."""
  bounds = np.arange(number + 1) * count // max(number, 1)
  draw = np.random.default_rng(seed).random(number)
  return bounds[:-1] + (draw * np.diff(bounds)).astype(np.int64)


def _read_shards(shards: Shards, seed: int) -> Iterator[Example]:
  """Yields the examples of all shards, a block in turn of each of OPEN_SHARDS."""
  order = packing.shuffled(shards.num_shards, seed)
  waiting = (shards.blocks(order(place)) for place in range(shards.num_shards))
  opened = collections.deque(itertools.islice(waiting, OPEN_SHARDS))
  while opened:
    blocks = opened.popleft()
    if (block := next(blocks, None)) is not None:
      yield from block.examples
      opened.append(blocks)
    else:
      opened.extend(itertools.islice(waiting, 1))
