"""Keeps what a run appends to files in a local folder, which a thread copies into the bucket."""

import pathlib
import tempfile
import threading

from absl import logging

from train.common import paths

EVERY = 15  # seconds between two uploads
OPEN: list["Staging"] = []
APPENDED = ("metrics.jsonl", "skipped.jsonl", "stacks*.txt", "loggers.json")


class Staging:
  """A local folder of a run whose workdir is in a bucket, where no file can be appended to.

  `upload` copies what has changed. A run does so every EVERY seconds, before a checkpoint counts as
  finished, so that a resumed run finds the lines of its steps, and at its end. A kill loses the
  lines after that; a logger then gets points again that it had.
  """

  def __init__(self, folder: paths.BucketPath, check, primary: bool = True):
    """Fetches what a start before this one wrote. `check` raises where the run is another
    process's by now, whose files must stay."""
    self.folder, self.check = folder, check
    self.temporary = tempfile.TemporaryDirectory(prefix="scriptorium-")
    self.local = pathlib.Path(self.temporary.name, folder.name)
    self.local.mkdir()
    self.uploaded, self.lock = {}, threading.Lock()
    for file in (file for name in APPENDED for file in folder.glob(name)) if primary else ():
      (self.local / file.name).write_bytes(file.read_bytes())
      self.uploaded[file.name] = _state(self.local / file.name)
    OPEN.append(self)
    self.closed = threading.Event()
    self.thread = threading.Thread(target=self._run, name="staging", daemon=True)
    self.thread.start()

  def upload(self) -> None:
    """Copies the files that have changed; removes those that are gone."""
    with self.lock:
      self.check()
      files = sorted(path for path in self.local.rglob("*") if path.is_file())
      names = {path.relative_to(self.local).as_posix(): path for path in files}
      for name, path in names.items():
        state = _state(path)
        if self.uploaded.get(name) != state:
          (self.folder / name).write_bytes(path.read_bytes())
          self.uploaded[name] = state
      for name in self.uploaded.keys() - names.keys():
        (self.folder / name).unlink(missing_ok=True)
        del self.uploaded[name]

  def close(self, reachable: bool = True) -> None:
    """Uploads a last time, unless the bucket is not `reachable`, and removes the local folder."""
    self.closed.set()
    OPEN.remove(self)
    if reachable:
      self.upload()
    self.temporary.cleanup()

  def _run(self):
    while not self.closed.wait(EVERY):
      try:
        self.upload()
      except Exception as error:  # of any class: the next save raises it, if it has not passed
        logging.warning("%s: files could not be uploaded: %s", self.folder, error)


def open_staging(folder: paths.Path, lock) -> Staging | None:
  """Returns the staging of a folder in a bucket for the process that holds its `lock`, or for one
  of the others, which have none; None for a folder on a disk."""
  if not paths.is_bucket(folder):
    return None
  return Staging(folder, lock.check if lock else lambda: None, primary=lock is not None)


def destination(path: pathlib.Path) -> paths.Path:
  """Returns where a file of a run can be found later, to be named in messages."""
  for staging in OPEN:
    if path.is_relative_to(staging.local):
      return staging.folder / path.relative_to(staging.local)
  return path


def _state(path: pathlib.Path) -> tuple[int, int]:
  stat = path.stat()
  return stat.st_size, stat.st_mtime_ns
