"""Replaced-token detection: its loss by other means, its draws, and that it learns to detect."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.train.tasks.helpers import (
  ENCODER,
  LSTM,
  MODEL,
  WORDS,
  build,
  first_batch,
  layout,
  split,
)
from train import sharding
from train.common.errors import UserError
from train.common.trees import flatten, path_name
from train.data.batches import Batches
from train.record.meter import means
from train.step import make_eval_step, make_train_step
from train.tasks import electra


def test_the_loss_is_that_of_the_text_with_the_draws_in_it(data, tmp_path, monkeypatch):
  task, graph, params = build("electra", data, tmp_path)
  params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)
  batch, rng, drawn = first_batch(task), np.random.default_rng(0), {}
  hidden, labels = batch["weights"] > 0, batch["labels"]
  rows = batch["source_segments"], batch["source_positions"]
  _, place_BT = jax.lax.top_k(batch["weights"], int(0.15 * 24))
  monkeypatch.setattr(electra, "draw", lambda *_: drawn["BT"])

  @jax.jit
  def compute(params, words_BS):
    drawn["BT"] = jnp.take_along_axis(words_BS, place_BT, axis=1)
    model = nnx.merge(graph, params)
    small, text = model.head.generator, jnp.where(hidden, words_BS, batch["source"])
    small.embedding = model.embedding
    words_BSV = model.logits(small.head(small.encode(batch["source"], *rows)))
    logits_BS = model.head(model.encode(text, *rows), rows[0])[..., 0]
    return task.loss(nnx.merge(graph, params), batch, None), words_BSV, logits_BS

  words = rng.choice(task.tokenizer.words, hidden.shape)
  words = np.where(rng.random(hidden.shape) < 0.5, words, labels)  # some are right
  sums, *logits = compute(params, words)
  words_BSV, logits_BS = (np.asarray(x, np.float64) for x in logits)
  log_BSV = words_BSV - np.log(np.exp(words_BSV).sum(-1, keepdims=True))
  nll = -np.take_along_axis(log_BSV, labels[..., None], -1)[..., 0][hidden].sum()
  replaced, tokens = hidden & (words != labels), rows[0] > 0
  loss_BS = np.log1p(np.exp(np.where(replaced, -logits_BS, logits_BS)))
  assert 0 < replaced.sum() < hidden.sum() < tokens.sum()
  total = nll / task.rate + 50 * loss_BS[tokens].sum()
  np.testing.assert_allclose(sums["loss"], (total, tokens.sum()), rtol=1e-5)
  np.testing.assert_allclose(sums["nll"], (nll, hidden.sum()), rtol=1e-5)
  right = (logits_BS > 0) == replaced
  assert 0 < right[tokens].sum() < tokens.sum()
  assert sums["right"] == (right[tokens].sum(), tokens.sum())
  assert sums["recalled"] == (right[replaced].sum(), replaced.sum())
  # A word that the generator draws again is not replaced.
  sums, _, logits_BS = compute(params, labels)
  assert sums["recalled"] == (0, 0)
  assert sums["right"][0] == (np.asarray(logits_BS) <= 0)[tokens].sum()


def test_draws_follow_the_logits_their_key_and_their_number():
  probs = np.array([0.1, 0.2, 0.7])
  logits_BTV = jnp.log(jnp.broadcast_to(jnp.asarray(probs), (2, 4000, 3)))
  numbers_BT = jnp.broadcast_to(jnp.arange(4000), (2, 4000))
  drawn = np.asarray(electra.draw(None, numbers_BT, logits_BTV))
  np.testing.assert_array_equal(drawn[0], drawn[1])  # a fixed key
  shares = np.bincount(drawn[0]) / 4000
  np.testing.assert_allclose(shares, probs, atol=5 * np.sqrt(0.25 / 4000))
  np.testing.assert_array_equal(electra.draw(None, numbers_BT[:, ::-1], logits_BTV), drawn[:, ::-1])
  keys_B = jax.random.split(jax.random.key(1), 2)
  others = np.asarray(electra.draw(keys_B, numbers_BT, logits_BTV))
  expected = (probs**2).sum()  # of independent draws that are equal
  for a, b in ((others[0], others[1]), (others[0], drawn[0])):
    assert abs((a == b).mean() - expected) < 5 * np.sqrt(0.25 / 4000)


def test_detection_moves_the_shared_words_and_not_the_generator(data, tmp_path):
  """No gradient comes through the draws."""
  task, graph, params = build("electra", data, tmp_path)
  batch = first_batch(task)

  def gradient(weight):
    other = dataclasses.replace(task, detection_weight=weight)
    loss = lambda x: other.loss(nnx.merge(graph, x), batch, None)["loss"][0]  # noqa: E731
    return jax.jit(jax.grad(loss))(params)

  with_detection, without = gradient(50.0), gradient(0.0)
  generator = [x["head"]["generator"] for x in (with_detection, without)]
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)  # fused differently
  jax.tree.map(close, *generator)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(generator[0]) if x.ndim > 1)
  moved = np.abs(with_detection["embedding"]["embedding"] - without["embedding"]["embedding"])
  assert moved.max() > 0.01
  assert not any(np.any(x) for x in jax.tree.leaves(without["encoder"]))


def test_noise_is_of_the_key_and_evaluation_has_none(data, tmp_path):
  task, graph, params = build("electra", data, tmp_path)
  batch, rows = first_batch(task), len(first_batch(task)["source"])
  loss = jax.jit(lambda key: task.loss(nnx.merge(graph, params), batch, key)["loss"][0])
  keys = [jax.random.split(jax.random.key(seed), rows) for seed in (0, 0, 1)]
  first_loss, again, other = (float(loss(key)) for key in keys)
  assert first_loss == again != other
  assert float(loss(None)) == float(loss(None))


def test_the_generator_is_narrower_and_has_the_models_words(data, tmp_path):
  task, _, params = build("electra", data, tmp_path)
  wide = dataclasses.replace(task, generator=0.5)
  _, state = split(MODEL | ENCODER | dict(dim=64, num_heads=8), wide)
  queries = {x: y.shape for x, y in flatten(state).items() if x.endswith("query/kernel")}
  assert sorted(queries.values()) == [(32, 4, 8), (64, 8, 8)]
  assert all(("generator" in name) == (shape[0] == 32) for name, shape in queries.items())
  assert "embedding" not in state["head"]["generator"]
  assert "output_bias" not in params["head"]["generator"]
  with pytest.raises(UserError, match=r"model.name=transformer"):
    split(LSTM | ENCODER, task)


def test_all_weights_have_a_place_and_devices_share_the_loss(data, tmp_path):
  task, graph, params = build("electra", data, tmp_path)
  batch = first_batch(task)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=1), jax.devices()[:4])
  placed = jax.device_put(params, sharding.place(params, mesh))
  step = make_eval_step(task, graph)
  alone = step(params, batch)
  with sharding.activation_sharding(mesh):
    shared = make_eval_step(task, graph)(placed, sharding.put(batch, mesh))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), alone, jax.device_get(shared)
  )


def test_the_discriminator_beats_the_guess_that_no_word_is_replaced(tmp_path):
  """In texts where each word follows from the one before, with a generator that learns nothing."""
  texts = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(14)) for i in range(len(WORDS))]
  (tmp_path / "train.txt").write_text("\n\n".join(texts))
  task, graph, params = build("electra", tmp_path, tmp_path)

  def label(path, _):
    return "generator" if "generator" in path_name(path) else "model"

  tx = optax.multi_transform(
    {"model": optax.adam(3e-3), "generator": optax.set_to_zero()},
    functools.partial(jax.tree_util.tree_map_with_path, label),
  )
  step, totals = make_train_step(task, graph, tx, microbatches=1, seed=0), []
  state = dict(step=jnp.int32(0), params=params, opt_state=tx.init(params))
  with Batches(task.items("train"), layout(task, batch_size=8), seed=0) as stream:
    for _ in range(200):
      state, sums = step(state, next(stream))
      totals.append(jax.device_get(sums))
  last = jax.tree.map(lambda *parts: sum(parts), *totals[-20:])
  replaced = last["recalled"][1] / last["right"][1]
  assert replaced > 0.05
  assert means(last)["token_accuracy"] > 100 * (1 - replaced / 2)
  assert means(last)["replaced_recall"] > 50
