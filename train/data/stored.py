"""Opens examples that are read once: into memory if they are few, else into the cache."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from train.common.errors import UserError
from train.common.files import cache_dir
from train.data import chunks, reading, record_cache
from train.data.bad_records import BadRecords, log_once, report
from train.data.source import Example, PickledByFields, Source, digest
from train.data.texts import InMemory

IN_MEMORY = 4 << 20  # bytes of files, unpacked
FORMAT = "1"  # part of the cache's key: raise it when the written records change
STARTS = "starts.npy"  # the number of examples before each record, and of all
TOGETHER = 128  # most examples in a record

Read = Callable[[BadRecords], Iterable[Example]]


def open_files(
  reader: Callable[..., Iterable[Example]],
  paths: Sequence[pathlib.Path],
  key: Sequence[object],
  on_bad_record: str,
  shared: str = "",
  more: Sequence[object] = (),
) -> Source:
  """Opens the examples that `reader(path, bad=...)` yields of each file; `key` and `more` stand for
  it as in `open_examples`."""
  digests = [f"{reading.file_type(path)} {reading.file_digest(path)}" for path in paths]
  policy = [on_bad_record] if on_bad_record != "error" else []
  read = functools.partial(_read_files, reader, tuple(paths))
  size = sum(map(chunks.unpacked_size, paths))
  key, more = (*key, *digests, *policy), (*paths, *more)
  return open_examples(read, size, key, on_bad_record, shared, more)


def _read_files(reader, paths, bad) -> Iterator[Example]:
  for path in paths:
    yield from reader(path, bad=bad)


def open_examples(
  read: Read,
  size: int,
  key: Sequence[object],
  on_bad_record: str = "error",
  shared: str = "",
  more: Sequence[object] = (),
) -> Source:
  """Opens the examples that `read(bad)` yields of files of about `size` bytes.

  The fingerprint is of `key`, and of the rules that change what older versions read
  (BadRecords.rules). `shared` is a field that neighbours may have in common: such examples are
  stored together. `more` is what else determines the examples and what is logged about them.
  """
  bad = BadRecords(on_bad_record)
  if size <= IN_MEMORY:
    examples = list(_read(read, bad))
    source = InMemory(_read_again, (read, on_bad_record), digest(*key, *sorted(bad.rules)))
    vars(source)["_examples"] = examples
    return source

  def write(folder):
    starts = [0]
    record_cache.write_shards(folder, _pack(_read(read, bad), shared, starts))
    np.save(folder / STARTS, np.asarray(starts))
    return dict(rules=sorted(bad.rules), reports=bad.reports, notes=bad.notes)

  folder = cache_dir("examples") / digest(FORMAT, *key, "", *more)
  note = record_cache.write_once(folder, f"{key[0]}, {size / 1e6:.0f} MB", write)
  for name, count in note["reports"]:
    report(name, count)
  for message, level in note["notes"]:
    log_once(message, level)
  return Stored(str(folder), digest(*key, *note["rules"]))


def _read(read: Read, bad: BadRecords) -> Iterator[Example]:
  yield from read(bad)
  bad.check_limit("data")


def _read_again(read: Read, on_bad_record: str) -> Iterator[Example]:
  return _read(read, BadRecords(on_bad_record))


def _pack(examples: Iterable[Example], shared: str, starts: list[int]) -> Iterator[bytes]:
  """Yields records, and adds the number of examples up to each of them to `starts`. A record has
  one example, or neighbours with the same `shared` field."""
  common, rest = {}, []
  for example in examples:
    own = {key: value for key, value in example.items() if key == shared}
    if rest and (not own or own != common or len(rest) == TOGETHER):
      starts.append(starts[-1] + len(rest))
      yield json.dumps([common, rest], ensure_ascii=False).encode()
      rest = []
    common = own
    rest.append({key: value for key, value in example.items() if key != shared})
  if rest:
    starts.append(starts[-1] + len(rest))
    yield json.dumps([common, rest], ensure_ascii=False).encode()


@dataclasses.dataclass(frozen=True)
class Stored(PickledByFields):
  """Examples in a folder of the cache, read by index."""

  folder: str
  fingerprint: str

  @functools.cached_property
  def _starts(self) -> np.ndarray:
    return np.load(pathlib.Path(self.folder, STARTS))

  @functools.cached_property
  def _records(self) -> ArrayRecordDataSource:
    names = [path.name for path in pathlib.Path(self.folder).iterdir() if path.name.isdecimal()]
    return ArrayRecordDataSource([f"{self.folder}/{name}" for name in sorted(names, key=int)])

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{index} of {len(self)} examples")
    return self._getitems([index])[0]

  def _getitems(self, indices: Sequence[int]) -> list[Example]:
    places = [int(np.searchsorted(self._starts, index, "right")) - 1 for index in indices]
    numbers = sorted(set(places))
    try:
      if len(numbers) == 1:  # 40 us, and 1 ms through the library's threads
        contents = [self._records[numbers[0]]]
      else:
        contents = self._records.__getitems__(numbers)
      records = dict(zip(numbers, map(json.loads, contents)))
    except (RuntimeError, OSError, ValueError) as error:
      raise UserError(f"{self.folder}: {error}; run the same command again") from None
    examples = []
    for index, number in zip(indices, places):
      common, rest = records[number]
      examples.append(rest[index - int(self._starts[number])] | common)
    return examples
