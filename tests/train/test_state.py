"""Tests that a run's first state has the weights that are given, and draws the others as ever."""

import jax
import numpy as np
import pytest

from train import optimizer, pretrained, resolve, sharding
from train.common.trees import flatten
from train.state import blueprint


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
  cfg = resolve.load("configs/scan.py:small", ["ema=0.9", "spike=3.0"])
  task = pretrained.build_task(cfg.task, tmp_path_factory.mktemp("task"))
  tx, _ = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
  return blueprint(cfg, task, tx, sharding.make_mesh(cfg.mesh))


def test_given_weights_are_taken_and_the_others_drawn_as_without_them(plan):
  drawn = plan.make()
  names = sorted(flatten(drawn["params"]))
  given = {name: np.full_like(flatten(drawn["params"])[name], 0.5) for name in names[::2]}
  began = plan.make({name: jax.device_put(x) for name, x in given.items()})
  weights, averages = flatten(began["params"]), flatten(began["ema"])
  for name, expected in (flatten(drawn["params"]) | given).items():
    np.testing.assert_array_equal(weights[name], expected)
    np.testing.assert_array_equal(averages[name], expected)
  others = drawn.keys() - {"params", "ema"}
  assert others == {"step", "opt_state", "recent"}
  jax.tree.map(
    np.testing.assert_array_equal, *({key: x[key] for key in others} for x in (drawn, began))
  )


def test_shapes_are_those_of_the_state(plan):
  def kind(x):
    return x.shape, x.dtype, x.sharding

  assert jax.tree.map(kind, plan.shapes) == jax.tree.map(kind, plan.make())
