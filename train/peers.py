"""Several processes as one run: they meet, agree on the config, and each learns when one is gone.

jax knows how to start processes together, but it says nothing of who is missing, and when one dies
the others end in a C++ stack after a minute or two. So they meet here first, at a socket of process
0 that stays open as long as the run: when a process is gone, the system closes its end at once.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import selectors
import socket
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from train import flags, workdir
from train.errors import UserError

GONE = 75  # exit status of a process whose peer is gone; sysexits.h's "try again later"
LONGEST = 1 << 24  # bytes of a message: a config, and then some
POLL_SECONDS = 0.2  # between two attempts to reach process 0
LAG = 2  # steps that a vote may take: nobody waits for the step that has just begun


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """How the processes of a run find each other."""
  group = parser.add_argument_group("several processes")
  group.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="where process 0 is; that port and the next are used. `auto`: from the environment of"
    " SLURM, GKE, Cloud TPU or Open MPI, as jax reads it",
  )
  group.add_argument("--process_count", type=int, help="how many there are")
  group.add_argument("--process_index", type=int, help="which this one is, from 0")
  group.add_argument(
    "--start_timeout", type=int, default=300, help="seconds to wait for the others"
  )


@contextlib.contextmanager
def together(args, config: str):
  """All processes of a run, inside of jax's distributed runtime; alone without --coordinator.

  `config` is the config's JSON and has to be the same everywhere. Raises UserError where arguments
  are missing, a process does not come in time or has another config. When a process is gone later,
  the others say which and exit with GONE.
  """
  if args.coordinator is None:
    if (args.process_count, args.process_index) != (None, None):
      raise UserError("--process_count and --process_index need --coordinator=HOST:PORT")
    yield
    return
  # the CPU has no collectives of its own between processes
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  if args.coordinator == "auto":
    with _told():
      jax.distributed.initialize(initialization_timeout=args.start_timeout)
    _check_digests(config)
    yield
    return
  host, port = _address(args)
  with Meeting(host, port + 1, args.process_count, args.process_index) as meeting:
    meeting.gather(config, args.start_timeout)
    with _told():
      jax.distributed.initialize(
        args.coordinator,
        args.process_count,
        args.process_index,
        initialization_timeout=args.start_timeout,
      )
    meeting.watch()
    yield
    meeting.leave()
    jax.distributed.shutdown()


def _address(args) -> tuple[str, int]:
  host, _, port = args.coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise UserError(f"--coordinator {args.coordinator}: HOST:PORT of process 0, or auto")
  count, index = args.process_count, args.process_index
  if count is None or index is None:
    raise UserError("--coordinator=HOST:PORT needs --process_count and --process_index")
  if not 0 <= index < count:
    raise UserError(
      f"--process_index {index}: from 0 to {count - 1}, as --process_count is {count}"
    )
  return host.strip("[]"), int(port)


@contextlib.contextmanager
def _told():
  try:
    yield
  except (RuntimeError, ValueError) as error:
    raise UserError(f"jax.distributed: {error}") from error


def _check_digests(config: str) -> None:
  """UserError where a process has another config than process 0."""
  digest = np.frombuffer(hashlib.sha256(config.encode()).digest(), np.uint8)
  digests = multihost_utils.process_allgather(digest).reshape(-1, len(digest))
  if other := np.flatnonzero((digests != digests[0]).any(1)).tolist():
    raise UserError(f"{_processes(other)} of {len(digests)}: another config than process 0's")


class Vote:
  """Whether any process says yes: the same answer at the same call in all of them, LAG calls late.

  Ctrl-C reaches processes in different steps, and all have to save the same one.
  """

  def __init__(self):
    self.mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    self.asked: collections.deque[jax.Array] = collections.deque()
    self.any = jax.jit(jnp.any, out_shardings=NamedSharding(self.mesh, P()))

  def __call__(self, yes: bool) -> bool:
    if jax.process_count() == 1:
      return yes
    shape, split = (self.mesh.size,), NamedSharding(self.mesh, P("all"))
    votes = jax.make_array_from_callback(shape, split, lambda index: np.full(shape, yes)[index])
    self.asked.append(self.any(votes))
    return len(self.asked) > LAG and bool(self.asked.popleft())


class Meeting:
  """Process 0 and a line to each of the others."""

  def __init__(self, host: str, port: int, count: int, index: int):
    self.host, self.port, self.count, self.index = host, port, count, index
    self.lines: dict[int, socket.socket] = {}  # by process; of the others only 0
    self.names: dict[int, str] = {}
    self.left: set[int] = set()

  def __enter__(self):
    return self

  def __exit__(self, *error):
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
          line.settimeout(max(deadline - time.monotonic(), 0.001))
          said = _read(line)
          index, count, host, theirs = (said[key] for key in ("index", "count", "host", "config"))
        except TimeoutError:
          missing = sorted(set(range(self.count)) - {0, *self.lines})
          raise UserError(
            f"{_processes(missing)} of {self.count} did not come to {self.host}:{self.port} within"
            f" {timeout:.0f} s (--start_timeout)"
          ) from None
        except (OSError, ValueError, KeyError):  # a stranger, or one that has gone already
          continue
        if count != self.count or index not in range(1, self.count):
          _send(line, dict(error=f"process 0 has --process_count={self.count}"))
          line.close()
          continue
        if index in self.lines:
          _send(line, dict(error=f"there is a process {index} already"))
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


def _processes(numbers) -> str:
  return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _check_same(ours: str, theirs: str, index: int) -> None:
  here, there = (flags.flat(workdir.frozen(json.loads(text))) for text in (ours, theirs))
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
