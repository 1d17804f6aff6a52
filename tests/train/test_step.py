"""One update is one update: however many microbatches and devices it is cut into."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from model import layers
from tests.train.helpers import (
  MODEL,
  NO_DROPOUT,
  RECURRENT,
  TASK,
  T,
  graph_and_weights,
  mesh_of,
  start,
)
from train import loop, sharding, step
from train.common.errors import UserError
from train.record import meter
from train.state import weights

PLAIN = dataclasses.replace(TASK, label_smoothing=0.0, z_loss=0.0)
SGD = optax.sgd(0.5)  # not Adam: its first step is nearly the gradient's sign, whatever its size


@functools.cache
def compiled(microbatches=1, how="jit", **changes):
  """Returns the step with these settings and the weights it starts from."""
  graph, params = graph_and_weights(**changes)
  settings = dict(microbatches=microbatches, seed=0, how=how)
  return step.make_train_step(TASK, graph, SGD, **settings), params


def take_step(batch, mesh=None, how="jit", **settings):
  train_step, params = compiled(how=how, **settings)
  mesh = mesh or mesh_of(1, 1, 1)
  state, sums = train_step(start(SGD, params, mesh), loop.PUT[how](batch, mesh))
  return jax.device_get(state), jax.device_get(sums)


SUMS = {"loss", "nll", "right", "grad_norm", "skipped", "spikes"}


def assert_same(after, other):
  (state_a, sums_a), (state_b, sums_b) = after, other
  paths = jax.tree_util.tree_leaves_with_path(state_a)
  for (path, a), b in zip(paths, jax.tree.leaves(state_b), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6, err_msg=jax.tree_util.keystr(path))
  assert sums_a.keys() == sums_b.keys() == SUMS
  for name, pair in sums_a.items():
    np.testing.assert_allclose(pair, sums_b[name], rtol=2e-5, err_msg=name)


def test_a_step_is_the_gradient_of_the_mean_over_all_tokens(batch):
  """Against autodiff of the mean itself."""
  graph, params = graph_and_weights(**NO_DROPOUT)

  def mean_loss(params):
    total, weight = TASK.loss(nnx.merge(graph, params), batch, None)["loss"]
    return total / weight

  gradient = jax.jit(jax.grad(mean_loss))(params)
  state, sums = take_step(batch, **NO_DROPOUT)
  jax.tree.map(
    lambda before, g, after: np.testing.assert_allclose(after, before - 0.5 * g, atol=2e-6),
    params,
    jax.device_get(gradient),
    state["params"],
  )
  assert state["step"] == 1
  assert float(sums["grad_norm"][0]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
  assert float(sums["loss"][1]) == batch["weights"].sum()
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, state["params"])
  assert max(jax.tree.leaves(moved)) > 1e-2  # so 2e-6 is a bound that says something


def test_one_batch_is_four_microbatches(batch):
  weights = batch["weights"].sum(1).reshape(-1, 4).sum(0)  # of the microbatches
  assert weights.min() == 0
  assert len(set(weights)) > 2
  assert_same(take_step(batch), take_step(batch, microbatches=4))


@pytest.mark.parametrize("base", [MODEL, RECURRENT], ids=["transformer", "lstm"])
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_one_device_is_eight(batch, sizes, base):
  """With dropout: its mask is a function of the key and the place, not of the device."""
  assert_same(take_step(batch, base=base), take_step(batch, mesh_of(*sizes), base=base))


@pytest.mark.parametrize(
  "microbatches, base",
  [
    (2, MODEL),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, MODEL), (2, RECURRENT)]),
  ],
  ids=["2", "1", "2, lstm"],
)
def test_pmap_is_jit(batch, microbatches, base):
  rows = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
  settings = dict(mesh=mesh_of(8, 1, 1), microbatches=microbatches, base=base)
  assert_same(take_step(rows, mesh_of(1, 1, 1), base=base), take_step(rows, how="pmap", **settings))


def test_pmap_splits_nothing_but_the_batch(batch):
  with pytest.raises(UserError, match="parallelism=pmap splits nothing but the batch"):
    sharding.put_by_device(batch, mesh_of(4, 2, 1))
  with pytest.raises(UserError, match="3 rows cannot be shared by 8 devices"):
    sharding.put_by_device({"x": np.ones((3, 2))}, mesh_of(8, 1, 1))


class Masked:
  """A task whose loss is what dropout leaves of the batch: it differs by mask, compiles at once."""

  def loss(self, model, batch, key):
    mask = layers.dropout(batch["weights"], 0.5, key)
    places = jnp.arange(batch["weights"].shape[1]) + 1.0
    return {"loss": ((mask * places).sum() + 0 * model.bias[...].sum(), batch["weights"].sum())}


def masked_losses(weights, steps, seed=0, microbatches=1):
  """Returns the loss sum at each of the steps."""
  graph, weight = nnx.split(nnx.eval_shape(lambda: nnx.Linear(1, 1, rngs=nnx.Rngs(0))))
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nnx.to_pure_dict(weight))
  train_step = step.make_train_step(Masked(), graph, SGD, microbatches=microbatches, seed=seed)
  return [
    float(train_step(start(SGD, params, at=at), {"weights": weights})[1]["loss"][0]) for at in steps
  ]


def test_masks_are_a_function_of_seed_and_step():
  weights = np.ones((4, 200), np.float32)
  first, second = masked_losses(weights, [0, 1])
  assert masked_losses(weights, [0, 1, 0]) == [first, second, first]
  assert len({first, second, *masked_losses(weights, [0, 1], seed=1)}) == 4


def test_microbatches_draw_different_masks():
  """The same mask twice would leave twice an even number: at rate 0.5 what is left is doubled."""
  weights = np.ones((2, 3), np.float32)
  assert any(loss % 4 for loss in masked_losses(weights, range(12), microbatches=2))


@pytest.mark.parametrize("how", ["jit", "pmap"])
def test_an_update_that_is_not_finite_is_left_out_and_counted(batch, how):
  """Weights and moments bit for bit as before; the next batch is learned from as if it had been the
  first."""
  batch = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
  graph, params = graph_and_weights()
  tx, mesh = optax.adam(1e-2), mesh_of(8, 1, 1)
  train_step = step.make_train_step(TASK, graph, tx, microbatches=1, seed=0, how=how)
  bad = batch | {"weights": np.where(np.arange(T) == 2, np.inf, batch["weights"]).astype("f")}
  before = start(tx, params, mesh)
  expected = jax.device_get(before)
  state, sums = train_step(before, loop.PUT[how](bad, mesh))
  sums = jax.device_get(sums)
  assert (sums.pop("skipped"), sums.pop("spikes")) == ((1, 1), (0, 1))
  assert not any(jax.tree.leaves(sums))
  actual = jax.device_get(state)
  assert actual.pop("step") == expected.pop("step") + 1
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  state, sums = train_step(state, loop.PUT[how](batch, mesh))
  again = train_step(start(tx, params, mesh, at=1), loop.PUT[how](batch, mesh))[0]
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(again))
  assert jax.device_get(sums["skipped"]) == (0, 1)


@pytest.mark.parametrize("how", ["jit", "pmap"])
def test_the_average_of_weights_is_what_its_formula_says(batch, how):
  """In float64 from the weights after each step; an update that is left out moves it nowhere."""
  batch = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
  bad = batch | {"weights": np.full_like(batch["weights"], np.inf)}
  graph, params = graph_and_weights()
  tx, mesh, decay = optax.adam(1e-2), mesh_of(8, 1, 1), 0.7
  train_step = step.make_train_step(TASK, graph, tx, microbatches=1, seed=0, how=how, ema=decay)
  state = start(tx, params, mesh, at=15, ema=decay)
  expected = jax.tree.map(np.float64, params)
  for number, of_step in enumerate((batch, batch, bad, batch), 15):
    state, _ = train_step(state, loop.PUT[how](of_step, mesh))
    if of_step is batch:
      kept = min(decay, (1 + number) / (10 + number))
      now = jax.device_get(state["params"])
      expected = jax.tree.map(lambda a, b, k=kept: k * a + (1 - k) * b, expected, now)
    actual = jax.device_get(weights(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7), actual, expected)
  assert max(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), expected, now))) > 1e-3


@pytest.mark.parametrize("skip", [False, True])
def test_a_spike_is_counted_and_left_out_if_asked(batch, skip):
  """Against numpy's median of the losses themselves; labels of another batch make the spike."""
  graph, params = graph_and_weights(**NO_DROPOUT)
  settings = dict(microbatches=1, seed=0, spike=1.5, skip_spikes=skip)
  train_step = step.make_train_step(PLAIN, graph, optax.sgd(0.2), **settings)
  odd = batch | {"labels": np.roll(batch["labels"], 1, axis=1)}
  state, losses, spikes = start(optax.sgd(0.2), params, spike=1.5), [], []
  for number in range(step.RECENT + 5):
    before = jax.device_get(state["params"])
    state, sums = train_step(state, odd if number in (20, step.RECENT - 10) else batch)
    sums = jax.device_get(sums)
    spikes.append(float(sums["spikes"][0]))
    if sums["skipped"][0]:
      jax.tree.map(np.testing.assert_array_equal, jax.device_get(state["params"]), before)
      continue
    losses.append(sums["loss"][0] / sums["loss"][1])
    recent = sorted([*losses[:-1][-step.RECENT :], *[np.inf] * (step.RECENT - len(losses) + 1)])
    assert bool(spikes[-1]) == (losses[-1] > 1.5 * recent[step.RECENT // 2])
  steps = np.flatnonzero(spikes).tolist()
  assert steps[0] == step.RECENT - 10  # the first came too early; after this one it has to recover
  assert steps == steps[:1] or not skip


def test_microbatches_that_do_not_divide_the_batch_are_refused():
  with pytest.raises(UserError, match=r"8 .*microbatches 3"):
    masked_losses(np.ones((8, 3), np.float32), [0], microbatches=3)


def test_evaluation_drops_nothing(batch):
  graph, params = graph_and_weights()
  evaluate = step.make_eval_step(TASK, graph)
  sums = jax.device_get(evaluate(params, batch))
  again = jax.device_get(evaluate(params, batch))
  without = take_step(batch, **NO_DROPOUT)[1]
  dropped = take_step(batch)[1]
  for name, pair in sums.items():
    np.testing.assert_array_equal(pair, again[name])
    np.testing.assert_allclose(pair, without[name], rtol=1e-5)
  assert abs(float(dropped["loss"][0]) - float(sums["loss"][0])) > 1e-2


def test_one_batch_is_learned_by_heart(batch):
  graph, params = graph_and_weights(**NO_DROPOUT)
  tx = optax.adam(2e-2)
  train_step = step.make_train_step(PLAIN, graph, tx, microbatches=1, seed=0)
  state, values = start(tx, params), []
  for _ in range(100):
    state, sums = train_step(state, batch)
    values.append(meter.means(sums))
  assert values[0]["loss"] > 2
  assert values[-1]["loss"] < 0.1
  assert values[-1]["token_accuracy"] == 100
  assert int(state["step"]) == 100


def test_means_divide_once_and_perplexity_is_exp_of_the_nll():
  sums = dict(loss=(6.0, 4.0), nll=(5.0, 4.0), right=(3.0, 4.0), grad_norm=(2.5, 1.0))
  sums = jax.tree.map(jnp.float32, sums)
  values = meter.means(sums)
  expected = dict(loss=1.5, token_accuracy=75.0, grad_norm=2.5, perplexity=math.exp(1.25))
  assert values == pytest.approx(expected, rel=1e-6)
  assert all(type(value) is float for value in values.values())
  assert meter.means({"nll": (jnp.float32(1e9), jnp.float32(1.0))})["perplexity"] < math.inf
  nothing = meter.means({"nll": (jnp.float32(0), jnp.float32(0))})
  assert nothing == {"perplexity": 1.0}


def test_options_for_a_cpu_change_rounding_alone_and_copy_less(batch):
  """The weights and moments of Adam are written in place."""
  graph, params = graph_and_weights()
  tx, mesh, states, copies = optax.adamw(1e-2), mesh_of(1, 1, 1), {}, {}
  for platform in ("", "cpu"):
    train_step = step.make_train_step(TASK, graph, tx, microbatches=1, seed=0, platform=platform)
    state, there = start(tx, params, mesh), sharding.put(batch, mesh)
    text = train_step.lower(state, there).compile().as_text()
    copies[platform] = text.count(" copy(")
    for _ in range(3):
      state, _ = train_step(state, there)
    states[platform] = jax.device_get(state)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), *states.values())
  assert copies["cpu"] + len(jax.tree.leaves(params)) <= copies[""]
