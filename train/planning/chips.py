"""Lists the accelerators a step can be planned for, with their peak rates, and makes their devices
for ahead-of-time compilation where no such accelerator is installed."""

import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from train.common.errors import UserError, choose
from train.common.flops import PEAKS


class Chip(NamedTuple):
  """A chip's data sheet; `wire` is one direction of all its links together, less 10%."""

  flops: float  # a second, bfloat16, dense
  memory: float  # bytes
  bandwidth: float  # bytes a second, of its memory
  wire: float  # bytes a second and direction, to other chips
  network: float  # bytes a second: a chip's share of the network between slices or hosts
  slice: int  # largest number of chips joined by `wire`
  clock: float | None = None  # Hz, of the cycles in XLA's text; None: XLA estimates no cycles
  largest: tuple[int, ...] = ()  # a TPU's largest topology; (): any number of chips in a row


CHIPS = {
  "v5e": Chip(PEAKS["v5e"].flops, 16e9, 819e9, 90e9, 3.125e9, 256, 1.5e9, (16, 16)),
  "v5p": Chip(PEAKS["v5p"].flops, 95e9, 2765e9, 270e9, 6.25e9, 6144, 1.75e9, (16, 16, 24)),
  "v6e": Chip(PEAKS["v6e"].flops, 32e9, 1640e9, 200e9, 12.5e9, 256, 1.75e9, (16, 16)),
  "h100": Chip(PEAKS["h100"].flops, 80e9, 3350e9, 400e9, 50e9, 8),
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
# Keeps libtpu from searching for a TPU, and lets several processes compile at the same time.
LIBTPU_ENV = dict(
  TPU_SKIP_MDS_QUERY="1",
  TPU_WORKER_HOSTNAMES="localhost",
  TPU_ACCELERATOR_TYPE="v5litepod-4",
  ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)


class Topology(NamedTuple):
  """Chips of one kind in the shape of their wiring; several such slices share a network."""

  name: str
  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def count(self) -> int:
    """Returns the number of chips of all slices."""
    return self.slices * math.prod(self.shape)


def parse(text: str, slices: int = 1) -> Topology:
  """Parses "v5e:4x4", "h100:8" or "cpu:8"; raises UserError for an unknown topology."""
  kind, _, sizes = text.partition(":")
  chip = choose(CHIPS, kind, "--topology")
  shape = tuple(map(int, sizes.split("x"))) if re.fullmatch(r"\d+(x\d+)*", sizes) else (0,)
  limits = chip.largest or (math.inf,)
  if len(shape) != len(limits) or not all(1 <= n <= limit for n, limit in zip(shape, limits)):
    known = f"{kind}:1, {kind}:2, ..."
    if chip.largest:
      smallest = ("2x2", "2x2x1")[len(chip.largest) - 2]
      known = f"{kind}:{smallest} to {kind}:{'x'.join(map(str, chip.largest))}"
    raise UserError(f"--topology {text}: known are {known}")
  if slices < 1 or (slices > 1 and not chip.largest):
    raise UserError(f"--slices {slices}: a TPU has one or more, {kind} has none")
  return Topology(text, chip, shape, slices)


def prepare(topology: Topology) -> None:
  """Sets jax and libtpu up for `devices`; must be called before jax starts its backend."""
  jax.config.update("jax_platforms", "cpu")
  if topology.name.startswith("cpu:"):
    jax.config.update("jax_num_cpu_devices", topology.count)
  for name, value in LIBTPU_ENV.items():
    os.environ.setdefault(name, value)


def devices(topology: Topology) -> list:
  """Returns the topology's devices, to compile for.

  Raises UserError where the compiler's package is not installed or does not know the topology.
  """
  kind = topology.name.partition(":")[0]
  if kind == "cpu":
    available = jax.devices("cpu")
    if len(available) < topology.count:
      raise UserError(
        f"--topology {topology.name}: jax has {len(available)} CPU devices; set"
        f" JAX_NUM_CPU_DEVICES={topology.count}"
      )
    return available[: topology.count]
  gpu = kind == "h100"
  if gpu:
    arguments = dict(
      platform="cuda", topology_name="h100", topology=f"1x1x{topology.count}", target_config=H100
    )
  else:
    arguments = dict(platform="tpu", topology_name=topology.name)
    if topology.slices > 1:
      arguments["num_slices"] = topology.slices
  try:
    return list(topologies.get_topology_desc(**arguments).devices)
  except Exception as error:  # jax and its plugins raise various types
    raise UserError(
      f"--topology {topology.name}: cannot be compiled for here ({str(error).splitlines()[0]});"
      f" is requirements-{'cuda' if gpu else 'tpu'}.txt installed?"
    ) from error
