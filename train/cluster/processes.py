"""Several processes as one run: they meet, agree on the config, and each learns when one is gone.

jax knows how to start processes together, but it says nothing of who is missing, and when one dies
the others end in a C++ stack after a minute or two. So they meet first (rendezvous.py).
"""

import argparse
import collections
import contextlib
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from train.cluster import rendezvous
from train.common.errors import UserError

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
  the others say which and exit with meeting.GONE.
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
  with rendezvous.Meeting(host, port + 1, args.process_count, args.process_index) as others:
    others.gather(config, args.start_timeout)
    with _told():
      jax.distributed.initialize(
        args.coordinator,
        args.process_count,
        args.process_index,
        initialization_timeout=args.start_timeout,
      )
    others.watch()
    yield
    others.leave()
    jax.distributed.shutdown()


def wait_for_all(what: str) -> None:
  """Returns when all processes have come to this call."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


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
    raise UserError(
      f"{rendezvous.processes(other)} of {len(digests)}: another config than process 0's"
    )


class Vote:
  """The largest number any process says: the same answer at the same call in all of them, LAG calls
  late.

  Ctrl-C reaches processes in different steps, and all have to save the same one.
  """

  def __init__(self, mesh):
    self.mesh = mesh
    self.asked: collections.deque[jax.Array] = collections.deque()
    self.most = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

  def __call__(self, number: int) -> int:
    if jax.process_count() == 1:
      return number
    shape, split = (self.mesh.size,), NamedSharding(self.mesh, P(self.mesh.axis_names))
    votes = jax.make_array_from_callback(
      shape, split, lambda index: np.full(shape, number, np.int32)[index]
    )
    self.asked.append(self.most(votes))
    return int(self.asked.popleft()) if len(self.asked) > LAG else 0
