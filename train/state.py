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
from train.common.errors import UserError
from train.compression import lora, quantization

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
  base: dict  # the same of the model's weights that the state lacks, as no update moves them

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

  trained = lora.is_trained(cfg.lora)

  def build(given):
    params = trees.keep(trees.replace(draw(), given), trained)
    return new_state(params, tx, cfg.ema, cfg.spike)

  def placed(shapes):
    return sharding.abstract(shapes, sharding.place(shapes, mesh))

  shapes, whole = jax.eval_shape(build, {}), jax.eval_shape(draw)
  base = trees.keep(whole, lambda path: not trained(path))
  lora.check_rates(trees.flatten(shapes["params"]), cfg.optimizer.rates)
  return Blueprint(graphs[0], build, placed(shapes), placed(dict(params=base))["params"])


def given_weights(cfg: ConfigDict, task, plan: Blueprint) -> tuple[dict, dict]:
  """Returns the weights of `init_from`, if any: path -> array of those that the first state has,
  and the tree of the base, which no update moves.

  Raises UserError where the base would have random weights.
  """
  if not cfg.init_from.workdir:
    return {}, {}
  like = trees.join(plan.base, plan.shapes["params"])
  given = starting.init_from(like, task.tokenizer, **cfg.init_from, new=f"{lora.NEW}|^distill/")
  base = trees.flatten(plan.base)
  if random := sorted(base.keys() - given.keys()):
    raise UserError(
      f"lora.train: {random[0]} is neither taken from init_from.workdir nor trained: add a pattern"
      " for it"
    )
  first = {path: weight for path, weight in given.items() if path not in base}
  return first, trees.replace(plan.base, given)


def first_state(cfg: ConfigDict, task, plan: Blueprint) -> dict:
  """Returns the state before a run's first step, with the weights of `init_from`, if any."""
  return plan.make(given_weights(cfg, task, plan)[0])


def make_graph(cfg: ConfigDict, task, mesh):
  """Returns the model's graph; nnx.merge makes a model of the graph and weights."""
  return nnx.split(nnx.eval_shape(_model_maker(cfg, task, mesh)))[0]


def _model_maker(cfg, task, mesh):
  def make():
    model = build_model(cfg.model, task, cfg.seed, mesh.devices.flat[0].platform)
    teaching.add_projections(model, cfg)
    if cfg.quantize.weights:
      quantization.apply(model, cfg.quantize)
    if cfg.lora.rank:
      lora.adapt(model, cfg.lora, nnx.Rngs(cfg.seed))
    return model

  return make


def weights(state, base: Mapping = types.MappingProxyType({})) -> dict:
  """Returns the weights to evaluate and export: their moving average where one is kept, and the
  `base`, which no update moves."""
  return trees.join(base, state["ema"] if "ema" in state else state["params"])
