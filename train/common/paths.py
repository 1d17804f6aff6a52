"""Opens files on disks and in buckets; no other module looks at what kind of path it has."""

import os
import pathlib

from etils import epath

BUCKETS = ("gs://", "s3://")
Path = pathlib.Path | epath.Path


def is_bucket(path: str | os.PathLike) -> bool:
  """Returns whether a path lies in a bucket."""
  return os.fspath(path).startswith(BUCKETS)


def of(path: str | os.PathLike) -> Path:
  """Returns the path, with the home folder in place of "~"."""
  return epath.Path(path) if is_bucket(path) else pathlib.Path(path).expanduser()


def size(path: Path) -> int:
  """Returns the number of bytes of a file."""
  return path.stat().length if is_bucket(path) else path.stat().st_size
