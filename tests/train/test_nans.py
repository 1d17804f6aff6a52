"""--debug_nans names the operation: a weight is made infinite, and found."""

import re

import jax
import numpy as np
import optax
import pytest

from tests.train.helpers import NO_DROPOUT, TASK, graph_and_weights, start
from train import nans, step
from train.common.errors import UserError
from train.common.trees import path_name


def replace_weight(params, name, value):
  def change(path, x):
    return np.full_like(x, value) if path_name(path) == name else x

  return jax.tree_util.tree_map_with_path(change, params)


def test_the_first_nan_is_named_with_the_lines_that_led_there(batch):
  graph, params = graph_and_weights(**NO_DROPOUT)
  params = replace_weight(params, "decoder/blocks/0/mlp/up/kernel", np.inf)
  train_step = step.make_train_step(TASK, graph, optax.sgd(0.1), microbatches=1, seed=0)
  watched = nans.watch(train_step, TASK, graph, seed=0)
  with pytest.raises(UserError) as error:
    watched(start(optax.sgd(0.1), params), batch)
  message = str(error.value)
  assert message.startswith("step 1: dot_general made the first NaN")
  assert re.search(r"model/layers.py line \d+: FeedForward.__call__", message)
  assert "site-packages" not in message


class Steep:
  """A task whose gradient is finite and too large to be squared."""

  def loss(self, model, batch, keys_B):
    kernel = model.decoder.norm.scale[...]
    return {"loss": (1e25 * kernel.sum(), jax.numpy.float32(1.0))}


def test_without_a_nan_what_is_infinite_is_named(batch):
  graph, params = graph_and_weights(**NO_DROPOUT)
  train_step = step.make_train_step(Steep(), graph, optax.sgd(0.0), microbatches=1, seed=0)
  sums = train_step(start(optax.sgd(0.0), params), batch)[1]
  assert sums["skipped"][0]
  message = nans.find(Steep(), graph, params, batch, seed=0, step=0)
  assert message.startswith("no operation made a NaN; the loss is ")
  assert message.endswith("the norm of the gradient overflows")


def test_sound_steps_go_through(batch):
  graph, params = graph_and_weights(**NO_DROPOUT)
  plain = step.make_train_step(TASK, graph, optax.sgd(0.1), microbatches=1, seed=0)
  expected = plain(start(optax.sgd(0.1), params), batch)
  actual = nans.watch(plain, TASK, graph, seed=0)(start(optax.sgd(0.1), params), batch)
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((actual, expected)))
