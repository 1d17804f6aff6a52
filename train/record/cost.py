"""Measures what training costs: the share of the devices' peak that it reaches, and memory."""

import contextlib
import functools
import json
import os
import platform
import resource
import timeit
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from absl import logging

from train.common import flops, json_files
from train.common.errors import UserError
from train.common.files import cache_dir, write_atomically

SIZE, REPEATS = 1024, 10  # of the matrix product that measures a CPU: 0.3 s on two cores


class Cost:
  """Model FLOPs utilization (MFU) and peak memory of a run, for its log lines."""

  def __init__(self, forward_flops: Callable[[], int], devices: Sequence[jax.Device]):
    """Takes `forward_flops`, which counts the FLOPs of a forward pass and is called once."""
    self.forward_flops, self.devices, self.measured_again = forward_flops, devices, False

  def __call__(self, step_ms: float) -> dict[str, float]:
    """Returns `mfu` where the devices' peak is known, and the memory as `peak_memory` does.

    MFU is three times the forward FLOPs over what the devices could compute in `step_ms` (Chowdhery
    et al. 2022, PaLM, appendix B). On a CPU it is the share of what XLA's matrix product reaches.
    """
    if self.peak is None:
      return peak_memory()
    achieved = self.flops / (step_ms / 1000)
    if achieved > self.peak and self.devices[0].platform == "cpu" and not self.measured_again:
      self.measured_again = True  # the machine was busy when its rate was measured
      self.peak = cpu_peak(again=True) * jax.process_count()
    return {"mfu": achieved / self.peak, **peak_memory()}

  @functools.cached_property
  def flops(self) -> int:
    """Returns the FLOPs of a training step, without those that rematerialization repeats."""
    return 3 * self.forward_flops()

  @functools.cached_property
  def peak(self) -> float | None:
    """Returns the FLOP/s of all devices together, or None for an unknown accelerator."""
    device = self.devices[0]
    if device.platform == "cpu":
      return cpu_peak() * jax.process_count()
    if peak := flops.peak_of(device.device_kind):
      return peak * len(self.devices)
    logging.info("no mfu: train/common/flops.py has no peak for %s", device.device_kind)
    return None


def cpu_peak(again: bool = False) -> float:
  """Returns the FLOP/s of XLA's float32 matrix product on this machine's cores.

  The rate is measured once and kept in the cache folder; `again` measures and keeps it anew.
  """
  cores = len(os.sched_getaffinity(0))
  file = cache_dir("speed") / f"{platform.node()}-{cores}-cores.json"
  if file.exists() and not again:
    with contextlib.suppress(UserError, KeyError):  # damaged: it is measured
      return float(json_files.read(file, dict[str, float])["matmul_flops"])
  product, x = jax.jit(jnp.matmul), jnp.ones((SIZE, SIZE), jnp.float32)
  seconds = timeit.repeat(  # the first one compiles
    lambda: product(x, x).block_until_ready(), number=1, repeat=REPEATS + 1
  )
  rate = 2 * SIZE**3 / min(seconds)
  write_atomically(file, json.dumps({"matmul_flops": rate}) + "\n")
  return rate


def peak_memory() -> dict[str, float]:
  """Returns `host_memory_gb`, this process's peak, and `device_memory_gb`, that of the fullest
  local device, where the backend reports one (a CPU's does not)."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
  on_devices = {"device_memory_gb": max(peaks) / 1e9} if peaks else {}
  kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux's unit
  return on_devices | {"host_memory_gb": kibibytes * 1024 / 1e9}
