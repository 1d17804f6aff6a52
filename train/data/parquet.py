"""Opens Parquet files."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from train.data import reading, row_groups
from train.data.columns import Column
from train.data.label_columns import LabelColumns
from train.data.label_names import NamedLabels, name_rows
from train.data.row_groups import RowGroups, Rows

SUFFIXES = (".parquet",)
BUFFER = 1 << 18  # bytes of a column that are read at a time


class Parquet:
  """A Parquet file (row_groups.Format)."""

  group = "row group"

  def __init__(self, path: pathlib.Path):
    import pyarrow.parquet as pq

    # Without `pre_buffer` a row group is decoded page by page, and is not held in memory.
    self._file = pq.ParquetFile(path.open("rb"), buffer_size=BUFFER, pre_buffer=False)
    self.schema = self._file.schema_arrow

  def groups(self, columns: Sequence[Column]) -> list[tuple[int, int]]:
    metadata = self._file.metadata
    paths = [".".join(column.path) for column in columns]
    leaves = [
      number
      for number in range(len(self._file.schema))
      if any(f"{self._file.schema.column(number).path}.".startswith(f"{x}.") for x in paths)
    ]
    groups = []
    for number in range(metadata.num_row_groups):
      group = metadata.row_group(number)
      sizes = (group.column(leaf).total_uncompressed_size for leaf in leaves)
      groups.append((group.num_rows, sum(sizes)))
    return groups

  def batches(self, group: int, columns: Sequence[Column], most: int) -> Iterator:
    paths = [".".join(column.path) for column in columns]
    return self._file.iter_batches(most, row_groups=[group], columns=paths, use_threads=False)


def open_parquet(
  split: str,
  /,
  splits: Mapping,
  columns: Sequence[str] | Mapping[str, str],
  label_names: str | Sequence[str] | None = None,
  label_columns: Sequence[str] = (),
  on_bad_record: str = "error",
  stream: bool | None = None,
) -> RowGroups | Rows | NamedLabels | LabelColumns:
  """Opens the rows of a split's files, globs or folders; "PATH[:90%]" is that part of all rows.

  `columns` are the columns to read, or map each field to a column or to a field of one, such as
  "translation.en". files.open_files describes `label_names` and `label_columns`.
  """
  splits, *part = reading.parse_part(split, splits)
  paths = reading.list_files(split, splits, SUFFIXES)
  rows = row_groups.open_groups(split, paths, tuple(part), Parquet, columns, on_bad_record, stream)
  return name_rows(rows, label_names, label_columns)
