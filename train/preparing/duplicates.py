"""Finds exact duplicates of documents by their hashes, in files instead of a group-by in memory.

Each file of a corpus has a file of its documents' sorted hashes. A range of hashes of all of them
is sorted at a time: of equal ones all but the first in the corpus are duplicates.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator

import numpy as np

from train.common import paths
from train.data.source import Example, PickledByFields, Shards
from train.preparing.parts import new_file, shard_range

RANGE = 2_000_000  # hashes that are sorted at a time, which takes 200 MB
HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("document", "<u4")])  # number in its file
PLACE = np.dtype([("file", "<u4"), ("document", "<u4")])


@dataclasses.dataclass(frozen=True)
class Hashes(PickledByFields):
  """The hashes of a split's documents."""

  folder: str
  split: str
  shards: Shards
  count: int  # files

  def path(self, number: int) -> paths.Path:
    """Returns the path of the hashes of a file's documents."""
    return self._folder / f"hashes-{number:05d}.npy"

  def found_path(self, number: int) -> paths.Path:
    """Returns the path of the duplicates in a range of hashes."""
    return self._folder / f"duplicates-{number:05d}.npy"

  @property
  def _folder(self) -> paths.Path:
    return paths.of(self.folder) / f"{self.split}.duplicates"

  def write(self, number: int) -> None:
    """Writes the hashes of a file's documents."""
    parts = []
    for shard in shard_range(self.shards.num_shards, self.count, number):
      for block in self.shards.blocks(shard):
        digests = b"".join(map(hash_document, block.examples))
        parts.append(np.frombuffer(digests, "<u8").reshape(-1, 2))
    pairs = np.concatenate([np.zeros((0, 2), "<u8"), *parts])
    hashes = np.empty(len(pairs), HASH)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: equal ones stay in the corpus' order
    hashes["high"], hashes["low"], hashes["document"] = pairs[order, 0], pairs[order, 1], order
    self._save(self.path(number), hashes)

  def count_ranges(self) -> int:
    """Returns the number of ranges of hashes, of which each has about RANGE."""
    total = sum(len(self._load(self.path(number))) for number in range(self.count))
    return max(-(-total // RANGE), 1)

  def finder(self, ranges: int) -> Callable[[int], None]:
    """Returns the function that writes the duplicates in one of so many ranges of hashes."""
    return functools.partial(self._find, ranges)

  def _find(self, ranges: int, number: int) -> None:
    low, high = ((number + i << 64) // ranges for i in (0, 1))
    parts = []
    for file in range(self.count):
      hashes = self._load(self.path(file))
      start = np.searchsorted(hashes["high"], np.uint64(low))
      stop = len(hashes) if high >> 64 else np.searchsorted(hashes["high"], np.uint64(high))
      parts.append(np.asarray(hashes[start:stop]))
    files = np.repeat(np.arange(self.count), list(map(len, parts)))
    hashes = np.concatenate(parts)
    order = np.lexsort((hashes["low"], hashes["high"]))
    same = np.ones(max(len(order) - 1, 0), bool)
    for half in ("high", "low"):
      ordered = hashes[half][order]
      same &= ordered[1:] == ordered[:-1]
    later = order[1:][same]
    later.sort()  # by file
    places = np.empty(len(later), PLACE)
    places["file"], places["document"] = files[later], hashes["document"][later]
    self._save(self.found_path(number), places)

  def duplicates_of(self, number: int) -> np.ndarray:
    """Returns the numbers of a file's documents that are duplicates, ascending."""
    parts = []
    for path in self._list_found():
      places = self._load(path)
      start, stop = np.searchsorted(places["file"], (number, number + 1))
      parts.append(places["document"][start:stop])
    return np.sort(np.concatenate(parts)).astype(np.int64)

  def _list_found(self) -> Iterator[paths.Path]:
    return (self.found_path(number) for number in range(self.count_ranges()))

  def _save(self, path: paths.Path, array: np.ndarray) -> None:
    with new_file(path) as partial, open(partial, "wb") as file:
      np.save(file, array)

  def _load(self, path: paths.Path) -> np.ndarray:
    if not paths.is_bucket(path):
      return np.load(path, mmap_mode="r")
    with path.open("rb") as file:
      return np.load(file)


def hash_document(example: Example) -> bytes:
  """Returns 128 bits of a document, in which equal ones are duplicates."""
  text = example["text"] if [*example] == ["text"] else json.dumps(example, sort_keys=True)
  return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
