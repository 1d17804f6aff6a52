"""Adds arrays with a row for each token to items, such as a teacher's logits, from a folder.

The folder has a file NAME.bin for each array, the rows of all items in their order; starts.npy, the
first row of each item and the number of all rows; and facts.json, what the rows are of, with the
number of items whose rows are written (`done`).
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from train.common import json_files
from train.common.errors import UserError
from train.common.files import write_atomically
from train.data import items
from train.data.mixed_items import MixedItems
from train.data.source import PickledByFields

FACTS, STARTS, LOCK = "facts.json", "starts.npy", ".lock"
Columns = Mapping[str, tuple[int, str]]  # array -> the numbers in a row, and their type


def create(folder: pathlib.Path, lengths: np.ndarray, columns: Columns, facts: Mapping) -> None:
  """Makes the files for items of these lengths [items], none of them written yet. Their space is
  taken at once: a page that a full disk lacks later would end the process without a message."""
  starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
  np.save(folder / STARTS, starts)
  for name, size in _sizes(starts, columns).items():
    with open(folder / name, "wb") as file:
      if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(file.fileno(), 0, size)
      file.truncate(size)
  note(folder, facts, 0)


def note(folder: pathlib.Path, facts: Mapping, done: int) -> None:
  """Records what the rows are of, and that the first `done` items are written."""
  write_atomically(folder / FACTS, json.dumps({**facts, "done": done}, indent=2) + "\n")


def read_facts(folder: pathlib.Path, columns: Columns) -> dict:
  """Returns what `note` has recorded, {} where there is nothing yet.

  Raises UserError for a folder with other files, or with arrays of another size.
  """
  own = {STARTS, LOCK, *(f"{name}.bin" for name in columns)}
  there = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
  if FACTS not in there:
    if others := [name for name in there if name not in own and not name.endswith(".tmp")]:
      raise UserError(f"{folder} holds other files ({min(others)}): name a new folder")
    return {}
  facts = json_files.read(there[FACTS])
  if facts.get("columns") != {name: list(kind) for name, kind in columns.items()}:
    return facts
  for name, size in _sizes(np.load(folder / STARTS), columns).items():
    found = there[name].stat().st_size if name in there else 0
    if found != size:
      raise UserError(
        f"{folder}/{name} has {found:,} of {size:,} bytes: restore the file, or remove the folder"
      )
  return facts


def _sizes(starts: np.ndarray, columns: Columns) -> dict[str, int]:
  """Returns the bytes of each file of an array."""
  rows = int(starts[-1])
  return {
    f"{name}.bin": rows * count * np.dtype(kind).itemsize for name, (count, kind) in columns.items()
  }


def open_arrays(folder: pathlib.Path, columns: Columns, mode: str = "r") -> dict[str, np.memmap]:
  """Returns the arrays [rows, columns], which stay on the disk; mode "r+" writes there."""
  rows = int(np.load(folder / STARTS)[-1])
  return {
    name: np.memmap(folder / f"{name}.bin", dtype, mode, shape=(rows, count))
    for name, (count, dtype) in columns.items()
  }


def with_arrays(given: items.Items, folder: str, columns: Columns) -> items.Items:
  """Returns the items with the rows of a folder; a mixture stays one, of parts with such rows."""
  if not isinstance(given, MixedItems):
    return WithTokenArrays(given, folder, columns)
  parts, first = {}, 0
  for name, part in given.parts.items():
    parts[name] = WithTokenArrays(part, folder, columns, first)
    first += len(part.lengths())
  return dataclasses.replace(given, parts=parts)


@dataclasses.dataclass(frozen=True)
class WithTokenArrays(PickledByFields):
  """Items that have, beside their own arrays, those of a folder under the same names."""

  of: items.Items
  folder: str
  columns: Columns
  first: int = 0  # the number in the folder of the first of these items

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
    return [{**item, **self._rows(self.first + index)} for item, index in zip(own, indices)]

  def _rows(self, index: int) -> dict[str, np.ndarray]:
    starts, arrays = self._opened
    return {name: array[starts[index] : starts[index + 1]] for name, array in arrays.items()}

  @functools.cached_property
  def _opened(self):
    folder = pathlib.Path(self.folder)
    return np.load(folder / STARTS), open_arrays(folder, self.columns)
