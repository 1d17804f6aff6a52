"""What all sources of examples share: the protocol, reading many at once, lengths on disk."""

import dataclasses
import hashlib
import os
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.common.files import cache_dir

CHUNK = 1024  # examples read at a time
Example = dict[str, str]


class Source(Protocol):
  """Examples by index. Pickles small: a worker process opens the data itself, when it first reads.

  `fingerprint` is the hex digest of what the source holds. `_getitems` is what Grain calls to read
  many at once: about 8 times faster a record than one by one where the data lie on disk.
  """

  fingerprint: str

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...

  def _getitems(self, indices: Sequence[int]) -> list[Example]: ...


def digest(*parts: object) -> str:
  """Hex digest of the parts' texts."""
  return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def read_many(source: Source, numbers: Sequence[int]) -> list[Example]:
  """Examples by number, at once where the source can, which is faster from a disk."""
  together = getattr(source, "_getitems", None)
  return together(numbers) if together and len(numbers) else [source[i] for i in numbers]


def measured(source: Source, key: str, measure: Callable, columns: int) -> np.ndarray:
  """`measure(examples)`, a row of whole numbers each, for all of a source: int32 [n, columns].

  Kept on disk under the source's fingerprint (not without one) and `key`, which says everything
  else that decides the numbers.
  """
  if not source.fingerprint:
    return np.asarray(measure(source), np.int32).reshape(len(source), columns)
  if not len(source):
    raise UserError("the data has no example: check the split and the files it names")
  path = cache_dir("lengths") / f"{digest(source.fingerprint, key)[:32]}.npy"
  try:
    found = np.load(path)
    if found.shape == (len(source), columns):
      return found
  except (OSError, ValueError, EOFError):
    pass  # not there, or not whole: measured anew
  found = np.zeros((len(source), columns), np.int32)
  for start in range(0, len(found), CHUNK):
    numbers = range(start, min(start + CHUNK, len(found)))
    found[start : start + CHUNK] = measure(read_many(source, numbers))
    told = numbers.stop, len(found)
    logging.log_every_n_seconds(logging.INFO, "encoded %d of %d examples", 10, *told)
  save_array(path, found)
  return found


def save_array(path, array: np.ndarray) -> None:
  """Writes an .npy file whole or not at all."""
  temporary = path.with_name(f"{uuid.uuid4().hex}.npy")
  np.save(temporary, array)
  os.replace(temporary, path)


def reduced(self):
  """`__reduce__` of a dataclass: its fields, without what it remembers besides."""
  return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))
