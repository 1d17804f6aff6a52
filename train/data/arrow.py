"""Opens folders that Hugging Face's `datasets` has written (save_to_disk, or its cache), without
that package."""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from train.common import json_files, paths
from train.common.errors import NoSplit, UserError, did_you_mean
from train.data import reading, row_groups
from train.data.columns import Column, pick
from train.data.label_columns import LabelColumns
from train.data.label_names import NamedLabels, name_rows
from train.data.row_groups import RowGroups, Rows

SUFFIXES = (".arrow",)
SPLITS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream


class Arrow:
  """A file of Arrow record batches in the stream format (row_groups.Format)."""

  group = "record batch"

  def __init__(self, path: pathlib.Path):
    status = path.stat()
    self._path = str(path)
    self.schema, self._places = _list_batches(self._path, status.st_size, status.st_mtime_ns)

  def groups(self, columns: Sequence[Column]) -> list[tuple[int, int]]:
    import pyarrow as pa

    with pa.memory_map(self._path) as file:  # only the batches' metadata are read
      batches = (self._read(file, group) for group in range(len(self._places)))
      return [(x.num_rows, sum(pick(x, column.path).nbytes for column in columns)) for x in batches]

  def batches(self, group: int, columns: Sequence[Column], most: int) -> Iterator:
    import pyarrow as pa

    # not mapped into memory, in which a run would seem to hold all that it has read
    with pa.OSFile(self._path) as file:
      batch = self._read(file, group)
    for column in columns:  # else an offset in a damaged file leads out of its memory
      pick(batch, column.path).validate(full=True)
    return (batch.slice(first, most) for first in range(0, batch.num_rows, most))

  def _read(self, file, group: int):
    import pyarrow as pa

    file.seek(self._places[group])
    batch = pa.ipc.read_record_batch(pa.ipc.read_message(file), self.schema)
    batch.validate()
    return batch


@functools.lru_cache(maxsize=64)
def _list_batches(path: str, size: int, mtime_ns: int) -> tuple:
  """Returns the schema of a file and the place of each record batch."""
  # size and time are there to drop the cached places when the file changes
  import pyarrow as pa

  with pa.memory_map(path) as file:
    if file.read_at(len(END), max(size - len(END), 0)) != END:
      raise OSError("it is no whole stream of Arrow's (IPC)")
    schema, places = pa.ipc.read_schema(file), []
    while (place := file.tell()) < size - len(END):
      if pa.ipc.read_message(file).type != "record batch":
        raise OSError("it has columns that are encoded by dictionaries")
      places.append(place)
  return schema, places


def open_arrow(
  split: str,
  /,
  columns: Sequence[str] | Mapping[str, str],
  folder: str = "",
  splits: Mapping | None = None,
  label_names: str | Sequence[str] | None = None,
  label_columns: Sequence[str] = (),
  on_bad_record: str = "error",
  stream: bool | None = None,
) -> RowGroups | Rows | NamedLabels | LabelColumns:
  """Opens the rows of a split of `folder`, or of `splits[split]`: a folder of one split, a file or
  a glob; "PATH[:90%]" is that part of all rows. parquet.open_parquet describes the other options.
  """
  if bool(folder) == bool(splits):
    raise UserError("data: give `folder`, which has a folder for each split, or `splits`")
  part = [0, 100]
  if paths.is_bucket(place := str(folder or reading.get_split(split, splits))):
    raise UserError(
      f"data: {place} lies in a bucket, and Arrow files are read from a disk alone: copy the folder"
      " to a disk, or write it as Parquet, which is read in a bucket too"
    )
  if folder:
    files = _find_split(split, pathlib.Path(folder).expanduser())
  else:
    splits, *part = reading.parse_part(split, splits)
    value = reading.get_split(split, splits)
    path = pathlib.Path(value).expanduser() if isinstance(value, str) else None
    is_folder = path is not None and path.is_dir()
    files = _find_files(path) if is_folder else reading.list_files(split, splits, SUFFIXES)
  rows = row_groups.open_groups(split, files, tuple(part), Arrow, columns, on_bad_record, stream)
  return name_rows(rows, label_names, label_columns)


def _find_split(split: str, folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of a split of a folder in one of three forms: of a DatasetDict, of a Dataset,
  and a cache, whose files are named after their splits."""
  if (folder / SPLITS).exists():
    known = _read(folder / SPLITS, "splits", list)
    _check_split(split, known, folder)
    return _find_files(folder / split)
  if (folder / STATE).exists():
    _check_split(split, [json_files.read(folder / STATE).get("_split") or "train"], folder)
    return _find_files(folder)
  if not (folder / INFO).exists():
    raise UserError(f"data.folder: {folder} has none of {SPLITS}, {STATE} and {INFO}")
  _check_split(split, _read(folder / INFO, "splits", dict), folder)
  files = [*folder.glob(f"*-{split}.arrow"), *folder.glob(f"*-{split}-?????-of-?????.arrow")]
  if not files:
    raise UserError(
      f"{folder / INFO} lists the split {split}, but no file *-{split}.arrow is there"
    )
  return sorted(files)


def _check_split(split: str, known, folder: pathlib.Path) -> None:
  if split not in known or pathlib.PurePath(split).name != split:
    raise NoSplit(
      f"data.folder: {folder} has no split {split!r}; it has {', '.join(map(str, known))}"
      + did_you_mean(split, map(str, known))
    )


def _find_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of a folder with one split."""
  if (folder / SPLITS).exists():
    known = ", ".join(_read(folder / SPLITS, "splits", list))
    raise UserError(f"{folder} has the splits {known}: name one of its folders, or data.folder")
  if not (folder / STATE).exists():
    known = json_files.read(folder / INFO).get("splits") if (folder / INFO).exists() else None
    if len(known or ()) > 1:
      raise UserError(f"{folder} has the splits {', '.join(known)}: give data.folder, or a glob")
    files = [path for path in folder.glob("*.arrow") if not path.name.startswith("cache-")]
    if not files:
      raise UserError(f"{folder} has no {STATE}, and no .arrow file")
    return sorted(files)
  if json_files.read(folder / STATE).get("_indices_data_files"):
    raise UserError(
      f"{folder / STATE}: the rows are picked by a file of indices, which is not supported; save"
      " the result of flatten_indices()"
    )
  files = []
  for entry in _read(folder / STATE, "_data_files", list):
    name = str(entry.get("filename") if isinstance(entry, dict) else entry)
    if pathlib.PurePath(name).name != name:
      raise UserError(f"{folder / STATE}: {name} is no file of this folder")
    if not (folder / name).is_file():
      raise UserError(f"{folder / STATE} lists {name}, which is not there: copy the folder again")
    files.append(folder / name)
  return files


def _read(path: pathlib.Path, key: str, kind: type):
  """Returns the value of a key in a JSON file; raises UserError for one of another type."""
  value = json_files.read(path).get(key)
  if not isinstance(value, kind):
    raise UserError(f"{path}: {key!r} must be a {kind.__name__}, as `datasets` writes it")
  return value
