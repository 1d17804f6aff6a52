"""Makes the state of a run, weights, optimizer state and step, in its final sharding."""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from train import pretrained, sharding, starting, teaching
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
  if cfg.lora.rank:
    lora.check_train(trees.flatten(whole), cfg.lora.train)
  lora.check_rates(trees.flatten(shapes["params"]), cfg.optimizer.rates)
  return Blueprint(graphs[0], build, placed(shapes), placed(dict(params=base))["params"])


def given_weights(cfg: ConfigDict, task, plan: Blueprint) -> tuple[dict, dict]:
  """Returns the weights of `init_from`, if any: path -> array of those that the first state has,
  and the tree of the base, which no update moves.

  Raises UserError where the base would have random weights.
  """
  if not cfg.init_from.workdir:
    return {}, {}
  like = trees.flatten(trees.join(plan.base, plan.shapes["params"]))
  given = taken_weights(cfg, task, like)
  given = {path: sharding.put_weight(weight, like[path]) for path, weight in given.items()}
  base = trees.flatten(plan.base)
  _check_taken(base.keys(), given)
  first = {path: weight for path, weight in given.items() if path not in base}
  return first, trees.replace(plan.base, given)


def taken_weights(cfg: ConfigDict, task, like: Mapping) -> dict:
  """Returns path -> weight of those of `init_from` that are in the run's model, whose weights are
  `like`; as integers what the run's config stores so (QLoRA)."""
  origin, new = cfg.init_from.workdir, f"{lora.NEW}|^distill/"
  if not cfg.quantize.stored:
    return starting.init_from(like, task.tokenizer, **cfg.init_from, new=new)
  if pretrained.quantized(pretrained.open(origin)).get("stored"):
    raise UserError(
      f"quantize.stored: {origin} holds integers already, and rounding twice errs twice: name the"
      " run that it was made of (init_from.workdir)"
    )
  model = nnx.eval_shape(lambda: build_model(cfg.model, task, cfg.seed))
  like = trees.flatten(nnx.to_pure_dict(nnx.state(model)))
  floats = starting.init_from(like, task.tokenizer, **cfg.init_from, new=new)
  trained = lora.is_trained(cfg.lora)
  _check_taken({path for path in like if not trained(path)}, floats)
  return quantization.store(model, cfg.quantize, floats, leave=trained).weights


def _check_taken(base, given) -> None:
  """Raises UserError where a weight of the base (paths) would be random."""
  if random := sorted(base - given.keys()):
    raise UserError(
      f"lora.train: {random[0]} is neither taken from init_from.workdir nor trained: add a pattern"
      " for it"
    )


def first_state(cfg: ConfigDict, task, plan: Blueprint) -> dict:
  """Returns the state before a run's first step, with the weights of `init_from`, if any."""
  return plan.make(given_weights(cfg, task, plan)[0])


def make_graph(cfg: ConfigDict, task, mesh):
  """Returns the model's graph; nnx.merge makes a model of the graph and weights."""
  return nnx.split(nnx.eval_shape(_model_maker(cfg, task, mesh)))[0]


def _model_maker(cfg, task, mesh):
  def make():
    model = changed_model(cfg, task, mesh)
    teaching.add_projections(model, cfg)
    return model

  return make


def changed_model(cfg: ConfigDict, task, mesh) -> nnx.Module:
  """Builds the model of a run, with rounded weights or integers and adapters as its config says."""
  model = build_model(cfg.model, task, cfg.seed, mesh.devices.flat[0].platform)
  if cfg.quantize.weights:
    kept = lora.is_trained(cfg.lora) if cfg.lora.rank else quantization.none
    quantization.apply(model, cfg.quantize, kept)
  if cfg.lora.rank:
    lora.adapt(model, cfg.lora, nnx.Rngs(cfg.seed))
  return model


def weights(state, base: Mapping = types.MappingProxyType({})) -> dict:
  """Returns the weights to evaluate and export: their moving average where one is kept, and the
  `base`, which no update moves."""
  return trees.join(base, state["ema"] if "ema" in state else state["params"])
