"""Converts text files to ArrayRecord once, cached by content, and opens them by index."""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from train.common.errors import UserError
from train.common.files import cache_dir
from train.data import bad_records, reading, record_cache
from train.data.bad_records import BadRecords, log_once
from train.data.chunks import unpacked_size
from train.data.label_columns import LabelColumns
from train.data.label_names import NamedLabels, name_rows
from train.data.reading import file_digest, file_type, find_files
from train.data.records import Records
from train.data.rows import open_rows
from train.data.source import Shards, digest, is_large
from train.data.tables import ENDINGS, Row, Table, find_table, mark_empty, number_rows, read_rows

FORMAT_VERSION = "1.0.0"  # part of the cache's key: raise it when the written records change
DATASET = "text_files"
SPLIT = "data"  # the one split of each cached folder, whatever its user calls it

FIELDS = ("source", "target")


def open_files(
  split: str,
  /,
  splits,
  columns=FIELDS,
  header: bool | None = None,
  label_names: str | Sequence[str] | None = None,
  label_columns: Sequence[str] = (),
  on_bad_record: str = "error",
  stream: bool | None = None,
) -> Records | NamedLabels | LabelColumns | Shards:
  """Opens the rows of a split's files; "train.tsv[:90%]" is that part of the rows, in order. Large
  files are streamed (rows.py).

  `label_names` is a file that has a name on line N for the label N, from 0, or a list of names.
  `label_columns` are the labels of which the fields label_0, label_1, ... say if a text has them.
  """
  splits, start, stop = reading.parse_part(split, splits)
  part = "" if (start, stop) == (0, 100) else f"[{start}%:{stop}%]"
  if large := _find_large(split, splits, columns, header, stream):
    drop_blank = bool(part) or split == "train"
    where = f"data.splits.{split}"
    rows = open_rows(where, large[1], large[0], drop_blank, on_bad_record, (start, stop))
  else:
    # all parts of a file are parts of the same records, so blank ones are dropped from each
    folder, fields = prepare(split, splits, columns, bool(part), on_bad_record, header)
    remedy = "run the same command again, which writes the cache anew from your files"
    names = dict(zip(fields, fields))
    rows = Records(str(folder), SPLIT + part, names, folder.name + part, remedy)
    if part and rows.is_empty():
      raise UserError(
        f"data.splits.{split}: the part {part} of {len(dataclasses.replace(rows, split=SPLIT))}"
        " rows has none: take a larger part (dev=, test=), or another file"
      )
  return name_rows(rows, label_names, label_columns)


def _find_large(split, splits, columns, header, stream) -> tuple | None:
  """Returns the fields and tables of a split whose files are streamed, None for any other."""
  where = f"data.splits.{split}"
  fields, tables = _find_tables(where, reading.get_split(split, splits), columns, header)
  size = sum(unpacked_size(path) for table in tables for path in table.paths)
  return (fields, tables) if is_large(size, stream) else None


def prepare(
  split: str,
  splits: Mapping[str, object],
  columns: Sequence[str] | Mapping[str, str] = FIELDS,
  drop_blank: bool = False,
  on_bad_record: str = "error",
  header: bool | None = None,
) -> tuple[pathlib.Path, tuple[str, ...]]:
  """Returns the folder of the split's records, which TFDS can open, and the names of their fields.

  The folder is named by the digest of the content, and is written if it is missing or damaged.

  A split is a mapping from field to path or glob of line-aligned text, or one path or glob of .csv,
  .tsv or .jsonl (objects with the keys `columns`); any of them may be .gz. tables.find_table
  describes `columns` and `header`. Rows with a blank field are dropped from "train", and with
  `drop_blank` from any split; else they are kept, so that scores line up with references. Raises
  UserError that names file and line for anything that cannot be read, unless `on_bad_record` is
  "skip".
  """
  where = f"data.splits.{split}"
  fields, tables = _find_tables(where, reading.get_split(split, splits), columns, header)
  drop_blank = drop_blank or split == "train"
  content = [[x.kind, *map(file_digest, x.paths), *x.key(fields)] for x in tables]
  policy = [on_bad_record] if on_bad_record != "error" else []
  key = [FORMAT_VERSION, fields, drop_blank, content, *policy]
  folder = cache_dir("files") / digest(json.dumps(key))

  def write(partial):
    bad = BadRecords(on_bad_record)
    rows = _read_rows(where, tables, fields, bad)
    paths = [str(path) for table in tables for path in table.paths]
    named = f"{where} ({', '.join(paths[:2])}{', ...' if len(paths) > 2 else ''})"
    _write_records(named, partial, fields, rows, drop_blank)
    dropped = tfds.builder_from_directory(partial).info.metadata["dropped"]
    return {"dropped": dropped, "left_out": bad.counts}

  note = record_cache.write_once(folder, where, write)
  for table, count in zip(tables, note["left_out"], strict=True):
    bad_records.report(_join(table.paths), count)
  if note["dropped"]:
    log_once(f"{where}: {note['dropped']} examples with a blank field were dropped")
  return folder, fields


def _read_rows(where: str, tables: list[Table], fields, bad: BadRecords) -> Iterator[Row]:
  for table in tables:
    yield from bad.drop_bad(_join(table.paths), mark_empty(read_rows(table, fields, bad), fields))
  bad.check_limit(where)


def find_line(split: str, cell: str, *, splits, columns=FIELDS, header=None, **_) -> str | None:
  """Returns the file and line of the first row with this cell, None if no row has it."""
  splits, _, _ = reading.parse_part(split, splits)
  fields, tables = _find_tables(f"data.splits.{split}", splits[split], columns, header)
  for table in tables:
    for number, row in number_rows(table, fields, BadRecords("skip")):
      if row is not None and cell in row:
        return f"{_join(table.paths)}, line {number}"
  return None


def _join(paths) -> str:
  return " and ".join(map(str, paths))


def _find_tables(where: str, value, columns, header) -> tuple[tuple[str, ...], list[Table]]:
  """Returns the field names and the tables of a split's value in the config."""
  fields, tables = _list_tables(where, value, columns, header)
  names = set(fields)
  if not fields or len(names) < len(fields) or "" in names or "/" in "".join(fields):
    raise UserError(f"{where}: fields {fields} must be distinct, not empty and without '/'")
  return fields, tables


def _list_tables(where: str, value, columns, header) -> tuple[tuple[str, ...], list[Table]]:
  if isinstance(value, str):
    paths = find_files(where, value)
    for path in paths:
      if file_type(path) not in ENDINGS:
        raise UserError(
          f"{where}: {path} must end in {' or '.join(ENDINGS)} (or one of them with .gz);"
          ' give parallel text as {"source": PATH, "target": PATH}'
        )
    return tuple(columns), [find_table(path, columns, header) for path in paths]
  if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
    raise UserError(
      f"{where} is {value!r}; it must be one path, or a mapping from field to path, "
      'such as {"source": "train.en.gz", "target": "train.de.gz"}'
    )
  paths = {field: find_files(f"{where}.{field}", pattern) for field, pattern in value.items()}
  if len({len(matches) for matches in paths.values()}) > 1:
    counts = ", ".join(f"{value[field]} matches {len(paths[field])}" for field in paths)
    raise UserError(f"{where}: each field needs the same number of files, but {counts}")
  return tuple(value), [Table("aligned", row) for row in zip(*paths.values())]


def _write_records(
  where: str, folder: pathlib.Path, fields, rows: Iterable[Row], drop_blank: bool
) -> None:
  number = itertools.count()  # of the rows that are read
  kept = (row for row, _ in zip(rows, number) if not drop_blank or all(map(str.strip, row)))
  lengths, size = record_cache.write_shards(folder, (_serialize(fields, row) for row in kept))
  dropped = next(number) - sum(lengths)
  if not lengths:
    raise UserError(
      f"{where}: all {dropped} training examples have a blank field ({fields})"
      if dropped
      else f"{where}: there is no example (a first line that names the columns is none)"
    )
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
    metadata=tfds.core.MetadataDict(dropped=dropped),
  )


def _serialize(fields: tuple[str, ...], row: Row) -> bytes:
  # TFDS's own serializer is 10 times slower for an equal record
  example = tf_example_pb2.Example()
  for field, text in zip(fields, row):
    example.features.feature[field].bytes_list.value.append(text.encode())
  return example.SerializeToString()
