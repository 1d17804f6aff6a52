"""Writes files and folders so that a kill leaves none half-written, and finds the cache."""

import atexit
import contextlib
import errno
import functools
import os
import pathlib
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator

from absl import logging

from train.common import buckets, paths

STALE_SECONDS = 24 * 3600  # the writer of an older half-written folder was killed


def cache_dir(*parts: str) -> pathlib.Path:
  """Returns a folder under $SCRIPTORIUM_CACHE (else ~/.cache/scriptorium), and makes it.

  Where that can't be written to, the folder is a temporary one, which goes with this process.
  """
  root = os.environ.get("SCRIPTORIUM_CACHE") or "~/.cache/scriptorium"
  path = pathlib.Path(_writable(root), *parts)
  path.mkdir(parents=True, exist_ok=True)
  return path


@functools.cache
def _writable(root: str) -> pathlib.Path:
  """Returns `root` if it can be written to, else a temporary folder; logs that."""
  try:
    path = pathlib.Path(root).expanduser()  # RuntimeError: there is no home
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
    return path
  except (OSError, RuntimeError) as error:
    logging.warning(
      "the cache %s can't be used (%s): data and programs are prepared anew by each command; set"
      " SCRIPTORIUM_CACHE to a folder that can be written to",
      root,
      error,
    )
  temporary = tempfile.TemporaryDirectory(prefix="scriptorium-")
  atexit.register(temporary.cleanup)
  return pathlib.Path(temporary.name)


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
  path = paths.of(path)
  if paths.is_bucket(path):
    path.write_text(text)
    return
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
DISK_ERRORS |= {errno.EMFILE, errno.ENFILE, errno.EFBIG}
LIMITS = {os.strerror(errno.EMFILE): "ulimit -n", os.strerror(errno.EFBIG): "ulimit -f"}
DISK_MESSAGES = re.compile("|".join(re.escape(os.strerror(number)) for number in DISK_ERRORS))


def disk_trouble(error: BaseException) -> str | None:
  """Returns the file system's message if the file system caused `error`, or what is wrong with the
  bucket that did, else None.

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
      return _with_limit(os.strerror(cause.errno)) + (
        f": {cause.filename}" if cause.filename else ""
      )
    if match := DISK_MESSAGES.search(str(cause)):
      return _with_limit(match[0])
    if message := buckets.trouble(cause):
      return message
    waiting += [cause.__cause__, cause.__context__, *getattr(cause, "exceptions", ())]
  return None


def _with_limit(message: str) -> str:
  """Returns the system's message with the name of the limit that was reached, if it is one."""
  return f"{message} ({LIMITS[message]})" if message in LIMITS else message
