"""Opens the corpora that train.prepare has written: folders of ArrayRecord files of token ids.

manifest.json names the tokenizer, whose tokenizer.json lies beside it, and of each split its files.
A record is a block of the raw corpus, and a shard the records of a shard there, so that the batches
are those of the raw corpus. Beside each file lies a .json with what the manifest has no space for.
"""

import bisect
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence

from array_record.python.array_record_module import ArrayRecordReader

from train.common import json_files, paths
from train.common.errors import NoSplit, UserError, did_you_mean
from train.data import token_records
from train.data.array_records import RangeReader
from train.data.source import Block, Example, PickledByFields

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
READERS = 256  # files that a process keeps open
# What ArrayRecord and the layout of records raise for what cannot be read.
READ_ERRORS = (RuntimeError, OSError, ValueError, LookupError)
FIELDS = {"tokenizer", "splits"}  # of a manifest, beside its version
SPLIT_FIELDS = {"fields", "files", "fingerprint", "indexed", "num_bytes", "totals"}
AGAIN = "run the train.prepare command of this folder again, which writes what is missing"


def open_prepared(
  split: str, /, folder: str, stream: bool | None = None
) -> "TokenShards | TokenDocuments":
  """Opens a split of a prepared corpus: streamed if the raw corpus was, unless `stream` differs.

  Raises UserError for a manifest of another version, and for a file that is missing or has another
  size than the manifest names.
  """
  known = read_manifest(folder)["splits"]
  if split not in known:
    hint = did_you_mean(split, known)
    raise NoSplit(
      f"{folder}: no split {split!r} was prepared, but {', '.join(known)}{hint}; the train.prepare"
      f" command of this folder with --split {split} adds it"
    )
  there = paths.contents(paths.of(folder), digests=False)
  for file in known[split]["files"]:
    path = paths.of(folder) / file["name"]
    if file["name"] not in there:
      raise UserError(f"{path} is missing: {AGAIN}")
    if (size := there[file["name"]][0]) != file["bytes"]:
      raise UserError(
        f"{path} has {size:,} bytes, and {MANIFEST} names {file['bytes']:,}: remove it and {AGAIN}"
      )
  shards = TokenShards(str(folder), split, known[split]["fingerprint"])
  indexed = known[split]["indexed"] if stream is None else not stream
  return TokenDocuments(shards, shards.fingerprint) if indexed else shards


def read_manifest(folder: str | os.PathLike) -> dict:
  """Returns the manifest of a prepared corpus; raises UserError without one of this version."""
  path = paths.of(folder) / MANIFEST
  if not path.exists():
    raise UserError(f"{folder} has no {MANIFEST}: train.prepare writes it when all files are there")
  manifest = json_files.read(path)
  if manifest.get("version") != token_records.VERSION:
    raise UserError(
      f"{path} has version {manifest.get('version')}, and version {token_records.VERSION} is read"
      " here: prepare the corpus anew, or use the commit that prepared it"
    )
  json_files.check(manifest, path, dict(tokenizer=str, splits=dict[str, dict]))
  lacks = FIELDS - manifest.keys()
  for name, split in manifest.get("splits", {}).items():
    lacks |= {f"splits.{name}.{field}" for field in SPLIT_FIELDS - split.keys()}
  if lacks:
    raise UserError(f"{path} lacks {', '.join(sorted(lacks))}: remove it and {AGAIN}")
  return manifest


def find_folders(section: Mapping) -> Iterator[str]:
  """Yields the folders of the prepared corpora in a section `data`."""
  if section.get("name") == "prepared" and section.get("folder"):
    yield section["folder"]
  of = section.get("of") or {}  # a section, or sections by name
  for part in [of] if isinstance(of.get("name"), str) else of.values():
    yield from find_folders(part)


def check_tokenizer(section: Mapping, tokenizer) -> None:
  """Raises UserError for a prepared corpus in a section `data` whose tokenizer is another one."""
  for folder in find_folders(section):
    if read_manifest(folder)["tokenizer"] != tokenizer.fingerprint:
      raise UserError(
        f"{folder} was prepared with another tokenizer than this run's: take that of the folder,"
        f" task.tokenizer=dict(name='file', path='{folder}/{TOKENIZER}'), or prepare it anew"
      )


def check_raw(section: Mapping) -> None:
  """Raises UserError for a prepared corpus in a section `data`, as no tokenizer learns from ids."""
  for folder in find_folders(section):
    raise UserError(
      f"{folder} holds tokens, of which no tokenizer can be trained: take that of the folder,"
      f" task.tokenizer=dict(name='file', path='{folder}/{TOKENIZER}')"
    )


def sidecar(name: str) -> str:
  """Returns the name of the .json beside a file of records."""
  return name.removesuffix(".array_record") + ".json"


@dataclasses.dataclass(frozen=True)
class TokenShards(PickledByFields):
  """The documents of a prepared corpus as source.Shards, with arrays of ids in place of texts."""

  folder: str
  split: str
  fingerprint: str

  @functools.cached_property
  def _manifest(self) -> dict:
    return read_manifest(self.folder)

  @property
  def _files(self) -> list[dict]:
    return self._manifest["splits"][self.split]["files"]

  @functools.cached_property
  def _first(self) -> list[int]:
    """Returns the number of each file's first shard, and the number of all shards."""
    return [0, *itertools.accumulate(file["shards"] for file in self._files)]

  @functools.cached_property
  def _fields(self) -> tuple[Mapping[str, str], int]:
    fields = self._manifest["splits"][self.split]["fields"]
    return fields, token_records.make_tag(self._manifest["tokenizer"], fields)

  @functools.cached_property
  def _reader(self):
    return functools.lru_cache(READERS)(self._open)

  @functools.cached_property
  def _records(self):
    return functools.lru_cache(READERS)(self._count_records)

  @property
  def num_bytes(self) -> int:
    """Returns the number of bytes of the raw corpus."""
    return self._manifest["splits"][self.split]["num_bytes"]

  @property
  def num_examples(self) -> int:
    return self._manifest["splits"][self.split]["totals"]["documents"]

  @property
  def num_shards(self) -> int:
    return self._first[-1]

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    number = bisect.bisect_right(self._first, shard) - 1
    file, place = self._files[number], shard - self._first[number]
    start, stop = place, place + 1
    if file["records"] != file["shards"]:
      start, stop = self._records(number)[place : place + 2]
    for record in range(start + first, stop):
      yield Block(self.read(number, record, shard))

  def read(self, number: int, record: int, shard: int) -> list[Example]:
    """Returns the documents of a record of a file."""
    try:
      (content,) = self._reader(number).read([record])
      return token_records.unpack(content, *self._fields, shard)
    except READ_ERRORS as error:
      path = self._path(number)
      raise UserError(
        f"{path}, record {record:,} (from 0): {error}; remove {path} and {AGAIN}"
      ) from None

  def describe(self, number: int) -> dict:
    """Returns the content of the .json beside a file."""
    try:
      return json_files.read(paths.of(self.folder) / sidecar(self._files[number]["name"]))
    except UserError as error:
      raise UserError(f"{error}; remove it and {AGAIN}") from None

  def count_documents(self) -> Iterator[tuple[int, int, int, int]]:
    """Yields file, record, shard and number of documents of each record."""
    for number, first in enumerate(self._first[:-1]):
      more = self.describe(number)
      counts = enumerate(more["shard_records"])
      shards = (first + place for place, count in counts for _ in range(count))
      for record, (shard, count) in enumerate(zip(shards, more["record_documents"], strict=True)):
        yield number, record, shard, count

  def _count_records(self, number: int) -> list[int]:
    """Returns the first record of each shard of a file, and the number of all."""
    return [0, *itertools.accumulate(self.describe(number)["shard_records"])]

  def _path(self, number: int):
    return paths.of(self.folder) / self._files[number]["name"]

  def _open(self, number: int) -> ArrayRecordReader | RangeReader:
    if paths.is_bucket(self.folder):
      return RangeReader(self._path(number), self.describe(number)["places"])
    # without readahead, since records are read in any order
    return ArrayRecordReader(str(self._path(number)), "readahead_buffer_size:0")


@dataclasses.dataclass(frozen=True)
class TokenDocuments(PickledByFields):
  """The documents of a prepared corpus by index, in the order of the raw corpus."""

  of: TokenShards
  fingerprint: str

  @functools.cached_property
  def _places(self) -> list[tuple[int, int, int, int]]:
    return list(self.of.count_documents())

  @functools.cached_property
  def _first(self) -> list[int]:
    """Returns the index of each record's first document, and the number of all documents."""
    return [0, *itertools.accumulate(count for *_, count in self._places)]

  @functools.cached_property
  def _record(self):
    return functools.lru_cache(16)(lambda place: self.of.read(*self._places[place][:3]))

  def __len__(self) -> int:
    return self._first[-1]

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{index} of {len(self)} documents")
    place = bisect.bisect_right(self._first, index) - 1
    return self._record(place)[index - self._first[place]]

  def _getitems(self, indices: Sequence[int]) -> list[Example]:
    order = sorted(range(len(indices)), key=indices.__getitem__)  # a record is read once
    examples = {i: self[indices[i]] for i in order}
    return [examples[i] for i in range(len(indices))]
