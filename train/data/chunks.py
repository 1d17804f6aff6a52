"""Cuts files of any size into chunks of bytes that end where a line, a paragraph or a word ends.

A chunk is found from its number alone, without reading what is before it, unless the file is
compressed: such a file is read from its beginning.
"""

import bisect
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from train.common import paths
from train.common.errors import UserError
from train.data import reading
from train.data.bad_records import MAX_RECORD_BYTES, CollectedBadRecords
from train.data.source import Block, Example, PickledByFields

CHUNK_BYTES = 1 << 17  # some 30,000 tokens
LOOK = 1 << 16  # bytes that are read at a time to find an end
BACK = 1 << 12  # bytes that `find_end` may look back at
LONGEST = 1 << 20  # bytes of a document beyond a chunk's end; a longer one is cut at a blank
PACKED = 4  # bytes of text in a byte of a compressed file
LINE_ENDS = re.compile(rb"\n\s*")  # takes in all that follow: no end is tried twice

Read = Callable[[int, int], bytes]  # (place, count) -> at most `count` bytes of a file from a place


def find_line(content: bytes, at: int) -> int | None:
  """Returns the first place from `at` (above 0) on that is behind a line's end."""
  return content.find(b"\n", at - 1) + 1 or None


def find_paragraph(content: bytes, at: int) -> int | None:
  """Returns the first place from `at` on that is behind blank lines with a text behind them."""
  for run in LINE_ENDS.finditer(content):
    last = content.rfind(b"\n", run.start(), run.end())
    if run.start() < last >= at - 1 and run.end() < len(content):
      return last + 1
  return None


class Rule(NamedTuple):
  """The places at which a chunk may end: `find` returns the first from a place in some bytes on,
  which begin `back` bytes before the chunk's nominal end, None if there is none. Behind about
  `most` bytes without any, a chunk is `cut` behind a blank or between characters."""

  find: Callable[[bytes, int], int | None]
  back: int
  most: int
  cut: bool


RECORDS = Rule(find_line, 1, MAX_RECORD_BYTES, False)
LINES = Rule(find_line, 1, LONGEST, True)
PARTS = Rule(find_line, 1, LOOK, True)  # of a document, preferably whole lines
PARAGRAPHS = Rule(find_paragraph, BACK, LONGEST, True)
BLANK = re.compile(rb"[ \t\r\n]")
NUMBERED = 20
LINE, LINE_END = re.compile(r"line (\d+)"), b"\n"


class Chunk(NamedTuple):
  """The bytes of a file from `start` on."""

  start: int
  content: bytes
  begins: bool  # begins where the rule lets a chunk end
  ends: bool  # ends so too
  last: bool  # the file ends with it


def is_compressed(path: paths.Path) -> bool:
  """Returns whether a file can only be read from its beginning."""
  return path.suffix in reading.COMPRESSED


def unpacked_size(path: paths.Path) -> int:
  """Returns about how many bytes of text a file holds."""
  return paths.size(path) * (PACKED if is_compressed(path) else 1)


def check_part(where: str, files: Sequence[paths.Path], start: int, stop: int) -> None:
  """Raises UserError where a part of a large compressed file is asked for."""
  packed = next(filter(is_compressed, files), None)
  if packed is not None and (start, stop) != (0, 100):
    raise UserError(
      f"{where}: {packed} is compressed and large, so a part of it cannot be found without reading"
      " it all: unpack it, or give other files for each split"
    )


def count(size: int) -> int:
  """Returns the number of chunks of so many bytes."""
  return -(-size // CHUNK_BYTES)


def read_chunk(path: paths.Path, rule: Rule, number: int, start: int, stop: int) -> Chunk:
  """Returns a chunk of the part of a file between two places, each moved to the next end. Chunks
  whose numbers follow one another are all of the part."""
  with reading.open_bytes(path) as file:

    def read(place, size):
      file.seek(place)
      return file.read(size)

    first, last = start + number * CHUNK_BYTES, start + (number + 1) * CHUNK_BYTES
    first, begins = find_end(read, first, rule)
    last, ends = find_end(read, min(last, stop), rule)
    content = read(first, last - first)
    return Chunk(first, content, begins, ends, not read(last, 1))


def read_in_order(path: paths.Path, rule: Rule, skip: int = 0) -> Iterator[Chunk]:
  """Yields the chunks of a file but the first `skip`; reads it once, from its beginning."""
  with reading.open_bytes(path) as file:
    window, start, begins, number, last = _Window(file), 0, True, 0, False
    while not last:
      number += 1
      stop, ends = start, begins  # this chunk's place is in the one before
      if number * CHUNK_BYTES > start:
        stop, ends = find_end(window.read, number * CHUNK_BYTES, rule)
      content, last = window.read(start, stop - start), not window.read(stop, 1)
      if number > skip:
        yield Chunk(start, content, begins, ends, last)
      window.drop(stop)
      start, begins = stop, ends


class _Window:
  """A part of a file that is read forwards."""

  def __init__(self, file):
    self.file, self.start, self.content = file, 0, b""

  def read(self, place: int, size: int) -> bytes:
    """Returns the bytes from a place on that is not dropped."""
    first = place - self.start
    while (missing := first + size - len(self.content)) > 0:
      more = self.file.read(max(missing, LOOK))
      if not more:
        break
      self.content += more
    return self.content[first : first + size]

  def drop(self, place: int) -> None:
    """Forgets what is before a place, but for what `find_end` may look back at."""
    kept = max(place - BACK, self.start)
    self.content, self.start = self.content[kept - self.start :], kept


def find_end(read: Read, place: int, rule: Rule) -> tuple[int, bool]:
  """Returns the first place from `place` on where a chunk may end, at most the file's end, and
  whether it is an end by the rule. It depends on the bytes around `place` alone, so that the chunk
  before and the chunk behind it agree."""
  if place <= 0:
    return 0, True
  since, content, look = max(place - rule.back, 0), b"", LOOK + rule.back
  at = place - since
  while len(content) <= at + rule.most:
    more = read(since + len(content), look)
    content += more
    if (found := rule.find(content, at)) is not None:
      return since + found, True
    if len(more) < look:
      return since + len(content), True
    look = len(content)
  if found := BLANK.search(content, at, at + LOOK):
    return since + found.end(), False
  step = next((i for i in range(4) if content[at + i] & 0xC0 != 0x80), 0)
  return place + step, False


@dataclasses.dataclass(frozen=True)
class ChunkedFiles(PickledByFields):
  """The examples of files as shards: a shard is a chunk, or a whole file that is compressed.

  `parse(path, chunk, bad)` returns the examples of a chunk, and the number of those left out.
  """

  files: tuple[paths.Path, ...]
  rules: tuple[Rule, ...]  # of each file
  parse: Callable[[paths.Path, Chunk, "ChunkBadRecords"], tuple[list[Example], int]]
  fingerprint: str
  on_bad_record: str = "error"
  part: tuple[int, int] = (0, 100)  # percentages of each file's bytes
  sizes: tuple[int, ...] = ()  # of the files, as all processes know them

  def __post_init__(self):
    object.__setattr__(self, "sizes", self.sizes or tuple(map(paths.size, self.files)))

  @property
  def num_bytes(self) -> int:
    sizes = map(unpacked_size, self.files)
    return sum(sizes) * (self.part[1] - self.part[0]) // 100

  @functools.cached_property
  def _first(self) -> list[int]:
    """Returns the number of each file's first shard, and the number of all shards."""
    counts = []
    for path, size in zip(self.files, self.sizes):
      start, stop = self._ends(size)
      counts.append(1 if is_compressed(path) else count(stop - start))
    return [0, *itertools.accumulate(counts)]

  @property
  def num_shards(self) -> int:
    return self._first[-1]

  def _ends(self, size: int) -> tuple[int, int]:
    start, stop = self.part
    return size * start // 100, size * stop // 100

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    file = bisect.bisect_right(self._first, shard) - 1
    path, rule = self.files[file], self.rules[file]
    if is_compressed(path):
      found = read_in_order(path, rule, first)
    else:
      numbers = [shard - self._first[file]][first:]
      ends = self._ends(self.sizes[file])
      if not paths.is_bucket(path) and paths.size(path) != self.sizes[file]:
        raise UserError(
          f"{path} has {paths.size(path):,} bytes, and {self.sizes[file]:,} when the run opened it:"
          " data must not change during a run"
        )
      found = (read_chunk(path, rule, number, *ends) for number in numbers)
    while True:
      with reading.named_errors(path):
        chunk = next(found, None)
      if chunk is None:
        return
      yield self._block(path, rule, chunk)

  def _block(self, path, rule, chunk):
    if not rule.cut and not chunk.begins:  # the end of a record that is too long
      rest = chunk.content.partition(b"\n")[2]
      chunk = chunk._replace(start=chunk.start + len(chunk.content) - len(rest), content=rest)
    bad = ChunkBadRecords(self.on_bad_record, chunk.start)
    if not rule.cut and not chunk.ends:
      kept = chunk.content[: chunk.content.rfind(b"\n") + 1]
      if kept or chunk.begins:
        place, number = f"line {kept.count(LINE_END) + 1}", rule.most
        bad(path, place, f"a record of more than {number:,} bytes; is this a text file?")
      chunk = chunk._replace(content=kept)
    if not chunk.content:
      return Block([], bad.messages)
    examples, dropped = self.parse(path, chunk, bad)
    return Block(examples, bad.messages, dropped)


class ChunkBadRecords(CollectedBadRecords):
  """The bad records of a chunk; names their lines in the file, which is read up to there: beyond
  the first NUMBERED chunks their lines in the chunk."""

  numbered = 0  # chunks in this process

  def __init__(self, on_bad_record: str, start: int):
    super().__init__(on_bad_record)
    self._start, self._before = start, None

  def __call__(self, path, place: str, reason) -> None:
    if self._before is None and ChunkBadRecords.numbered < NUMBERED:
      ChunkBadRecords.numbered += 1
      self._before = count_lines(path, self._start)
    if self._before is None:
      place = f"{place} behind byte {self._start:,}"
    else:
      place = LINE.sub(lambda match: f"line {int(match[1]) + self._before}", place)
    super().__call__(path, place, reason)


def count_lines(path: paths.Path, stop: int) -> int:
  """Returns the number of line ends before a place in a file."""
  lines = 0
  with reading.open_bytes(path) as file:
    while stop > 0 and (content := file.read(min(stop, LONGEST))):
      lines, stop = lines + content.count(b"\n"), stop - len(content)
  return lines
