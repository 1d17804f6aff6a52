"""Divides a corpus among files, and writes each file so that a kill leaves none half-written."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from train.common import paths

PARTIAL = ".partial"  # the ending of a file that is being written


def shard_range(num_shards: int, count: int, number: int) -> range:
  """Returns the shards of a corpus that one of `count` files holds."""
  return range(num_shards * number // count, num_shards * (number + 1) // count)


@contextlib.contextmanager
def new_file(target: paths.Path) -> Iterator[pathlib.Path]:
  """Yields the path of a file on a disk to write, which becomes `target` when the block ends."""
  name = f".{target.name}.{uuid.uuid4().hex}{PARTIAL}"
  folder = pathlib.Path(tempfile.gettempdir()) if paths.is_bucket(target) else target.parent
  folder.mkdir(parents=True, exist_ok=True)
  partial = folder / name
  try:
    yield partial
    with open(partial, "rb") as file:
      if paths.is_bucket(target):
        with target.open("wb") as remote:
          shutil.copyfileobj(file, remote)
      else:
        os.fsync(file.fileno())
        os.replace(partial, target)
  finally:
    partial.unlink(missing_ok=True)
