"""Reads records of ArrayRecord files in buckets by ranges of bytes; array_record reads disks alone.

The files are Riegeli's (github.com/google/riegeli, doc/riegeli_records_file_format.md), written
with `group_size:1,uncompressed`: a chunk holds one record, after a header and a few bytes of sizes.
A header of a block, of no use here, interrupts whatever stands at each multiple of 64 KiB.
"""

import os
from collections.abc import Sequence

import numpy as np

from train.common import paths

BLOCK, BLOCK_HEADER = 1 << 16, 24  # bytes
CHUNK = np.dtype(
  [("hash", "<u8"), ("bytes", "<u8"), ("data_hash", "<u8"), ("kind", "<u8"), ("decoded", "<u8")]
)
RECORD = ord("r") | 1 << 8  # the kind of a chunk with one record; a footer's chunk has several


def find_records(path: str | os.PathLike) -> list[int]:
  """Returns where the chunk of each record of a file on a disk begins, and where the last one ends,
  up to the first chunk of another kind behind them. Raises ValueError for a file that is cut."""
  places, start, size = [], 0, os.path.getsize(path)
  with open(path, "rb") as file:
    while start < size:
      file.seek(start)
      header = _header(_strip(file.read(CHUNK.itemsize + BLOCK_HEADER), start))
      if header["kind"] == RECORD:
        places.append(start)
      elif places:
        break
      start = _skip(start, CHUNK.itemsize + int(header["bytes"]))
  return [*places, start]


class RangeReader:
  """Reads records of a file in a bucket as array_record's reader does those of a file on a disk.

  `places` is what `find_records` returned when the file was written. Each record is one request.
  """

  def __init__(self, path: paths.Path, places: Sequence[int]):
    self._path, self._places = path, places

  def read(self, records: Sequence[int]) -> list[bytes]:
    """Returns the bytes of records; raises ValueError for one that is not whole."""
    return [self._read(record) for record in records]

  def _read(self, record: int) -> bytes:
    start, stop = self._places[record : record + 2]
    content = _strip(paths.read_range(self._path, start, stop), start)
    header = _header(content)
    data = content[CHUNK.itemsize :]
    if header["kind"] != RECORD or len(data) != header["bytes"] or data[0]:
      raise ValueError(f"bytes {start:,} to {stop:,} are not one uncompressed record")
    return data[len(data) - int(header["decoded"]) :]


def _header(content: bytes) -> np.void:
  if len(content) < CHUNK.itemsize:
    raise ValueError("the file is cut")
  return np.frombuffer(content, CHUNK, 1)[0]


def _strip(content: bytes, start: int) -> bytes:
  """Returns the bytes of a file from `start` on without the headers of blocks."""
  first = -start % BLOCK  # the next block
  parts = [content[:first]]
  for place in range(first, len(content), BLOCK):
    parts.append(content[place + BLOCK_HEADER : place + BLOCK])
  return b"".join(parts)


def _skip(start: int, count: int) -> int:
  """Returns the place in a file that is `count` bytes after `start`, headers of blocks aside."""
  usable = BLOCK - BLOCK_HEADER
  inside = max(start % BLOCK - BLOCK_HEADER, 0)  # bytes of this block before start
  blocks, rest = divmod(inside + count, usable)
  place = start // BLOCK * BLOCK + blocks * BLOCK
  return place + (BLOCK_HEADER + rest if rest else 0)
