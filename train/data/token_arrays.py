"""Adds arrays with a row for each token to items, such as a teacher's logits, from a folder.

The folder has a file NAME.bin for each array, the rows of all items in their order; starts.npy, the
first row of each item and the number of all rows; and facts.json, what the rows are of, with the
number of items whose rows are written (`done`).
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from train.common import json_files
from train.common.files import write_atomically
from train.data import items
from train.data.source import PickledByFields

FACTS, STARTS = "facts.json", "starts.npy"
Columns = Mapping[str, tuple[int, str]]  # array -> the numbers in a row, and their type


def create(folder: pathlib.Path, lengths: np.ndarray, columns: Columns, facts: Mapping) -> None:
  """Makes the files for items of these lengths [items], none of them written yet."""
  folder.mkdir(parents=True, exist_ok=True)
  np.save(folder / STARTS, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
  open_arrays(folder, columns, "w+")
  note(folder, facts, 0)


def note(folder: pathlib.Path, facts: Mapping, done: int) -> None:
  """Records what the rows are of, and that the first `done` items are written."""
  write_atomically(folder / FACTS, json.dumps({**facts, "done": done}, indent=2) + "\n")


def read_facts(folder: pathlib.Path) -> dict:
  """Returns what `note` has recorded, {} where there is nothing."""
  return json_files.read(folder / FACTS) if (folder / FACTS).is_file() else {}


def open_arrays(folder: pathlib.Path, columns: Columns, mode: str = "r") -> dict[str, np.memmap]:
  """Returns the arrays [rows, columns], which stay on the disk; mode "r+" writes there."""
  rows = int(np.load(folder / STARTS)[-1])
  return {
    name: np.memmap(folder / f"{name}.bin", dtype, mode, shape=(rows, count))
    for name, (count, dtype) in columns.items()
  }


@dataclasses.dataclass(frozen=True)
class WithTokenArrays(PickledByFields):
  """Items that have, beside their own arrays, those of a folder under the same names."""

  of: items.Items
  folder: str
  columns: Columns

  shards = None

  @property
  def fingerprint(self) -> str:
    return self.of.fingerprint

  @property
  def start(self) -> int:
    return self.of.start

  @property
  def extras(self) -> Mapping[str, str]:
    added = {name: f"({count},){dtype}" for name, (count, dtype) in self.columns.items()}
    return {**self.of.extras, **added}

  def lengths(self) -> np.ndarray:
    return self.of.lengths()

  def order(self, seed: int) -> Callable[[int], int]:
    """Returns the function from a position in the stream to an index, that of the items alone."""
    return items.order(self.of, len(self.lengths()), seed)

  def read(self, indices: Sequence[int], positions: Sequence[int]) -> list[items.Item]:
    own = self.of.read(indices, positions)
    return [{**item, **self._rows(index)} for item, index in zip(own, indices)]

  def _rows(self, index: int) -> dict[str, np.ndarray]:
    starts, arrays = self._opened
    return {name: array[starts[index] : starts[index + 1]] for name, array in arrays.items()}

  @functools.cached_property
  def _opened(self):
    folder = pathlib.Path(self.folder)
    return np.load(folder / STARTS), open_arrays(folder, self.columns)
