"""Joins several processes to one run: they agree on the config, and stop when one of them dies.

The processes meet at a socket of their own before jax's (rendezvous.py). jax names no process that
is missing, and after a death its heartbeats (`heartbeat_timeout_seconds`, 100 s) end the others in
a C++ stack without a name; the socket names the process within a second.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint.multihost import get_barrier_sync_fn

from train.cluster import rendezvous
from train.common.errors import UserError, as_user_error

LAG = 2  # steps until a vote is read, so that no host waits for the step that has just begun


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags by which the processes of a run find each other."""
  add = parser.add_argument_group("several processes").add_argument
  add(
    "--coordinator",
    metavar="HOST:PORT",
    help="the address of process 0; that port and the next are used. `auto`: from the environment"
    " of SLURM, GKE, Cloud TPU or Open MPI, as jax reads it",
  )
  add("--process_count", type=int, help="the number of processes")
  add("--process_index", type=int, help="the number of this process, from 0")
  add("--start_timeout", type=int, default=300, help="seconds to wait for the others")


@contextlib.contextmanager
def together(args, config: str, watchdog_seconds: float = 0.0):
  """Joins the processes of a run in jax's distributed runtime, if --coordinator is given.

  `config` is the config's JSON, the same in all processes. A process that hangs is named within
  `watchdog_seconds` (0: rendezvous.QUIET_SECONDS). Raises UserError where arguments are
  missing, and where a process does not come in time or has another config. When a process dies
  later, the others name it and exit with rendezvous.GONE.
  """
  if args.coordinator is None:
    if (args.process_count, args.process_index) != (None, None):
      raise UserError("--process_count and --process_index need --coordinator=HOST:PORT")
    yield
    return
  timeout = args.start_timeout
  wait_for_all.seconds = timeout
  # XLA's CPU backend has no collectives of its own between processes.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  if args.coordinator == "auto":
    with as_user_error("jax.distributed", RuntimeError, ValueError):
      jax.distributed.initialize(initialization_timeout=timeout)
    _check_digests(config)
    yield
    return
  host, port = _address(args)
  with rendezvous.Rendezvous(host, port + 1, args.process_count, args.process_index) as others:
    others.gather(config, timeout)
    with as_user_error("jax.distributed", RuntimeError, ValueError):
      jax.distributed.initialize(
        args.coordinator, args.process_count, args.process_index, initialization_timeout=timeout
      )
    others.watch(min(watchdog_seconds or math.inf, rendezvous.QUIET_SECONDS))
    yield
    others.leave()
    jax.distributed.shutdown()


@dataclasses.dataclass
class Barrier:
  """Lets processes wait for each other by jax's coordination service, without a collective."""

  seconds: int = 300
  passed: int = 0

  def __call__(self, what: str) -> None:
    """Returns when all processes have come here, after `what`; raises UserError after `seconds`."""
    if jax.process_count() == 1:
      return
    self.passed += 1
    with as_user_error(f"{what}: not by all processes in {self.seconds} s", RuntimeError):
      get_barrier_sync_fn()(key=f"{what} {self.passed}", timeout_ms=1000 * self.seconds)


wait_for_all = Barrier()  # `together` sets its seconds


def gather(value: Any) -> list:
  """Returns each process's value, which JSON can hold, in the order of the processes."""
  if jax.process_count() == 1:
    return [value]
  content = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.asarray([len(content)])).reshape(-1)
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: len(content)] = content
  rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
  return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes)]


def compiled_by_all(function):
  """Returns a jitted function that CPU processes run when all of them have compiled it.

  Gloo, which joins them, waits 30 s for the others. Compilation may differ by more, as only
  process 0 reads programs from jax's cache: its keys for a CPU differ by process, and no other
  process writes.
  """
  if jax.process_count() == 1 or jax.default_backend() != "cpu":
    return function
  compiled = set()

  @functools.wraps(function)
  def call(*args, **kwargs):
    leaves, structure = jax.tree.flatten(args)
    kinds = ((getattr(x, "shape", x), getattr(x, "dtype", None)) for x in leaves)
    key = (structure, str(kwargs), *kinds)
    if key not in compiled:
      function.lower(*args, **kwargs).compile()
      compiled.add(key)
      wait_for_all("compiled a program")
    return function(*args, **kwargs)

  call.lower, call.trace = function.lower, function.trace
  return call


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


def _check_digests(config: str) -> None:
  """Raises UserError where a process has another config than process 0."""
  digest = np.frombuffer(hashlib.sha256(config.encode()).digest(), np.uint8)
  digests = multihost_utils.process_allgather(digest).reshape(-1, len(digest))
  if other := np.flatnonzero((digests != digests[0]).any(1)).tolist():
    raise UserError(
      f"{rendezvous.processes(other)} of {len(digests)}: the config is not that of process 0"
    )


class Vote:
  """The maximum of a number over all processes, as it was LAG calls ago.

  Ctrl-C reaches processes in different steps. With a vote all processes save after the same step.
  """

  def __init__(self, mesh):
    self.mesh = mesh
    self.pending: collections.deque[jax.Array] = collections.deque()
    self.maximum = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

  def __call__(self, number: int) -> int:
    """Votes `number`, and returns the maximum of an earlier vote, 0 in the first LAG calls."""
    if jax.process_count() == 1:
      return number
    shape, split = (self.mesh.size,), NamedSharding(self.mesh, P(self.mesh.axis_names))
    votes = jax.make_array_from_callback(
      shape, split, lambda index: np.full(shape, number, np.int32)[index]
    )
    self.pending.append(self.maximum(votes))
    return int(self.pending.popleft()) if len(self.pending) > LAG else 0
