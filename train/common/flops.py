"""Multiplications and additions of matrix products in a traced function, loops multiplied out."""

import math

from jax.extend import core


def count(jaxpr, devices: int = 1) -> int:
  """FLOPs of all devices together; what elementwise operations do is left out.

  `jaxpr` may be closed. Of a loop of unknown length one pass counts, of branches the dearest; a
  kernel counts as it estimates itself. `devices` run what is inside of a shard_map.
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  return sum(_of(eqn, devices) for eqn in jaxpr.eqns)


def _of(eqn, devices) -> int:
  name, params = eqn.primitive.name, eqn.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
  if name == "pallas_call":
    estimate = params["cost_estimate"]
    return estimate.flops if estimate else 0
  inner = [count(one, devices) for one in _jaxprs(params)]
  if name == "scan":
    return params["length"] * sum(inner)
  if name == "cond":
    return max(inner, default=0)
  return sum(inner) * (devices if name == "shard_map" else 1)


def _jaxprs(params):
  for value in params.values():
    for one in value if isinstance(value, (tuple, list)) else [value]:
      if isinstance(one, (core.ClosedJaxpr, core.Jaxpr)):
        yield one
