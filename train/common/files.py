"""Writes files and folders so that a kill leaves none half-written, and finds the cache."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import time
import uuid
from collections.abc import Iterator

STALE_SECONDS = 24 * 3600  # the writer of an older half-written folder was killed


def cache_dir(*parts: str) -> pathlib.Path:
  """Returns a folder under $SCRIPTORIUM_CACHE (else ~/.cache/scriptorium), and makes it."""
  root = os.environ.get("SCRIPTORIUM_CACHE") or pathlib.Path.home() / ".cache" / "scriptorium"
  path = pathlib.Path(root, *parts)
  path.mkdir(parents=True, exist_ok=True)
  return path


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields an empty folder to write into, which becomes `folder` when the block ends.

  A kill leaves no half-written folder. Of two writers at the same time, the second one's folder is
  removed.
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
      if not folder.exists():  # otherwise another process was first with the same content
        raise
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def write_atomically(path: str | os.PathLike, text: str) -> None:
  """Writes `text` so that `path` holds the whole old or new text, whenever the machine stops."""
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
    os.fsync(folder)  # without it a power cut may lose the rename
  finally:
    os.close(folder)


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES}
DISK_MESSAGES = re.compile("|".join(re.escape(os.strerror(number)) for number in DISK_ERRORS))


def disk_trouble(error: BaseException) -> str | None:
  """Returns the file system's message if the file system caused `error`, else None.

  Orbax and TensorStore wrap the cause in errors of their own, and their cleanup may fail for the
  same reason again.
  """
  seen, waiting = set(), [error]
  while waiting:
    cause = waiting.pop()
    if cause is None or id(cause) in seen:
      continue
    seen.add(id(cause))
    if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
      return os.strerror(cause.errno) + (f": {cause.filename}" if cause.filename else "")
    if match := DISK_MESSAGES.search(str(cause)):
      return match[0]
    waiting += [cause.__cause__, cause.__context__, *getattr(cause, "exceptions", ())]
  return None
