"""Counts the FLOPs of matrix products in a traced function, and lists the peaks of devices."""

import math
import re
from typing import NamedTuple

from jax.extend import core


class Peak(NamedTuple):
  """A device's largest FLOP/s (bfloat16, dense, by its maker), and what jax calls the device."""

  flops: float
  device_kind: str  # a pattern


PEAKS = {
  "v4": Peak(275e12, "TPU v4"),
  "v5e": Peak(197e12, "TPU v5 lite|TPU v5e"),
  "v5p": Peak(459e12, "TPU v5p?"),
  "v6e": Peak(918e12, "TPU v6 lite|TPU v6e"),
  "a100": Peak(312e12, ".*A100.*"),
  "h100": Peak(989e12, "NVIDIA H100 80GB HBM3|NVIDIA H200"),  # SXM; they differ in memory alone
  "b200": Peak(2250e12, "NVIDIA B200"),
}


def peak_of(device_kind: str) -> float | None:
  """Returns the FLOP/s of a kind of device in PEAKS, None for any other."""
  kinds = (peak.flops for peak in PEAKS.values() if re.fullmatch(peak.device_kind, device_kind))
  return next(kinds, None)


def count(jaxpr, devices: int = 1) -> int:
  """Returns the FLOPs of all devices together, without those of elementwise operations.

  `jaxpr` may be closed. A loop of unknown length counts as one pass, a branch as its most expensive
  side, and a kernel as its own cost estimate. The body of a shard_map counts for each of `devices`.
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  return sum(_count_equation(equation, devices) for equation in jaxpr.eqns)


def _count_equation(equation, devices) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    size = math.prod(equation.outvars[0].aval.shape)
    return 2 * size * math.prod(shape[axis] for axis in contracted)
  if name == "pallas_call":
    estimate = params["cost_estimate"]
    return estimate.flops if estimate else 0
  inner = [count(jaxpr, devices) for jaxpr in core.jaxprs_in_params(params)]
  if name == "scan":
    return params["length"] * sum(inner)
  if name == "cond":
    return max(inner, default=0)
  return sum(inner) * (devices if name == "shard_map" else 1)
