"""Makes the state of a run, weights, optimizer state and step, in its final sharding."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from train import sharding
from train.build import build_model

RECENT = 100  # losses whose median is compared with a spike


def new_state(params, tx, ema: float = 0.0, spike: float = 0.0) -> dict:
  """Returns the state before the first step.

  With `ema` it holds the moving average of the weights, with `spike` the last RECENT losses.
  """
  state = dict(step=jnp.int32(0), params=params, opt_state=tx.init(params))
  if ema:
    state["ema"] = jax.tree.map(jnp.copy, params)
  if spike:
    # Infinite, so that no loss is a spike before half of them are losses.
    state["recent"] = jnp.full(RECENT, jnp.inf)
  return state


def init(cfg: ConfigDict, task, tx, mesh):
  """Returns the model's graph and the state, made sharded: no device holds a whole split weight."""
  graph, build, place = blueprint(cfg, task, tx, mesh)
  return graph, jax.jit(build, out_shardings=place)()


def blueprint(cfg: ConfigDict, task, tx, mesh):
  """Returns the model's graph, a function that builds the state, and the sharding of each leaf."""
  sharding.check(cfg, task, mesh)
  make, graphs = _model_maker(cfg, task, mesh), []

  def build():
    graph, params = nnx.split(make())
    graphs.append(graph)
    return new_state(nnx.to_pure_dict(params), tx, cfg.ema, cfg.spike)

  place = sharding.place(jax.eval_shape(build), mesh)
  return graphs[0], build, place


def make_graph(cfg: ConfigDict, task, mesh):
  """Returns the model's graph; nnx.merge makes a model of the graph and weights."""
  return nnx.split(nnx.eval_shape(_model_maker(cfg, task, mesh)))[0]


def _model_maker(cfg, task, mesh):
  return functools.partial(build_model, cfg.model, task, cfg.seed, mesh.devices.flat[0].platform)


def weights(state):
  """Returns the weights to evaluate and export: their moving average where one is kept."""
  return state["ema"] if "ema" in state else state["params"]
