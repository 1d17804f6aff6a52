"""Adapters, integers and a teacher together give the same update on every mesh."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from model.transformer import Transformer
from tests.train.helpers import (
  MODEL,
  NO_DROPOUT,
  TASK,
  graph_and_weights,
  mesh_of,
  start,
  uneven_batch,
)
from train import loop, sharding, step
from train.common import trees
from train.compression import lora, quantization
from train.compression.distillation import DISTILL, Distilled
from train.compression.lora import LORA
from train.compression.quantization import QUANTIZE

SGD = optax.sgd(0.5)
ADAPTERS = LORA | dict(rank=2, dropout=0.1, layers=(r"(query|out|up|down)$",), train=())
STORED = QUANTIZE | dict(weights="int4", group=4, stored=True)
AWARE = QUANTIZE | dict(weights="int8")
LAYERS = {"encoder": (0,), "decoder": (0,)}


def built(adapters, rounding):
  """Returns the graph of a model and its weights, made up."""

  def make():
    model = Transformer(dataclasses.replace(MODEL, **NO_DROPOUT), rngs=nnx.Rngs(0))
    if rounding:
      quantization.apply(model, rounding, lora.is_trained(adapters))
    if adapters["rank"]:
      lora.adapt(model, adapters, nnx.Rngs(1))
    return model

  rng = np.random.default_rng(3)

  def value(x):
    if x.dtype.kind in "ui":
      return rng.integers(0, 255, x.shape).astype(x.dtype)
    return (0.1 * rng.normal(size=x.shape) + (x.ndim == 1)).astype(x.dtype)

  graph, state = nnx.split(nnx.eval_shape(make))
  return graph, jax.tree.map(value, nnx.to_pure_dict(state))


@pytest.mark.slow
@pytest.mark.parametrize("where", [((2, 2, 2), "jit"), ((8, 1, 1), "pmap")])
@pytest.mark.parametrize(
  ("adapters", "rounding", "teaches"),
  [
    (ADAPTERS, None, True),
    (ADAPTERS, STORED, False),
    (ADAPTERS, STORED, True),
    (LORA, AWARE, True),
  ],
  ids=["adapters-teacher", "adapters-integers", "all", "aware-teacher"],
)
def test_an_update_is_the_same_on_every_mesh(adapters, rounding, teaches, where):
  graph, weights = built(adapters, rounding)
  is_trained = lora.is_trained(adapters)
  own = trees.keep(weights, is_trained)
  fixed = {"base": trees.keep(weights, lambda path: not is_trained(path))}
  fixed = fixed if fixed["base"] else {}
  objective, batch = TASK, jax.tree.map(lambda x: np.concatenate([x, x]), uneven_batch())
  if teaches:
    teacher, fixed["teacher"] = graph_and_weights(**NO_DROPOUT)
    settings = DISTILL | dict(hidden=0.7, attention=0.5)
    objective = Distilled(TASK, teacher, settings, LAYERS)

  def update(sizes, how):
    mesh = mesh_of(*sizes)
    compute = step.make_train_step(objective, graph, SGD, microbatches=2, seed=0, how=how)
    places = {key: sharding.place(dict(params=x), mesh)["params"] for key, x in fixed.items()}
    with sharding.activation_sharding(mesh):
      state = start(SGD, own, mesh), loop.PUT[how](batch, mesh), jax.device_put(fixed, places)
      state, sums = compute(*state)
    return trees.flatten(jax.device_get(state["params"])), jax.device_get(sums)

  (alone, sums), (spread, sums_spread) = update((1, 1, 1), "jit"), update(*where)
  before = trees.flatten(own)
  assert max(np.abs(alone[name] - before[name]).max() for name in before) > 1e-3
  for name in before:
    np.testing.assert_allclose(spread[name], alone[name], atol=2e-5, err_msg=name)
  for name in sums:
    np.testing.assert_allclose(sums_spread[name], sums[name], rtol=1e-4, err_msg=name)
