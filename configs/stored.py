"""Recognises how data are stored, by the names of files."""

import glob
import os
import re
from collections.abc import Sequence

PACKED = (".gz", ".zst")  # endings that may follow another
# A split of Parquet is one file, or several: train-00000-of-00002.parquet.
PARQUET = (".parquet", "-*.parquet")


def is_file(data: str, endings: Sequence[str]) -> bool:
  """Returns whether `data` names a file (or a glob) with one of the endings, perhaps packed."""
  return _unpacked(data).endswith(tuple(map(_unpacked, endings)))


def has(folder: str, pattern: str) -> bool:
  """Returns whether a folder, on a disk or in a bucket, has a file that matches a pattern."""
  path = f"{glob.escape(os.path.expanduser(folder))}/{pattern}"
  if system := _bucket(folder):
    return bool(system.glob(path))
  return bool(glob.glob(path))


def exists(path: str) -> bool:
  """Returns whether a path, on a disk or in a bucket, is a file."""
  if system := _bucket(path):
    return system.isfile(path)
  return os.path.isfile(os.path.expanduser(path))


def _bucket(path: str):
  """Returns the file system of a path in a bucket, else None."""
  if "://" not in path:
    return None
  import fsspec  # which comes with the packages for buckets

  return fsspec.core.url_to_fs(path)[0]


def table_source(path: str) -> str:
  """Returns the source that reads a table: its part such as [:90%] does not matter."""
  path = re.sub(r"\[\d*%?:(\d+%)?\]$", "", path)
  if is_file(path, PARQUET) or has(path, "*.parquet"):
    return "parquet"
  return "arrow" if has(path, "state.json") or has(path, "dataset_dict.json") else "files"


def _unpacked(name: str) -> str:
  """Returns a file's name, or its ending, without .gz or .zst."""
  return os.path.splitext(name)[0] if name.endswith(PACKED) else name
