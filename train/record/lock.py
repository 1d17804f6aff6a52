"""Locks the folder of a run for one process: by the kernel on a disk, by a lease in a bucket."""

import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid

from absl import logging

from train.common import paths
from train.common.errors import UserError

LEASE = 60  # seconds without a sign of life after which a lease is free
RENEW = LEASE / 4
HELD: set[str] = set()  # the ids of this process's leases
POLL = 2  # seconds between looks at a lease of another machine
LONG_AGO = 10 * LEASE  # by the clocks of two machines, which may differ


def lock(folder: paths.Path):
  """Returns the held lock of a folder, which `close` releases; raises UserError where a living
  process holds it."""
  return Lease(folder) if paths.is_bucket(folder) else KernelLock(folder)


def _in_use(folder, holder: str) -> UserError:
  return UserError(f"{folder}: in use by {holder}. Wait for it, stop it, or use another --workdir")


def _own_name() -> str:
  return f"process {os.getpid()} on {socket.gethostname()}"


class KernelLock:
  """A lock on the file .lock, which the kernel frees with the process, also on kill -9."""

  def __init__(self, folder: pathlib.Path):
    self.file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      holder = os.pread(self.file, 1000, 0).decode(errors="replace").strip() or "another process"
      os.close(self.file)
      raise _in_use(folder, holder) from None
    except OSError as error:
      logging.warning(
        "%s: this file system has no locks (%s); start only one run in it", folder, error
      )
    os.ftruncate(self.file, 0)
    os.pwrite(self.file, f"{_own_name()}\n".encode(), 0)

  def check(self) -> None:
    """Does nothing: nobody takes a lock from a living process."""

  def close(self, reachable: bool = True) -> None:
    os.close(self.file)


class Lease:
  """A lock in a bucket: of the objects .lock/NUMBER, the one with the largest number holds it.

  A thread writes its object anew every RENEW seconds. Another process takes over by creating the
  next number, which only one can, where the holder gave up its lease, is a process of this machine
  that has ended, or has not written for LEASE seconds. Nothing depends on clocks but a lease that
  is LONG_AGO, which is taken over without waiting.
  """

  def __init__(self, folder: paths.BucketPath):
    self.folder, self.number, self.lost = folder / ".lock", 0, None
    process = dict(machine=_machine(), pid=os.getpid(), started=_started(os.getpid()))
    self.content = dict(holder=_own_name(), id=uuid.uuid4().hex, **process)
    HELD.add(self.content["id"])  # before another thread of this process can see the lease
    try:
      self._acquire(folder)
    except BaseException:
      HELD.discard(self.content["id"])
      raise
    self.closed = threading.Event()
    self.thread = threading.Thread(target=self._renew, name="lease", daemon=True)
    self.thread.start()

  def check(self) -> None:
    """Raises UserError where another process has taken over: this one could not be heard of."""
    if self.lost:
      raise UserError(
        f"{self.folder.parent}: {self.lost} has taken over this run, as this process could not"
        f" reach the bucket for more than {LEASE} s"
      )

  def close(self, reachable: bool = True) -> None:
    """Gives up the lease. One in a bucket that is not `reachable` ends by itself."""
    HELD.discard(self.content["id"])
    self.closed.set()
    if reachable and not self.lost:
      self.thread.join()
      self._write(released=True)

  def _acquire(self, folder):
    seen, since = None, time.monotonic()
    while True:
      number, lease = self._newest()
      if lease is None or _is_free(lease) or (lease == seen and time.monotonic() - since > LEASE):
        if self._create(number + 1):
          return
        continue  # another process was faster
      if _is_here(lease) or (seen and lease != seen):  # it lives
        raise _in_use(folder, lease["holder"])
      if not seen:
        seen, since = lease, time.monotonic()
        logging.warning(
          "%s: in use by %s, unless that has ended: waiting up to %d s for a sign of it",
          folder,
          lease["holder"],
          LEASE,
        )
      time.sleep(POLL)

  def _create(self, number) -> bool:
    self.number = number
    try:
      self._write(mode="create")
    except FileExistsError:  # perhaps by this process: the answer was lost, and it tried again
      if _read(self.folder / str(number)).get("id") != self.content["id"]:
        return False
    except FileNotFoundError as error:
      raise UserError(
        f"{self.folder.parent}: there is no such bucket ({error}): create it, or correct its name"
      ) from error
    for older in self.folder.iterdir():
      if int(older.name) < number:
        older.unlink(missing_ok=True)
    return True

  def _newest(self) -> tuple[int, dict | None]:
    """Returns the largest number and its lease; 0 and None where there is no lease."""
    try:
      number = max((int(file.name) for file in self.folder.iterdir()), default=0)
    except FileNotFoundError:
      number = 0
    return number, _read(self.folder / str(number)) if number else None

  def _write(self, mode="overwrite", **facts):
    text = json.dumps(self.content | dict(renewed=time.time()) | facts)
    (self.folder / str(self.number)).write_bytes(text.encode(), mode)

  def _renew(self):
    while not self.closed.wait(RENEW):
      try:
        number, lease = self._newest()
        if number > self.number:
          self.lost = lease["holder"]
          logging.error("%s has taken over this run", self.lost)
          return
        self._write()
      except Exception as error:  # of any class: of a library, or of its connection
        logging.warning("%s: the lease could not be renewed: %s", self.folder.parent, error)


def _read(file) -> dict:
  """Returns the content of a lease; one that was removed meanwhile is free."""
  try:
    return json.loads(file.read_bytes())
  except FileNotFoundError:
    return dict(released=True)


def _is_free(lease: dict) -> bool:
  """Returns whether a lease needs no waiting."""
  is_old = time.time() - lease.get("renewed", 0) > LONG_AGO
  is_ended = lease.get("machine") == _machine() and not _is_here(lease)
  return lease.get("released") or is_old or is_ended


def _is_here(lease: dict) -> bool:
  """Returns whether the process of a lease lives on this machine, and has not given it up."""
  if lease.get("machine") != _machine() or _started(lease["pid"]) != lease["started"]:
    return False
  return lease["pid"] != os.getpid() or lease["id"] in HELD


def _machine() -> str:
  """Returns a name of this boot of the machine, and of the container, whose processes this process
  sees by their numbers."""
  boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
  return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> str | None:
  """Returns when a process started, in the kernel's ticks; None where there is no such process."""
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
  except OSError:
    return None
  state, *rest = stat.rpartition(")")[2].split()
  return None if state == "Z" else rest[18]  # a zombie has ended
