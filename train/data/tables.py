"""Reads the rows of tables (CSV, TSV, JSON lines) and of line-aligned files.

Columns are picked by name or number. A reader yields None in place of a bad record, which it
reports to `bad` (bad_records.BadRecords).
"""

import contextlib
import csv
import functools
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from absl import logging

from train.common.errors import UserError, did_you_mean
from train.data.bad_records import MAX_RECORD_BYTES, BadRecords, log_once
from train.data.headers import match_header, names_fields
from train.data.reading import encode_utf8, file_type, read_lines

Row = Sequence[str]
ENDINGS = (".tsv", ".csv", ".jsonl")
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}  # of CSV, the commonest first
LIST = "labels"  # the field whose cell may hold several labels, or none
LISTS = (LIST, "choices")  # those that .jsonl may give as lists
NAME_COLUMNS = (
  "correct it, or pick columns by name or number: columns=A+B of a config, --columns A+B"
)
Rows = Iterator[tuple[int, Row | None]]  # each with the line where it begins


csv.field_size_limit(MAX_RECORD_BYTES)  # characters; a quote that is not closed takes in the rest


class Table(NamedTuple):
  """The files of a table and the places of its columns in a row."""

  kind: str  # a key of READERS
  paths: tuple[pathlib.Path, ...]  # several for line-aligned files
  picks: tuple = ()  # the place, or in JSON lines the key, of each column
  width: int = 0  # cells of a row
  header: bool = False  # the first row names the columns

  def key(self, fields: Sequence[str]) -> list:
    """Returns what determines the rows beside kind and bytes of the files, none in plain tables."""
    plain = self.kind == "aligned" or self.picks in (tuple(fields), tuple(range(self.width)))
    return [] if plain and not self.header else [self.picks, self.width, self.header]


def read_rows(table: Table, fields: Sequence[str], bad: BadRecords) -> Iterator[Row | None]:
  """Yields the rows of a table, each with a cell for each of `fields`, and None for a bad one."""
  return (row for _, row in number_rows(table, fields, bad))


def number_rows(table: Table, fields: Sequence[str], bad: BadRecords) -> Rows:
  """Yields the rows as `read_rows` does, each after its line."""
  return READERS[table.kind](table, fields, bad)


def parse_rows(
  table: Table, fields: Sequence[str], lines: Iterable[str | None], bad: BadRecords
) -> Iterator[Row | None]:
  """Yields the rows of some lines of a table of PARSERS as `read_rows` does."""
  return (row for _, row in PARSERS[table.kind](table, fields, lines, bad))


def mark_empty(rows: Iterator[Row | None], fields: Sequence[str]) -> Iterator[Row | None]:
  """Replaces a blank cell of LIST by an empty list, as training drops rows with a blank field."""
  place = fields.index(LIST) if LIST in fields else None
  for row in rows:
    whole = place is None or row is None or row[place].strip()
    yield row if whole else [*row[:place], "[]", *row[place + 1 :]]


def find_table(path: pathlib.Path, columns: Sequence[str] | Mapping, header: bool | None) -> Table:
  """Returns the table in a file, with the places of its columns.

  `columns` are fields in the order of the columns, or map each field to a column's name or number
  (from 1). `header` decides whether the first row names the columns; None recognises one by the
  columns' names and ALIASES. Raises UserError for a column that the file does not name.
  """
  kind, named = file_type(path), isinstance(columns, Mapping)
  names = tuple(columns.values()) if named else tuple(columns)
  if kind == ".jsonl":
    return Table(kind, (path,), names)
  cells = _first_row(path, kind, len(names))
  places = None if header is False else match_header(cells, names)
  if places is None and header and not named and len(cells) == len(names):
    places = tuple(range(len(names)))
  if places is not None:
    fields = tuple(columns)
    taken = ", ".join(f"{x} = {cells[place].strip()!r}" for x, place in zip(fields, places))
    log_once(f"{path}: the first line names the columns and is no example; read: {taken}", "info")
    return Table(kind, (path,), places, len(cells), True)
  if named and all(str(name).isdecimal() for name in names):
    places = tuple(int(name) - 1 for name in names)
    if not all(0 <= place < len(cells) for place in places):
      picked = ", ".join(f"{field}={name}" for field, name in columns.items())
      raise UserError(f"{path}, line 1: {len(cells)} columns, and these are to be read: {picked}")
    if header is None and (header := names_fields([cells[place] for place in places], columns)):
      log_once(f"{path}: the first line names the columns and is no example: {cells}", "info")
    elif header is None:
      note = "the first line is an example; header=True (yes) if it names the columns"
      log_once(f"{path}: {note}", "info")
    return Table(kind, (path,), places, len(cells), bool(header))
  if named and header is False:
    raise UserError(
      f"{path}: header=False, so columns {', '.join(map(str, names))} have no names:"
      " give their numbers, from 1"
    )
  if named or header:
    missing = next(name for name in names if match_header(cells, (name,)) is None)
    there = [cell.strip() for cell in cells]
    raise UserError(
      f"{path}, line 1: no column {missing!r}{did_you_mean(missing, there)}; the first line has"
      f" {', '.join(map(repr, there))[:500]}. Without names, give numbers from 1 (columns=2+1,"
      " --columns 2+1 or data.columns)"
    )
  return Table(kind, (path,), tuple(range(len(names))), len(names))


def _first_row(path, kind, columns: int) -> list[str]:
  """Returns the cells of the first row, none if it cannot be read."""
  skip = BadRecords("skip")
  if kind == ".tsv":
    rows = _split_tabs(read_lines(path, skip))
  else:
    rows = _csv_rows(path, _delimiter(path, columns), skip, read_lines(path, skip))
  return next((row or [] for _, row in rows if row is None or not _is_blank(row)), [])


def _delimiter(path, columns: int) -> str:
  """Returns the first of DELIMITERS that parts the first line of a CSV file into enough columns."""
  first = next((line for line in read_lines(path, BadRecords("skip")) if line), "")
  for delimiter in DELIMITERS:
    with contextlib.suppress(csv.Error):  # the reader of all rows reports it
      if len(next(csv.reader([first], delimiter=delimiter), [])) >= max(columns, 2):
        return delimiter
  return ","


def _csv_rows(path, delimiter, bad, lines) -> Rows:
  """Yields the rows of a CSV file with the line where each begins; that of a blank line is []."""
  lines = _BadAsBlank(lines)
  reader = csv.reader(lines, delimiter=delimiter, strict=True)
  while True:
    start, row = reader.line_num + 1, None
    try:
      row = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      open_quote = "a quote is not closed" if "end of data" in str(error) else error
      bad(path, f"line {start}", f"not CSV ({open_quote}); correct it")
    if lines.take_bad():
      row = None
    if row and any(cell.startswith(' "') and cell.endswith('"') for cell in row):
      row = bad(path, f"line {start}", 'a blank stands before "; remove it')
    yield start, row


class _BadAsBlank:
  """Lines with their ends for the csv module; a bad line is blank and is remembered."""

  def __init__(self, lines):
    self._lines, self._bad = lines, False

  def __iter__(self):
    return self

  def __next__(self):
    line = next(self._lines)
    self._bad |= line is None
    return f"{line or ''}\n"

  def take_bad(self) -> bool:
    """Returns whether a line was bad since the last call."""
    bad, self._bad = self._bad, False
    return bad


def _split_tabs(lines) -> Rows:
  for number, line in enumerate(lines, 1):
    yield number, None if line is None else line.split("\t")


def _read_cells(rows: Rows, separator: str, table: Table, fields: Sequence[str], bad) -> Rows:
  """Yields the picked cells of rows; a blank line of a table with several columns is no row."""
  (path,), header = table.paths, table.header
  blank_lines, pending = 0, 0  # the last ones of a file are not counted
  for number, row in rows:
    if row == [] or (table.width > 1 and row is not None and _is_blank(row)):
      pending += 1
      continue
    if header:
      header = False
      continue
    blank_lines, pending = blank_lines + pending, 0
    if row is not None and len(row) != table.width:
      names = ", ".join(fields)
      whose = "of the first line" if table.header else f"({names}) of `columns`"
      cells = f"{len(row)} {separator}-separated columns"
      cure = "correct it" if table.header or number > 1 else NAME_COLUMNS
      if len(row) == 1 and "|" in row[0]:
        cure = "part the columns by commas, semicolons or tabs instead of |"
      row = bad(path, f"line {number}", f"{cells}, not the {table.width} {whose}; {cure}")
    yield number, None if row is None else [row[place] for place in table.picks]
  if blank_lines:
    logging.warning("%s: %d blank lines are no examples", path, blank_lines)


def _is_blank(row) -> bool:
  return len(row) < 2 and not "".join(row).strip()


def _parse_tsv(table: Table, fields, lines, bad):
  return _read_cells(_split_tabs(lines), "tab", table, fields, bad)


def _read_csv(table: Table, fields, bad):
  (path,) = table.paths
  delimiter = _delimiter(path, len(fields))
  rows = _csv_rows(path, delimiter, bad, read_lines(path, bad))
  return _read_cells(rows, DELIMITERS[delimiter], table, fields, bad)


def _parse_jsonl(table: Table, fields, lines, bad):
  (path,) = table.paths
  for number, text in enumerate(lines, 1):
    if text is not None and not text.strip():
      continue
    place, row = f"line {number}", None
    try:
      row = None if text is None else _parse_json_row(text, table.picks, fields)
    except json.JSONDecodeError as error:
      bad(path, f"{place}, column {error.colno}", f"not JSON ({error.msg}); correct it")
    except (ValueError, RecursionError) as error:
      bad(path, place, f"{error}; correct it")
    yield number, row


class _Number(str):
  """A number of a JSON document as it is written there."""

  __slots__ = ()


def _parse_int(text: str) -> _Number:
  int(text)  # raises ValueError for more digits than Python reads
  return _Number(text)


def _parse_json_row(text: str, keys: Sequence[str], fields: Sequence[str]) -> Row:
  """Returns the texts under `keys` of a JSON object, where a number, a boolean and, in the fields
  LISTS, a list of texts is its JSON text; raises ValueError for a missing key and other values."""
  record = json.loads(text, parse_int=_parse_int, parse_float=_Number)
  if not isinstance(record, dict):
    raise ValueError(f"a JSON object is needed, not {type(record).__name__}")
  for key, field in zip(keys, fields, strict=True):
    if key not in record:
      raise ValueError(f"no key {key!r}{did_you_mean(key, record)}")
    if field in LISTS and isinstance(record[key], list):
      if not all(isinstance(label, str) for label in record[key]):
        raise ValueError(f"{key!r} must be a list of texts")
      record[key] = json.dumps(record[key], ensure_ascii=False)
    if isinstance(record[key], bool):
      record[key] = json.dumps(record[key])
    if not isinstance(record[key], str):
      kind = "null" if record[key] is None else type(record[key]).__name__
      raise ValueError(f"{key!r} must be text or a number, not {kind}")
    encode_utf8(key, record[key])
  return [str(record[key]) for key in keys]


def _read_aligned(table: Table, fields, bad) -> Rows:
  end, paths = object(), table.paths
  rows = itertools.zip_longest(*(read_lines(path, bad) for path in paths), fillvalue=end)
  for number, row in enumerate(rows, 1):
    if end in row:
      counts = ", ".join(f"{path} has {sum(1 for _ in read_lines(path, bad))}" for path in paths)
      raise UserError(f"line-aligned files must have as many lines as each other, but {counts}")
    yield number, None if None in row else row


def _read_whole(parse, table: Table, fields, bad):
  return parse(table, fields, read_lines(table.paths[0], bad), bad)


# The kinds of tables whose every line is a row.
PARSERS = {".tsv": _parse_tsv, ".jsonl": _parse_jsonl}
READERS = {"aligned": _read_aligned, ".csv": _read_csv} | {
  kind: functools.partial(_read_whole, parse) for kind, parse in PARSERS.items()
}
