"""Opens a socket where a run's processes meet, and by which each learns that another has died.

Messages are lines of JSON. Process 0 listens. Each other process sends its number and its config;
the answer is the host names of all processes, or an error. The connections stay open as long as the
run, and the system closes a dead process's end at once. A process that lives sends a beat every
BEAT_SECONDS, so that one that hangs is named too.
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

GONE = 75  # exit status of a process whose peer died; sysexits.h's "try again later"
MESSAGE_BYTES = 1 << 24  # at most; a config is far shorter
HELLO_SECONDS = 5  # from a connection to its whole first message
POLL_SECONDS = 0.2  # between two attempts to reach process 0
BEAT_SECONDS = 1.0
QUIET_SECONDS = 30.0  # without a beat, after which a process is named
LOST_SECONDS = 90.0  # without a beat, after which it is gone; jax ends all after 100 s


class Rendezvous(contextlib.AbstractContextManager):
  """A connection from process 0 to each other process."""

  def __init__(self, host: str, port: int, count: int, index: int):
    self.host, self.port, self.count, self.index = host, port, count, index
    self.connections: dict[int, socket.socket] = {}  # by process; process 0's in all others
    self.names: dict[int, str] = {}
    self.closed = False

  def __exit__(self, *error):
    self.closed = True
    for connection in self.connections.values():
      connection.close()

  def gather(self, config: str, timeout: float) -> None:
    """Returns when all processes have connected with this config; raises UserError otherwise."""
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
      while len(self.connections) < self.count - 1:
        connection = self._accept(server, deadline, timeout)
        try:
          hello = _read(connection, min(time.monotonic() + HELLO_SECONDS, deadline))
          index, count, host, theirs = (hello[key] for key in ("index", "count", "host", "config"))
        except (OSError, ValueError, KeyError):  # a stranger, or a process that has died already
          connection.close()
          continue
        error = None
        if count != self.count or index not in range(1, self.count):
          error = f"process 0 has --process_count={self.count}"
        elif index in self.connections:
          error = f"another process has the index {index}"
        if error:
          _send(connection, dict(error=error))
          connection.close()
          continue
        self.connections[index], self.names[index] = connection, host
        _check_same(config, theirs, index)

  def _accept(self, server, deadline, timeout):
    try:
      if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
      server.settimeout(left)
      return server.accept()[0]
    except TimeoutError:
      missing = sorted(set(range(self.count)) - {0, *self.connections})
      raise UserError(
        f"{processes(missing)} of {self.count} did not connect to {self.host}:{self.port} within"
        f" {timeout:.0f} s (--start_timeout)"
      ) from None

  def _listening(self):
    try:
      family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
      return socket.create_server(("", self.port), family=family, backlog=self.count)
    except OSError as error:
      raise UserError(
        f"--coordinator: process 0 cannot listen at port {self.port}: {error.strerror}"
      ) from error

  def _join(self, config, deadline, timeout):
    hello = dict(index=self.index, count=self.count, host=socket.gethostname(), config=config)
    try:
      self.connections[0] = connection = self._connect(deadline)
      connection.settimeout(max(deadline - time.monotonic(), 0.001))
      _send(connection, hello)
      answer = _read(connection, deadline)
    except TimeoutError:
      raise UserError(
        f"process 0 at {self.host}:{self.port} did not answer within {timeout:.0f} s"
        " (--start_timeout): is it started, and is the port open?"
      ) from None
    except OSError as error:
      raise UserError(f"process 0 at {self.host}:{self.port}: {error}") from error
    if "error" in answer:
      raise UserError(f"process 0 reports: {answer['error']}")
    self.names = {int(index): name for index, name in answer["names"].items()}

  def _connect(self, deadline):
    while True:
      try:
        return socket.create_connection((self.host, self.port), timeout=POLL_SECONDS * 10)
      except (ConnectionError, TimeoutError, socket.gaierror) as error:
        if time.monotonic() > deadline:
          raise TimeoutError from error
        time.sleep(POLL_SECONDS)

  def watch(self, quiet_seconds: float = QUIET_SECONDS) -> None:
    """Starts a thread that sends beats, names a process without a beat for `quiet_seconds`, and
    ends this process when another one has died or sent none for LOST_SECONDS."""
    for connection in self.connections.values():
      connection.settimeout(None)
      connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
      for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not on every system
          connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    self.quiet_seconds = quiet_seconds
    threading.Thread(target=self._watch, daemon=True, name="peers").start()

  def _watch(self):
    heard = dict.fromkeys(self.connections, time.monotonic())  # when, by process
    quiet: set[int] = set()  # that were named
    next_beat = time.monotonic()
    with selectors.DefaultSelector() as selector:
      for index, connection in self.connections.items():
        selector.register(connection, selectors.EVENT_READ, index)
      while selector.get_map():
        for key, _ in selector.select(max(next_beat - time.monotonic(), 0)):
          for message in _messages(key.fileobj) or [dict(gone=key.data)]:
            if self.closed:
              return
            heard[key.data] = time.monotonic()
            if "gone" in message:
              self._end(message["gone"], message.get("silent", 0))
            elif "quiet" in message:
              self._warn(*message["quiet"])
            elif "left" in message:
              selector.unregister(key.fileobj)
              del heard[key.data]
              break
        if time.monotonic() < next_beat:
          continue
        next_beat = time.monotonic() + BEAT_SECONDS
        self._send_all(dict(beat=self.index))
        for index, at in heard.items():
          silent = time.monotonic() - at
          if silent > LOST_SECONDS:
            self._end(index, silent)
          elif silent > self.quiet_seconds and index not in quiet:
            self._send_all(dict(quiet=[index, silent]))
            self._warn(index, silent)
            quiet.add(index)
          elif silent < BEAT_SECONDS:
            quiet.discard(index)

  def _warn(self, index, silent):
    logging.warning(
      "process %d of %d on %s has sent no sign of life for %.0f s: is it stopped, or its machine"
      " overloaded? The others wait for it, %.0f s at most",
      *(index, self.count, self.names[index], silent, LOST_SECONDS),
    )

  def _end(self, gone, silent):
    self._send_all(dict(gone=gone, silent=silent))
    logging.flush()
    what = f"has sent no sign of life for {silent:.0f} s" if silent else "is gone"
    print(
      f"error: process {gone} of {self.count} on {self.names[gone]} {what}, so process"
      f" {self.index} stops. Start all of them again with the same command: the run goes on from"
      " its last checkpoint",
      file=sys.stderr,
      flush=True,
    )
    os._exit(GONE)  # the main thread may wait in a collective that never ends

  def leave(self) -> None:
    """Informs the other processes that this process has finished."""
    self._send_all(dict(left=self.index))

  def _send_all(self, message):
    for connection in self.connections.values():
      with contextlib.suppress(OSError):  # it is gone as well
        _send(connection, message)


def processes(numbers) -> str:
  """Returns "process 1", or "processes 1, 2"."""
  return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _check_same(ours: str, theirs: str, index: int) -> None:
  here, there = (flat(workdir.frozen(json.loads(text))) for text in (ours, theirs))
  differences = [
    f"{key} is {here.get(key)!r} in process 0 and {there.get(key)!r} there"
    for key in sorted({*here, *there})
    if here.get(key) != there.get(key)
  ]
  if differences:
    raise UserError(f"process {index} has another config: {'; '.join(differences)}")


def _send(connection: socket.socket, message: dict) -> None:
  connection.sendall(json.dumps(message).encode() + b"\n")


def _messages(connection: socket.socket) -> list[dict]:
  """Returns the messages that have come, none where the connection is closed or they are not of
  this program. A message is sent, and so comes, whole."""
  try:
    return [json.loads(line) for line in connection.recv(1 << 16).splitlines()]
  except (OSError, ValueError):
    return []


def _read(connection: socket.socket, deadline: float) -> dict:
  """Returns one message, which must be complete by `deadline` (of time.monotonic).

  Raises TimeoutError for an incomplete message, another OSError for a closed connection, and
  ValueError for bytes that are no message.
  """
  parts, size = [], 0
  while not parts or not parts[-1].endswith(b"\n"):
    if (left := deadline - time.monotonic()) <= 0:
      raise TimeoutError
    connection.settimeout(left)
    if not (part := connection.recv(1 << 16, socket.MSG_PEEK)):
      raise ConnectionError("closed")
    part = connection.recv(part.find(b"\n") + 1 or len(part))  # no byte of the next message
    parts.append(part)
    size += len(part)
    if size > MESSAGE_BYTES:
      raise ValueError(f"a message of more than {MESSAGE_BYTES} bytes")
  message = json.loads(b"".join(parts))
  if not isinstance(message, dict):
    raise ValueError("no message")
  return message
