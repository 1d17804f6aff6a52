"""Reads tables that are stored by columns (Parquet, Arrow): row group by row group, or if they are
small by index."""

import bisect
import collections
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from train.common.errors import UserError, as_user_error
from train.data import reading
from train.data.bad_records import BadRecords, CollectedBadRecords, log_once, nth_kept
from train.data.chunks import CHUNK_BYTES
from train.data.columns import WORDS, Cells, Column, find_columns
from train.data.reading import sampled_digest
from train.data.source import LARGE, Block, Example, PickledByFields, digest, is_large

BLOCK_ROWS = 512  # rows of a block, at most
# A large group is several shards, so that all streams of a run read different rows. A shard is
# found by decoding its group from the beginning, at 1 GB/s, so there are only so many.
SHARD_BYTES, MOST_PARTS = 4 << 20, 64


class Format(Protocol):
  """A file that is open; its path is the argument."""

  schema: object  # a pyarrow schema
  group: str  # what the format calls a group of rows

  def groups(self, columns: Sequence[Column]) -> list[tuple[int, int]]:
    """Returns the rows of each group, and the bytes of these columns in it."""

  def batches(self, group: int, columns: Sequence[Column], most: int) -> Iterator:
    """Yields the record batches of a group, each of at most `most` rows."""


class Group(NamedTuple):
  """A group of rows in a file, and those of its rows that are read."""

  file: int  # number of its path
  number: int  # in the file
  rows: int
  num_bytes: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class RowGroups(PickledByFields):
  """The rows of files as examples; a shard is a group of rows (Shards)."""

  format: type[Format]
  paths: tuple[pathlib.Path, ...]
  groups: tuple[Group, ...]
  columns: Mapping[str, str]  # field -> column
  drop_blank: bool
  on_bad_record: str
  fingerprint: str = ""

  @property
  def num_bytes(self) -> int:
    sizes = (x.num_bytes * (x.stop - x.start) // x.rows for x in self.groups)
    return sum(sizes)

  @property
  def num_shards(self) -> int:
    return len(self.groups)

  @property
  def num_examples(self) -> int:
    return sum(x.stop - x.start for x in self.groups)

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    group, bad = self.groups[shard], CollectedBadRecords(self.on_bad_record)
    most = min(CHUNK_BYTES * group.rows // max(group.num_bytes, 1), BLOCK_ROWS)
    for number, (start, cells) in enumerate(self.read(group, max(most, 1))):
      if number < first:
        continue
      examples, dropped, bad.messages = [], 0, []
      for row in range(cells.num_rows):
        try:
          example = cells.example(row)
          if self.drop_blank and is_blank(example):
            dropped += 1
          else:
            examples.append(example)
        except ValueError as error:
          bad(*self.place(group, start + row), error)  # raises UserError, or the record is skipped
      yield Block(examples, bad.messages, dropped)

  def read(self, group: Group, most: int | None = None) -> Iterator[tuple[int, Cells]]:
    """Yields the rows to read of a group, with the number of the first, at most `most` at once."""
    path, start = self.paths[group.file], 0
    with read_errors(path):
      file = self.format(path)
      found = find_columns(str(path), file.schema, self.columns)
      for batch in file.batches(group.number, found, most or group.rows):
        skip, stop = max(group.start - start, 0), min(group.stop - start, batch.num_rows)
        if skip < stop:
          yield start + skip, Cells(batch.slice(skip, stop - skip), found)
        start += batch.num_rows

  def place(self, group: Group, row: int) -> tuple[pathlib.Path, str]:
    """Returns the file of a row, and its place there."""
    return self.paths[group.file], f"{self.format.group} {group.number}, row {row} (from 0)"


@dataclasses.dataclass(frozen=True)
class Rows(PickledByFields):
  """The examples of small files by index. Groups of rows that were read are kept, undecoded, up to
  source.LARGE bytes."""

  of: RowGroups
  left_out: tuple[int, ...]  # numbers of the rows that are no examples, ascending
  fingerprint: str

  @functools.cached_property
  def _first(self) -> list[int]:
    """Returns the number of each group's first row, and the number of all rows."""
    return [0, *itertools.accumulate(group.stop - group.start for group in self.of.groups)]

  @functools.cached_property
  def _kept(self) -> collections.OrderedDict:
    return collections.OrderedDict()

  def __len__(self) -> int:
    return self._first[-1] - len(self.left_out)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{index} of {len(self)} examples")
    return self._getitems([index])[0]

  def _getitems(self, indices: Sequence[int]) -> list[Example]:
    numbers = [nth_kept(self.left_out, index) for index in indices]
    # in ascending order, so that a group is read once
    examples = {number: self._read(number) for number in sorted(set(numbers))}
    return [examples[number] for number in numbers]

  def _read(self, number: int) -> Example:
    place = bisect.bisect(self._first, number) - 1
    group = self.of.groups[place]
    row = group.start + number - self._first[place]
    for start, cells in self._load(place):
      if start <= row < start + cells.num_rows:
        try:
          return cells.example(row - start)
        except ValueError as error:  # since it was opened
          BadRecords("error")(*self.of.place(group, row), error)  # raises UserError
    raise UserError(f"{self.of.paths[group.file]} has changed since it was opened; start again")

  def _load(self, place: int) -> list[tuple[int, Cells]]:
    """Returns the rows of a group, and lets go of those that were not used for longest."""
    kept = self._kept
    kept[place] = kept.pop(place, None) or list(self.of.read(self.of.groups[place]))
    while len(kept) > 1 and sum(x.num_bytes for read in kept.values() for _, x in read) > LARGE:
      kept.popitem(last=False)
    return kept[place]


def open_groups(
  split: str,
  paths: Sequence[pathlib.Path],
  part: tuple[int, int],
  format: type[Format],
  columns: Sequence[str] | Mapping[str, str],
  on_bad_record: str,
  stream: bool | None,
) -> RowGroups | Rows:
  """Opens the rows of files between two percentages.

  Rows with a blank field are dropped from "train" and from parts, as files.py drops them. Small
  data are read once for that, and bad records are reported.
  """
  where = f"data.splits.{split}"
  given, names = columns, () if isinstance(columns, str) else columns or ()
  columns = dict(names if isinstance(names, Mapping) else zip(names, names))
  if not columns or not all(isinstance(name, str) for name in columns.values()):
    raise UserError(
      f"data.columns is {given!r}: name the columns to read, as ('text',) or dict(text='content')"
    )
  groups = _cut(_list_groups(paths, format, columns), *part)
  if not groups:
    rows = f"the part [{part[0]}%:{part[1]}%] has" if part != (0, 100) else "the files have"
    raise UserError(f"{where}: {rows} no row: {', '.join(map(str, paths))[:500]}")
  drop_blank = split == "train" or part != (0, 100)
  shards = RowGroups(format, tuple(paths), groups, columns, drop_blank, on_bad_record)
  key = (format.__name__, *columns.items(), *part, drop_blank, on_bad_record)
  if is_large(shards.num_bytes, stream):
    fingerprint = sampled_digest(paths, *key)
    return dataclasses.replace(shards, groups=_divide(groups), fingerprint=fingerprint)
  left_out = _find_left_out(where, shards)
  return Rows(shards, left_out, digest(*key, *map(reading.file_digest, paths)))


def _list_groups(paths, format, columns) -> list[Group]:
  groups = []
  for number, path in enumerate(paths):
    with read_errors(path):
      file = format(path)
      sizes = file.groups(find_columns(str(path), file.schema, columns))
    groups += [Group(number, i, *size, 0, size[0]) for i, size in enumerate(sizes) if size[0]]
  return groups


def _cut(groups: list[Group], start: int, stop: int) -> tuple[Group, ...]:
  """Returns the groups with the rows between two percentages of all rows."""
  total, first, cut = sum(group.rows for group in groups), 0, []
  for group in groups:
    begin = max(total * start // 100 - first, 0)
    end = min(total * stop // 100 - first, group.rows)
    if begin < end:
      cut.append(group._replace(start=begin, stop=end))
    first += group.rows
  return tuple(cut)


def _find_left_out(where: str, shards: RowGroups) -> tuple[int, ...]:
  """Returns the numbers of the bad and, if they are dropped, the blank rows; reports both."""
  bad, left_out, first, blank = BadRecords(shards.on_bad_record), [], 0, 0
  for file, groups in itertools.groupby(shards.groups, lambda group: group.file):
    begin, unreadable = first, 0
    for group in groups:
      for start, cells in shards.read(group):
        for row in range(cells.num_rows):
          try:
            drop = shards.drop_blank and is_blank(cells.example(row))
            blank += drop
          except ValueError as error:
            bad(*shards.place(group, start + row), error)
            drop, unreadable = True, unreadable + 1
          if drop:
            left_out.append(first + start - group.start + row)
      first += group.stop - group.start
    bad.end_file(str(shards.paths[file]), unreadable, first - begin)
  bad.check_limit(where)
  if blank:
    log_once(f"{where}: {blank} examples with a blank field were dropped")
  if len(left_out) == first:
    raise UserError(f"{where}: all {first} examples have a blank field")
  return tuple(left_out)


def is_blank(example: Example) -> bool:
  """Returns whether a text of an example is blank, or its list of words is empty."""
  return any(
    not value.strip() if isinstance(value, str) else field in WORDS and not value
    for field, value in example.items()
  )


def _divide(groups: Sequence[Group]) -> tuple[Group, ...]:
  """Returns the groups in parts of about SHARD_BYTES, at most MOST_PARTS of each."""
  parts = []
  for group in groups:
    count = min(-(-group.num_bytes // SHARD_BYTES), MOST_PARTS)
    for number in range(max(count, 1)):
      begin, end = (group.rows * n // max(count, 1) for n in (number, number + 1))
      if (start := max(group.start, begin)) < (stop := min(group.stop, end)):
        parts.append(group._replace(start=start, stop=stop))
  return tuple(parts)


def read_errors(path: pathlib.Path):
  """Returns the context in which errors of pyarrow name the file."""
  import pyarrow as pa

  kinds = (pa.ArrowException, OSError, EOFError, ValueError, LookupError)
  return as_user_error(f"{path} cannot be read, fetch or write it again", *kinds)
