"""Makes the state of a run, weights, optimizer state and step, in its final sharding."""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from train import sharding, starting, teaching
from train.build import build_model
from train.common import trees

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


class Blueprint(NamedTuple):
  """A model's graph and a run's state before it is made, or read from a checkpoint."""

  graph: Any  # the model without its weights
  build: Callable[[Mapping], dict]  # the state before the first step, of weights that are given
  shapes: dict  # the state's leaves, as ShapeDtypeStructs with their shardings

  def make(self, given: Mapping[str, jax.Array] = types.MappingProxyType({})) -> dict:
    """Returns the state before the first step, made sharded: no device holds a whole split weight.

    `given` are weights by path, which are then not drawn; their arrays become the state's.
    """
    place = jax.tree.map(lambda x: x.sharding, self.shapes)
    return jax.jit(self.build, out_shardings=place, donate_argnums=0)(dict(given))


def blueprint(cfg: ConfigDict, task, tx, mesh) -> Blueprint:
  """Returns the blueprint of the state of a run; raises UserError where the mesh cannot hold it."""
  sharding.check(cfg, task, mesh)
  make, graphs = _model_maker(cfg, task, mesh), []

  @jax.jit  # traced once
  def draw():
    graph, params = nnx.split(make())
    graphs.append(graph)
    return nnx.to_pure_dict(params)

  def build(given):
    params = trees.replace(draw(), given)
    return new_state(params, tx, cfg.ema, cfg.spike)

  shapes = jax.eval_shape(build, {})
  return Blueprint(graphs[0], build, sharding.abstract(shapes, sharding.place(shapes, mesh)))


def first_state(cfg: ConfigDict, task, plan: Blueprint) -> dict:
  """Returns the state before a run's first step, with the weights of `init_from`, if any."""
  given = {}
  if cfg.init_from.workdir:
    given = starting.init_from(plan.shapes["params"], task.tokenizer, **cfg.init_from)
  return plan.make(given)


def make_graph(cfg: ConfigDict, task, mesh):
  """Returns the model's graph; nnx.merge makes a model of the graph and weights."""
  return nnx.split(nnx.eval_shape(_model_maker(cfg, task, mesh)))[0]


def _model_maker(cfg, task, mesh):
  def make():
    model = build_model(cfg.model, task, cfg.seed, mesh.devices.flat[0].platform)
    teaching.add_projections(model, cfg)
    return model

  return make


def weights(state):
  """Returns the weights to evaluate and export: their moving average where one is kept."""
  return state["ema"] if "ema" in state else state["params"]
