"""--debug_nans tells where: a weight is made infinite, and found."""

import re

import jax
import numpy as np
import optax
import pytest
from test_step import NO_DROPOUT, TASK, batch, graph_and_weights, start  # noqa: F401

from train import nans, step
from train.common.errors import UserError
from train.common.trees import path_name


def changed(params, name, value):
  def change(path, x):
    return np.full_like(x, value) if path_name(path) == name else x

  return jax.tree_util.tree_map_with_path(change, params)


def test_the_first_nan_is_named_with_the_lines_that_led_there(batch):  # noqa: F811
  graph, params = graph_and_weights(**NO_DROPOUT)
  params = changed(params, "decoder/blocks/0/mlp/up/kernel", np.inf)
  train_step = step.make_train_step(TASK, graph, optax.sgd(0.1), microbatches=1, seed=0)
  watched = nans.watch(train_step, TASK, graph, seed=0)
  with pytest.raises(UserError) as error:
    watched(start(optax.sgd(0.1), params), batch)
  told = str(error.value)
  assert told.startswith("step 1: dot_general made the first NaN")
  assert re.search(r"model/layers.py line \d+: FeedForward.__call__", told)
  assert "site-packages" not in told


class Steep:
  """A task whose gradient is finite and too large to be squared."""

  def loss(self, model, batch, keys_B):  # noqa: F811
    kernel = model.decoder.norm.scale[...]
    return {"loss": (1e25 * kernel.sum(), jax.numpy.float32(1.0))}


def test_without_a_nan_it_tells_what_is_infinite(batch):  # noqa: F811
  graph, params = graph_and_weights(**NO_DROPOUT)
  train_step = step.make_train_step(Steep(), graph, optax.sgd(0.0), microbatches=1, seed=0)
  sums = train_step(start(optax.sgd(0.0), params), batch)[1]
  assert sums["skipped"][0]
  told = nans.find(Steep(), graph, params, batch, seed=0, step=0)
  assert told.startswith("no operation made a NaN; the loss is ")
  assert told.endswith("the norm of the gradient overflows")


def test_sound_steps_go_through(batch):  # noqa: F811
  graph, params = graph_and_weights(**NO_DROPOUT)
  plain = step.make_train_step(TASK, graph, optax.sgd(0.1), microbatches=1, seed=0)
  one = plain(start(optax.sgd(0.1), params), batch)
  other = nans.watch(plain, TASK, graph, seed=0)(start(optax.sgd(0.1), params), batch)
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((one, other)))
