"""The user's text files, read once into ArrayRecord that TFDS opens, cached by content.

TFDS's own writer is not used: it needs TensorFlow for more than
1 GB and its shards grow too long (see SHARD_RECORDS).
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from train.common.errors import NoSplit, UserError, did_you_mean
from train.common.files import cache_dir, new_folder
from train.data import bad_records
from train.data.bad_records import BadRecords
from train.data.reading import READERS, Row, digest_of, find, kind

FORMAT_VERSION = "1.0.0"  # part of the cache's key: raise it when the written records change
DATASET = "text_files"
SPLIT = "data"  # the one split of each cached folder, whatever its user calls it
# Reading one record costs time in proportion to its shard's length (array_record 0.8.6: 20 us at
# 4,000 records, 100 us at 29,000, 1.7 ms at 500,000), and each shard holds a file open. So shards
# begin short and double every 64: 4.5M pairs make 151 files.
SHARD_RECORDS = 16384
SHARDS_BEFORE_DOUBLING = 64
NOTE = "written.json"  # in each cached folder: what was dropped, left out, and its files' digests

Table = tuple[str, tuple[pathlib.Path, ...]]  # a key of READERS and its files


def prepare(
  split: str,
  splits: Mapping[str, object],
  columns: Sequence[str] = ("source", "target"),
  drop_blank: bool | None = None,
  on_bad_record: str = "error",
) -> tuple[pathlib.Path, tuple[str, ...]]:
  """The folder with the split's records, which TFDS opens, and their text fields.

  The folder is named by the digest of the content, and written unless it is there already, as it
  was written: a damaged one is written anew.
  A split is a mapping from field to path or glob of line-aligned text, or one path or glob of .tsv
  (no header, exactly `columns`) or .jsonl (objects with the keys `columns`); any of them may be
  .gz. Pairs with a blank side are dropped from "train" and kept elsewhere, so that scores line up
  with references, unless `drop_blank` says otherwise. Raises UserError naming file and line for
  anything that cannot be read, unless `on_bad_record` is "skip".
  """
  if not isinstance(splits, Mapping) or split not in splits:
    known = list(splits) if isinstance(splits, Mapping) else []
    raise NoSplit(
      f"data.splits has no {split!r}; listed are {', '.join(known) or 'none'}"
      + did_you_mean(split, known)
    )
  where = f"data.splits.{split}"
  fields, tables = _tables(where, splits[split], tuple(columns))
  drop_blank = split == "train" if drop_blank is None else drop_blank
  key = _key(fields, tables, drop_blank) + ([on_bad_record] if on_bad_record != "error" else [])
  folder = cache_dir("files") / hashlib.sha256(json.dumps(key).encode()).hexdigest()
  noted = _noted(folder)
  if noted is None:
    if folder.exists():
      logging.warning("%s is not as it was written, and is written anew", folder)
      with contextlib.suppress(FileNotFoundError):  # another process was first
        folder.rename(folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex}"))
    logging.info("%s: writing its files to ArrayRecord, once", where)
    bad = BadRecords(on_bad_record)
    with new_folder(folder) as partial:
      _write_records(partial, fields, _rows(where, tables, fields, bad), drop_blank)
      noted = _note(partial, bad.noted)
  for (_, paths), left_out in zip(tables, noted["left_out"], strict=True):
    bad_records.tell(_name(paths), left_out)
  if noted["dropped"]:
    logging.warning("%s: %d examples with a blank field were dropped", where, noted["dropped"])
  return folder, fields


def _rows(where: str, tables: list[Table], fields, bad: BadRecords) -> Iterator[Row]:
  for ending, paths in tables:
    yield from bad.among(_name(paths), READERS[ending](paths, fields, bad))
  bad.limit(where)


def _name(paths) -> str:
  return " and ".join(map(str, paths))


def _note(folder: pathlib.Path, left_out: list[dict]) -> dict:
  """Writes NOTE; what it says."""
  dropped = tfds.builder_from_directory(folder).info.metadata["dropped"]
  digests = {path.name: digest_of(path) for path in sorted(folder.iterdir())}
  noted = {"dropped": dropped, "left_out": left_out, "digests": digests}
  (folder / NOTE).write_text(json.dumps(noted), encoding="utf-8")
  return noted


def _noted(folder: pathlib.Path) -> dict | None:
  """What NOTE says; None where it, or a file of which it says the digest, is not as it was."""
  try:
    noted = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    digests = noted["digests"].items()
    return noted if all(digest_of(folder / name) == digest for name, digest in digests) else None
  except (OSError, ValueError, KeyError, UserError):
    return None


def _tables(where: str, value, columns: tuple[str, ...]) -> tuple[tuple[str, ...], list[Table]]:
  if isinstance(value, str):
    tables = [(kind(path), (path,)) for path in find(where, value)]
    for ending, (path,) in tables:
      if ending not in (".tsv", ".jsonl"):
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
  found = {field: find(f"{where}.{field}", pattern) for field, pattern in value.items()}
  if len({len(paths) for paths in found.values()}) > 1:
    counts = ", ".join(f"{value[field]} matches {len(paths)}" for field, paths in found.items())
    raise UserError(f"{where}: each field needs the same number of files, but {counts}")
  return _names(where, tuple(value)), [("aligned", paths) for paths in zip(*found.values())]


def _names(where: str, fields: tuple[str, ...]) -> tuple[str, ...]:
  bad = [field for field in fields if not field or "/" in field]
  if bad or not fields or len(set(fields)) < len(fields):
    raise UserError(f"{where}: fields {fields} must be distinct, not empty and without '/'")
  return fields


def _key(fields: tuple[str, ...], tables: list[Table], drop_blank: bool) -> list:
  content = [[ending, *map(digest_of, paths)] for ending, paths in tables]
  return [FORMAT_VERSION, fields, drop_blank, content]


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
