"""Accelerators to plan for: what they can, and their devices without having any."""

import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from train.common.errors import UserError, choose


class Chip(NamedTuple):
  """A chip as its maker tells it; the wire is half of what all its links carry, less 10%."""

  flops: float  # a second, bfloat16, dense
  memory: float  # bytes
  bandwidth: float  # bytes a second, of its memory
  wire: float  # bytes a second and direction, to other chips
  network: float  # bytes a second, of a chip's share of what joins slices or hosts
  slice: int  # chips that a wire joins, at most
  clock: float | None = None  # Hz, of the cycles in XLA's text
  largest: tuple[int, ...] = ()  # a TPU's topologies end there


CHIPS = {
  "v5e": Chip(197e12, 16e9, 819e9, 90e9, 3.125e9, 256, 1.5e9, (16, 16)),
  "v5p": Chip(459e12, 95e9, 2765e9, 270e9, 6.25e9, 6144, 1.75e9, (16, 16, 24)),
  "v6e": Chip(918e12, 32e9, 1640e9, 200e9, 12.5e9, 256, 1.75e9, (16, 16)),
  "h100": Chip(989e12, 80e9, 3350e9, 400e9, 50e9, 8),
  "cpu": Chip(1e11, 24e9, 2e10, 1e10, 1e9, 8),
}
# XLA's GpuTargetConfig of an H100 SXM, from NVIDIA's specification.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 fpus_per_core: 128
  shared_memory_per_block_optin: 232448 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 cuda_compute_capability { major: 9 }
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


# libtpu's environment: there is no TPU to ask about, and several processes may compile at a time.
QUIET = dict(
  TPU_SKIP_MDS_QUERY="1",
  TPU_WORKER_HOSTNAMES="localhost",
  TPU_ACCELERATOR_TYPE="v5litepod-4",
  ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)


class Topology(NamedTuple):
  """Chips of one kind, in the shape they are wired in; several such slices joined by a network."""

  name: str
  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def count(self) -> int:
    return self.slices * math.prod(self.shape)


def parse(text: str, slices: int = 1) -> Topology:
  """Of "v5e:4x4", "h100:8" or "cpu:8"; UserError for what there is not."""
  kind, _, sizes = text.partition(":")
  chip = choose(CHIPS, kind, "--topology")
  if not re.fullmatch(r"\d+(x\d+)*", sizes) or "0" in sizes.split("x"):
    raise UserError(f"--topology {text}: {_known(kind, chip)}")
  shape = tuple(int(size) for size in sizes.split("x"))
  fits = len(shape) == (len(chip.largest) or 1)
  if not fits or any(n > most for n, most in zip(shape, chip.largest)):
    raise UserError(f"--topology {text}: {_known(kind, chip)}")
  if slices < 1 or (slices > 1 and not chip.largest):
    raise UserError(f"--slices {slices}: a TPU has one or more, {kind} has none")
  return Topology(text, chip, shape, slices)


def prepare(topology: Topology) -> None:
  """Makes jax, which must not have started yet, see what `devices` needs, and libtpu be quiet about
  the TPU that is not here."""
  jax.config.update("jax_platforms", "cpu")
  if topology.name.startswith("cpu:"):
    jax.config.update("jax_num_cpu_devices", topology.count)
  for name, value in QUIET.items():
    os.environ.setdefault(name, value)


def _known(kind, chip):
  if chip.largest:
    small = ["2", "2", "1"][: len(chip.largest)]
    return f"known are {kind}:{'x'.join(small)} to {kind}:{'x'.join(map(str, chip.largest))}"
  return f"known are {kind}:1, {kind}:2, ..."


def devices(topology: Topology) -> list:
  """The topology's devices, to compile for; UserError where that takes a package that is not here
  or libtpu knows no such topology."""
  kind = topology.name.partition(":")[0]
  if kind == "cpu":
    here = jax.devices("cpu")
    if len(here) < topology.count:
      raise UserError(
        f"--topology {topology.name}: JAX_NUM_CPU_DEVICES={topology.count} makes them"
      )
    return here[: topology.count]
  try:
    if kind == "h100":
      found = topologies.get_topology_desc(
        platform="cuda",
        topology_name="h100",
        topology=f"1x1x{topology.count}",
        target_config=H100,
      )
    else:
      more = {"num_slices": topology.slices} if topology.slices > 1 else {}
      found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **more)
  except Exception as error:  # jax and its plugins raise what they like
    needs = "cuda" if kind == "h100" else "tpu"
    raise UserError(
      f"--topology {topology.name}: cannot be compiled for here ({str(error).splitlines()[0]});"
      f" is requirements-{needs}.txt installed?"
    ) from error
  return list(found.devices)
