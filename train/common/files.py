"""Where things that outlive a run are kept."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import time
import uuid
from collections.abc import Iterator

STALE_SECONDS = 24 * 3600  # a half-written folder this old belongs to a process that was killed


def cache_dir(*parts: str) -> pathlib.Path:
  """A folder under $SCRIPTORIUM_CACHE (else ~/.cache/scriptorium), made if it is not there."""
  root = os.environ.get("SCRIPTORIUM_CACHE") or pathlib.Path.home() / ".cache" / "scriptorium"
  path = pathlib.Path(root, *parts)
  path.mkdir(parents=True, exist_ok=True)
  return path


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """An empty folder to write into, which becomes `folder` when the block ends.

  So a kill leaves no half cache and two writers do not meet; who is second throws his away.
  """
  for old in folder.parent.glob("*.partial-*"):
    with contextlib.suppress(FileNotFoundError):
      if time.time() - old.stat().st_mtime > STALE_SECONDS:
        shutil.rmtree(old, ignore_errors=True)
  partial = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex}")
  partial.mkdir()
  try:
    yield partial
    try:
      partial.rename(folder)
    except OSError:
      if not folder.exists():  # else another process was first with the same content
        raise
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def write_atomically(path: str | os.PathLike, text: str) -> None:
  """Writes `text` so that, whenever the machine stops, `path` holds all of the old or the new."""
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with open(temporary, "w", encoding="utf-8") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)  # else the rename itself may be lost with the power
  finally:
    os.close(folder)


TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES}
TOLD = re.compile("|".join(re.escape(os.strerror(number)) for number in TROUBLE))


def disk_trouble(error: BaseException) -> str | None:
  """What the file system said, if that is the reason for `error`; None for any other.

  Orbax and TensorStore wrap it in errors of their own, and what was to clean up fails for the same
  reason on top.
  """
  seen, waiting = set(), [error]
  while waiting:
    one = waiting.pop()
    if one is None or id(one) in seen:
      continue
    seen.add(id(one))
    if isinstance(one, OSError) and one.errno in TROUBLE:
      return os.strerror(one.errno) + (f": {one.filename}" if one.filename else "")
    if found := TOLD.search(str(one)):
      return found[0]
    waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
  return None
