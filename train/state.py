"""The state of a run: made sharded, before its first step, and what of it is to be used."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from train import sharding
from train.build import build_model

RECENT = 100  # losses whose median a spike is measured by


def new_state(params, tx, ema: float = 0.0, spike: float = 0.0) -> dict:
  """The state before the first step: with `ema` also the moving average of the weights, with
  `spike` the last losses."""
  state = dict(step=jnp.int32(0), params=params, opt_state=tx.init(params))
  if ema:
    state["ema"] = jax.tree.map(jnp.copy, params)
  if spike:
    state["recent"] = jnp.full(RECENT, jnp.inf)  # half must be losses before one can be a spike
  return state


def init(cfg, task, tx, mesh):
  """The model's graph, and the state born sharded: no device ever holds the whole of it."""
  graph, build, place = blueprint(cfg, task, tx, mesh)
  return graph, jax.jit(build, out_shardings=place)()


def blueprint(cfg, task, tx, mesh):
  """The model's graph, a function that makes the state, and where on the mesh each leaf lies."""
  sharding.check(cfg, task, mesh)
  make = functools.partial(build_model, cfg.model, task, cfg.seed, mesh.devices.flat[0].platform)

  def build():
    params = nnx.to_pure_dict(nnx.state(make()))
    return new_state(params, tx, cfg.ema, cfg.spike)

  return nnx.split(nnx.eval_shape(make))[0], build, sharding.place(jax.eval_shape(build), mesh)


def weights(state):
  """The weights to evaluate and to hand on: their moving average where one is kept."""
  return state["ema"] if "ema" in state else state["params"]
