"""Counts the FLOPs of matrix products in a traced function, with loops multiplied out."""

import math

from jax.extend import core


def count(jaxpr, devices: int = 1) -> int:
  """Returns the FLOPs of all devices together, elementwise operations left out.

  `jaxpr` may be closed. A loop of unknown length counts as one pass, a conditional as its most
  expensive branch, a Pallas kernel as its own cost estimate. The body of a shard_map counts
  `devices` times.
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  return sum(_count_equation(equation, devices) for equation in jaxpr.eqns)


def _count_equation(equation, devices) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    shape, out_shape = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(out_shape) * math.prod(shape[axis] for axis in contracted)
  if name == "pallas_call":
    estimate = params["cost_estimate"]
    return estimate.flops if estimate else 0
  inner = [count(jaxpr, devices) for jaxpr in _inner_jaxprs(params)]
  if name == "scan":
    return params["length"] * sum(inner)
  if name == "cond":
    return max(inner, default=0)
  return sum(inner) * (devices if name == "shard_map" else 1)


def _inner_jaxprs(params):
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else [value]:
      if isinstance(item, (core.ClosedJaxpr, core.Jaxpr)):
        yield item
