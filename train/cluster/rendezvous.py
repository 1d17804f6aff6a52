"""The socket at which the processes of a run meet, and that tells each when another is gone.

Messages are lines of JSON. Process 0 listens; each other one says who it is and what its config is,
and is answered with the names of all, or with what is wrong. The connections stay open as long as
the run: when a process is gone, the system closes its end at once.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time

from absl import logging

from train.common.errors import UserError
from train.record import workdir
from train.record.config import flat

GONE = 75  # exit status of a process whose peer is gone; sysexits.h's "try again later"
LONGEST = 1 << 24  # bytes of a message: a config, and then some
SPEAK_SECONDS = 5  # that who comes may take to say who it is
POLL_SECONDS = 0.2  # between two attempts to reach process 0


class Meeting:
  """Process 0 and a line to each of the others."""

  def __init__(self, host: str, port: int, count: int, index: int):
    self.host, self.port, self.count, self.index = host, port, count, index
    self.lines: dict[int, socket.socket] = {}  # by process; of the others only 0
    self.names: dict[int, str] = {}
    self.closed = False

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.closed = True
    for line in self.lines.values():
      line.close()

  def gather(self, config: str, timeout: float) -> None:
    """Returns when all are there with this config."""
    deadline = time.monotonic() + timeout
    if self.index:
      self._join(config, deadline, timeout)
      return
    try:
      self._receive(config, deadline, timeout)
    except UserError as error:
      self._send_all(dict(error=str(error)))
      raise
    self._send_all(dict(names=self.names))

  def _receive(self, config, deadline, timeout):
    self.names[0] = socket.gethostname()
    with self._listening() as server:
      while len(self.lines) < self.count - 1:
        server.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
          line, _ = server.accept()
        except TimeoutError:
          missing = sorted(set(range(self.count)) - {0, *self.lines})
          raise UserError(
            f"{processes(missing)} of {self.count} did not come to {self.host}:{self.port} within"
            f" {timeout:.0f} s (--start_timeout)"
          ) from None
        try:
          line.settimeout(SPEAK_SECONDS)
          said = _read(line)
          index, count, host, theirs = (said[key] for key in ("index", "count", "host", "config"))
        except (OSError, ValueError, KeyError):  # a stranger, or one that has gone already
          line.close()
          continue
        wrong = None
        if count != self.count or index not in range(1, self.count):
          wrong = f"process 0 has --process_count={self.count}"
        elif index in self.lines:
          wrong = f"there is a process {index} already"
        if wrong:
          _send(line, dict(error=wrong))
          line.close()
          continue
        self.lines[index], self.names[index] = line, host
        _check_same(config, theirs, index)

  def _listening(self):
    try:
      family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
      return socket.create_server(("", self.port), family=family, backlog=self.count)
    except OSError as error:
      raise UserError(
        f"--coordinator: process 0 cannot listen at port {self.port}: {error.strerror}"
      ) from error

  def _join(self, config, deadline, timeout):
    said = dict(index=self.index, count=self.count, host=socket.gethostname(), config=config)
    try:
      line = self._connected(deadline)
      self.lines[0] = line
      line.settimeout(max(deadline - time.monotonic(), 0.001))
      _send(line, said)
      answer = _read(line)
    except TimeoutError:
      raise UserError(
        f"process 0 at {self.host}:{self.port} did not answer within {timeout:.0f} s"
        " (--start_timeout): is it started, and is the port open?"
      ) from None
    except OSError as error:
      raise UserError(f"process 0 at {self.host}:{self.port}: {error}") from error
    if "error" in answer:
      raise UserError(f"process 0 says: {answer['error']}")
    self.names = {int(index): name for index, name in answer["names"].items()}

  def _connected(self, deadline):
    while True:
      try:
        return socket.create_connection((self.host, self.port), timeout=POLL_SECONDS * 10)
      except (ConnectionError, TimeoutError, socket.gaierror) as error:
        if time.monotonic() > deadline:
          raise TimeoutError from error
        time.sleep(POLL_SECONDS)

  def watch(self) -> None:
    """From now on a process that is gone ends this one."""
    for line in self.lines.values():
      line.settimeout(None)
      line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
      for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not on every system
          line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    threading.Thread(target=self._watch, daemon=True, name="peers").start()

  def _watch(self):
    with selectors.DefaultSelector() as selector:
      for index, line in self.lines.items():
        selector.register(line, selectors.EVENT_READ, index)
      while selector.get_map():
        for key, _ in selector.select():
          try:
            said = _read(key.fileobj)
          except (OSError, ValueError):
            said = dict(gone=key.data)
          if self.closed:
            return
          selector.unregister(key.fileobj)
          if "left" in said:
            continue
          self._send_all(said)
          self._end(said["gone"])

  def _end(self, gone):
    logging.flush()
    print(
      f"error: process {gone} of {self.count} on {self.names[gone]} is gone, so process"
      f" {self.index} stops. Start all of them again with the same command: the run goes on from"
      " its last checkpoint",
      file=sys.stderr,
      flush=True,
    )
    os._exit(GONE)  # the other thread may wait for the one that is gone, for ever

  def leave(self) -> None:
    """Tells the others that this process is done and not gone."""
    self._send_all(dict(left=self.index))

  def _send_all(self, message):
    for line in self.lines.values():
      with contextlib.suppress(OSError):  # gone as well
        _send(line, message)


def processes(numbers) -> str:
  """ "process 1", or "processes 1, 2"."""
  return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _check_same(ours: str, theirs: str, index: int) -> None:
  here, there = (flat(workdir.frozen(json.loads(text))) for text in (ours, theirs))
  keys = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
  if keys:
    told = (f"{key} is {here.get(key)!r} in process 0 and {there.get(key)!r} there" for key in keys)
    raise UserError(f"process {index} has another config: {'; '.join(told)}")


def _send(line: socket.socket, message: dict) -> None:
  line.sendall(json.dumps(message).encode() + b"\n")


def _read(line: socket.socket) -> dict:
  """One message; OSError if the other end is closed, ValueError if it is none."""
  parts, size = [], 0
  while not parts or not parts[-1].endswith(b"\n"):
    part = line.recv(1 << 16)
    if not part:
      raise ConnectionError("closed")
    parts.append(part)
    size += len(part)
    if size > LONGEST:
      raise ValueError(f"a message of more than {LONGEST} bytes")
  message = json.loads(b"".join(parts))
  if not isinstance(message, dict):
    raise ValueError("no message")
  return message
