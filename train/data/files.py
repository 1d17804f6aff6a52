"""The user's text files, read once into ArrayRecord that TFDS opens, cached by content.

Lines end at "\\n" only (not at U+2028 and its kin); one "\\r" before it and a byte order mark at
the start of the file are stripped. TFDS's own writer is not used: it needs TensorFlow for more than
1 GB and its shards grow too long (see SHARD_RECORDS).
"""

import contextlib
import functools
import glob
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from train.errors import UserError, did_you_mean
from train.paths import cache_dir

FORMAT_VERSION = "1.0.0"  # part of the cache's key: raise it when the written records change
DATASET = "text_files"
SPLIT = "data"  # the one split of each cached folder, whatever its user calls it
# Reading one record costs time in proportion to its shard's length (array_record 0.8.6: 20 us at
# 4,000 records, 100 us at 29,000, 1.7 ms at 500,000), and each shard holds a file open. So shards
# begin short and double every 64: 4.5M pairs make 151 files.
SHARD_RECORDS = 16384
SHARDS_BEFORE_DOUBLING = 64
STALE_SECONDS = 24 * 3600  # a half-written folder this old belongs to a process that was killed

Row = Sequence[str]
Table = tuple[str, tuple[pathlib.Path, ...]]  # a key of READERS and its files


def prepare(
  split: str, splits: Mapping[str, object], columns: Sequence[str] = ("source", "target")
) -> tuple[pathlib.Path, tuple[str, ...]]:
  """The folder with the split's records, which TFDS opens, and their text fields.

  The folder is named by the digest of the content, and written unless it is there already.
  A split is a mapping from field to path or glob of line-aligned text, or one path or glob of .tsv
  (no header, exactly `columns`) or .jsonl (objects with the keys `columns`); any of them may be
  .gz. Pairs with a blank side are dropped from "train" and kept elsewhere, so that scores line up
  with references. Raises UserError naming file and line for anything that cannot be read.
  """
  if not isinstance(splits, Mapping) or split not in splits:
    known = list(splits) if isinstance(splits, Mapping) else []
    raise UserError(
      f"data.splits has no {split!r}; listed are {', '.join(known) or 'none'}"
      + did_you_mean(split, known)
    )
  where = f"data.splits.{split}"
  fields, tables = _tables(where, splits[split], tuple(columns))
  drop_blank = split == "train"
  folder = cache_dir("files") / _digest(fields, tables, drop_blank)
  if not folder.exists():
    logging.info("%s: writing its files to ArrayRecord, once", where)
    rows = itertools.chain.from_iterable(READERS[kind](paths, fields) for kind, paths in tables)
    _write(folder, fields, rows, drop_blank)
  dropped = tfds.builder_from_directory(folder).info.metadata["dropped"]
  if dropped:
    logging.warning("%s: %d examples with a blank field were dropped", where, dropped)
  return folder, fields


def _tables(where: str, value, columns: tuple[str, ...]) -> tuple[tuple[str, ...], list[Table]]:
  if isinstance(value, str):
    tables = [(_kind(path), (path,)) for path in _find(where, value)]
    for kind, (path,) in tables:
      if kind not in (".tsv", ".jsonl"):
        raise UserError(
          f"{where}: {path} must end in .tsv or .jsonl (or either with .gz); "
          'give parallel text as {"source": PATH, "target": PATH}'
        )
    return _names(where, columns), tables
  if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
    raise UserError(
      f"{where} is {value!r}; it must be one path, or a mapping from field to path, "
      'such as {"source": "train.en.gz", "target": "train.de.gz"}'
    )
  found = {field: _find(f"{where}.{field}", pattern) for field, pattern in value.items()}
  if len({len(paths) for paths in found.values()}) > 1:
    counts = ", ".join(f"{value[field]} matches {len(paths)}" for field, paths in found.items())
    raise UserError(f"{where}: each field needs the same number of files, but {counts}")
  return _names(where, tuple(value)), [("aligned", paths) for paths in zip(*found.values())]


def _names(where: str, fields: tuple[str, ...]) -> tuple[str, ...]:
  bad = [field for field in fields if not field or "/" in field]
  if bad or not fields or len(set(fields)) < len(fields):
    raise UserError(f"{where}: fields {fields} must be distinct, not empty and without '/'")
  return fields


def _kind(path: pathlib.Path) -> str:
  return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _find(where: str, pattern: str) -> list[pathlib.Path]:
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


def _digest(fields: tuple[str, ...], tables: list[Table], drop_blank: bool) -> str:
  try:
    content = []
    for kind, paths in tables:
      stats = [(str(path), path.stat()) for path in paths]
      content.append([kind, *(_file_digest(p, s.st_size, s.st_mtime_ns) for p, s in stats)])
  except OSError as error:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
  key = json.dumps([FORMAT_VERSION, fields, drop_blank, content])
  return hashlib.sha256(key.encode()).hexdigest()


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


def read_lines(path: pathlib.Path) -> Iterator[str]:
  """The lines of the file without their ends; UserError if empty, cut short or not UTF-8."""
  number = 0
  try:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
      for number, raw in enumerate(file, 1):
        yield _decode(raw, path, number)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise UserError(
      f"{path}: not a whole gzip file, it breaks after line {number} ({error}); fetch it again"
    ) from None
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  if not number:
    raise UserError(f"{path} is empty; give a file with at least one line")


def _decode(raw: bytes, path: pathlib.Path, number: int) -> str:
  try:
    text = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path}, line {number}, byte {error.start + 1}: 0x{raw[error.start]:02x} is not UTF-8; "
      "convert the file (iconv -t utf-8)"
    ) from None
  return text.removeprefix("\ufeff") if number == 1 else text


def _write(folder: pathlib.Path, fields, rows: Iterable[Row], drop_blank: bool) -> None:
  for old in folder.parent.glob("*.partial-*"):
    with contextlib.suppress(FileNotFoundError):
      if time.time() - old.stat().st_mtime > STALE_SECONDS:
        shutil.rmtree(old, ignore_errors=True)
  # A folder of our own, renamed when whole: a kill leaves no half cache, two writers do not meet.
  partial = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex}")
  partial.mkdir()
  try:
    _write_records(partial, fields, rows, drop_blank)
    try:
      partial.rename(folder)
    except OSError:
      if not folder.exists():  # else another process was first with the same records
        raise
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _write_records(folder: pathlib.Path, fields, rows: Iterable[Row], drop_blank: bool) -> None:
  counts = Counter()
  kept = _kept(rows, drop_blank, counts)
  lengths, size = [], 0
  for first in kept:
    limit = SHARD_RECORDS << (len(lengths) // SHARDS_BEFORE_DOUBLING)
    count = 0
    path = folder / str(len(lengths))
    with contextlib.closing(ArrayRecordWriter(str(path), "group_size:1,uncompressed")) as writer:
      for row in itertools.chain([first], itertools.islice(kept, limit - 1)):
        record = _record(fields, row)
        writer.write(record)
        count, size = count + 1, size + len(record)
    lengths.append(count)
  if not lengths:
    raise UserError(f"all {counts['dropped']} training examples have a blank field ({fields})")
  template = tfds.core.ShardedFileTemplate(
    dataset_name=DATASET, data_dir=folder, split=SPLIT, filetype_suffix="array_record"
  )
  for shard in range(len(lengths)):
    path = template.sharded_filepath(shard_index=shard, num_shards=len(lengths))
    os.rename(folder / str(shard), path)
  split = tfds.core.SplitInfo(
    name=SPLIT, shard_lengths=lengths, num_bytes=size, filename_template=template
  )
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features={field: tfds.features.Text() for field in fields},
    split_infos=[split],
    version=FORMAT_VERSION,
    filename_template=template,
    check_data=False,  # TFDS would check through TensorFlow
    disable_shuffling=True,
    metadata=tfds.core.MetadataDict(dropped=counts["dropped"]),
  )


def _kept(rows: Iterable[Row], drop_blank: bool, counts: Counter) -> Iterator[Row]:
  for row in rows:
    if drop_blank and not all(text.strip() for text in row):
      counts["dropped"] += 1
    else:
      yield row


def _record(fields: tuple[str, ...], row: Row) -> bytes:
  # Written out: TFDS's serializer makes an equal record 10 times slower.
  example = tf_example_pb2.Example()
  for field, text in zip(fields, row):
    example.features.feature[field].bytes_list.value.append(text.encode())
  return example.SerializeToString()
