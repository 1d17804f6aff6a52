"""Reads the rows of large tables and of large line-aligned files as shards."""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from train.common import paths
from train.common.errors import UserError
from train.common.files import cache_dir
from train.data import chunks, reading
from train.data.bad_records import CollectedBadRecords
from train.data.source import Block, Example, PickledByFields, Shards, digest
from train.data.tables import PARSERS, Row, Table, mark_empty, number_rows, parse_rows

LINES = 512  # of each file in a shard of line-aligned files, and rows in a block of other tables


def open_rows(
  where: str,
  tables: Sequence[Table],
  fields: tuple[str, ...],
  drop_blank: bool,
  on_bad_record: str,
  part: tuple[int, int],
) -> Shards:
  """Opens the rows of large tables. `drop_blank` leaves out rows with a blank field.

  A part is one of the bytes of each file or, of line-aligned files, of their lines. Raises
  UserError for a part of files that can only be read from their beginning.
  """
  files = [path for table in tables for path in table.paths]
  key = [[table.kind, len(table.paths), *table.key(fields)] for table in tables]
  fingerprint = reading.sampled_digest(files, "rows", key, fields, drop_blank, on_bad_record, part)
  options = (fields, drop_blank)
  if all(table.kind in PARSERS for table in tables):
    chunks.check_part(where, files, *part)
    parse = functools.partial(_parse, {table.paths[0]: table for table in tables}, *options)
    rules = (chunks.RECORDS,) * len(files)
    return chunks.ChunkedFiles(tuple(files), rules, parse, fingerprint, on_bad_record, part)
  if all(table.kind == "aligned" for table in tables) and not any(map(chunks.is_compressed, files)):
    return AlignedFiles(tuple(tables), *options, fingerprint, on_bad_record, part)
  if part != (0, 100):
    raise UserError(
      f"{where}: CSV and compressed files are read from their beginning, so no part of large ones"
      " can be found: give other files for each split, or .tsv and .jsonl without compression"
    )
  return RowsInOrder(tuple(tables), *options, fingerprint, on_bad_record)


def _parse(tables: Mapping[pathlib.Path, Table], fields, drop_blank, path, chunk, bad):
  table = tables[path]
  if chunk.start:
    table = table._replace(header=False)
  lines = reading.split_lines(chunk.content, path, bad) if chunk.content else []
  return _to_examples(parse_rows(table, fields, lines, bad), fields, drop_blank)


def _to_examples(rows: Iterable[Row | None], fields, drop_blank) -> tuple[list[Example], int]:
  """Returns the examples of rows, and the number of those with a blank field."""
  examples, dropped = [], 0
  for row in mark_empty(rows, fields):
    if row is None:
      continue
    example = dict(zip(fields, row))
    if drop_blank and not all(map(str.strip, example.values())):
      dropped += 1
    else:
      examples.append(example)
  return examples, dropped


@dataclasses.dataclass(frozen=True)
class RowsInOrder(PickledByFields):
  """Rows of tables that can only be read from their beginning: a shard is a whole table."""

  tables: tuple[Table, ...]
  fields: tuple[str, ...]
  drop_blank: bool
  fingerprint: str
  on_bad_record: str

  @property
  def num_shards(self) -> int:
    return len(self.tables)

  @functools.cached_property
  def num_bytes(self) -> int:
    return sum(chunks.unpacked_size(path) for table in self.tables for path in table.paths)

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    bad = CollectedBadRecords(self.on_bad_record)
    rows = (row for _, row in number_rows(self.tables[shard], self.fields, bad))
    for number in itertools.count():
      part = list(itertools.islice(rows, LINES))
      messages, bad.messages = bad.messages, []
      if number >= first:
        examples, dropped = _to_examples(part, self.fields, self.drop_blank)
        yield Block(examples, messages, dropped)
      if len(part) < LINES:
        return


@dataclasses.dataclass(frozen=True)
class AlignedFiles(PickledByFields):
  """Rows of line-aligned files: a shard is a range of lines, which an index of the lines finds.

  The index is made at the first use, for which the lines are counted, and cached.
  """

  tables: tuple[Table, ...]
  fields: tuple[str, ...]
  drop_blank: bool
  fingerprint: str
  on_bad_record: str
  part: tuple[int, int]

  @functools.cached_property
  def _indices(self) -> list[np.ndarray]:
    """Returns the places of each table's every LINES-th line and end: [files, shards + 1]."""
    return [_index_lines(table.paths) for table in self.tables]

  @functools.cached_property
  def _first(self) -> list[int]:
    """Returns the number of each table's first shard, and the number of all shards."""
    start, stop = self.part
    counts = []
    for index in self._indices:
      count = index.shape[1] - 1
      counts.append(count * stop // 100 - count * start // 100)
    return [0, *itertools.accumulate(counts)]

  @property
  def num_shards(self) -> int:
    return self._first[-1]

  @property
  def num_examples(self) -> int:
    """Returns the number of lines; those of a part are counted as whole shards."""
    if self.part != (0, 100):
      return self.num_shards * LINES
    lines = 0
    for table, index in zip(self.tables, self._indices):
      shards = index.shape[1] - 1
      if shards:
        with reading.named_errors(table.paths[0]), reading.open_bytes(table.paths[0]) as file:
          file.seek(index[0, -2])
          rest = file.read(index[0, -1] - index[0, -2])
        lines += (shards - 1) * LINES + rest.count(b"\n") + (not rest.endswith(b"\n"))
    return lines

  @functools.cached_property
  def num_bytes(self) -> int:
    size = sum(paths.size(path) for table in self.tables for path in table.paths)
    return size * (self.part[1] - self.part[0]) // 100

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    if first:
      return
    number = bisect.bisect_right(self._first, shard) - 1
    index, files = self._indices[number], self.tables[number].paths
    place = shard - self._first[number] + (index.shape[1] - 1) * self.part[0] // 100
    messages, columns = [], []
    for path, places in zip(files, index):
      bad = chunks.ChunkBadRecords(self.on_bad_record, int(places[place]))
      with reading.named_errors(path), reading.open_bytes(path) as file:
        file.seek(places[place])
        content = file.read(places[place + 1] - places[place])
      columns.append(reading.split_lines(content, path, bad))
      messages += bad.messages
    rows = (None if None in row else row for row in zip(*columns, strict=True))
    examples, dropped = _to_examples(rows, self.fields, self.drop_blank)
    yield Block(examples, messages, dropped)


def _index_lines(files: Sequence[pathlib.Path]) -> np.ndarray:
  """Returns the places of every LINES-th line of line-aligned files, and their ends; raises
  UserError for files of different numbers of lines."""
  key = [digest(path.name, reading.sampled_digest([path])) for path in files]
  cached = cache_dir("lines") / f"{digest(LINES, *key)[:32]}.npy"
  with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged: written below
    return np.load(cached)
  logging.info("counting the lines of %s, once", ", ".join(map(str, files)))
  counted = [_count_lines(path) for path in files]
  if len({count for count, _ in counted}) > 1:
    counts = ", ".join(f"{path} has {count}" for path, (count, _) in zip(files, counted))
    raise UserError(f"line-aligned files must have as many lines as each other, but {counts}")
  index = np.stack([places for _, places in counted])
  temporary = cached.with_name(f"{uuid.uuid4().hex}.npy")
  np.save(temporary, index)
  os.replace(temporary, cached)
  return index


def _count_lines(path: pathlib.Path) -> tuple[int, np.ndarray]:
  """Returns the number of lines of a file, and the places of every LINES-th and of the end."""
  places, lines, start, last = [np.zeros(1, np.int64)], 0, 0, b"\n"
  with reading.named_errors(path), reading.open_bytes(path) as file:
    while content := file.read(chunks.LONGEST):
      ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n")) + start + 1
      places.append(ends[LINES - 1 - lines % LINES :: LINES])
      lines, start, last = lines + len(ends), start + len(content), content[-1:]
  lines += last != b"\n"
  index = np.concatenate(places)
  return lines, index if index[-1] == start else np.append(index, start)
