"""Losses against plain autodiff of their definitions; sums that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.platforms import compute_as
from train import losses
from train.common.errors import UserError

B, T, V = 3, 4, 9
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(4 * RNG.normal(size=(B, T, V)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, V, (B, T)))
WEIGHTS = jnp.asarray(RNG.integers(0, 3, (B, T)), jnp.float32)
cross_entropy = jax.jit(losses.cross_entropy, static_argnames=("label_smoothing", "z_loss"))
SETTINGS = [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.05)]


def plain(logits_BTV, label_smoothing, z_loss):
  """(loss, nll): cross-entropy with the smoothed distribution written out, and log(Z)^2."""
  log_probs_BTV = jax.nn.log_softmax(logits_BTV)
  one_hot_BTV = jax.nn.one_hot(LABELS, V)
  target_BTV = (1 - label_smoothing) * one_hot_BTV + label_smoothing / V
  log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
  loss_BT = -(target_BTV * log_probs_BTV).sum(-1) + z_loss * log_z_BT**2
  return loss_BT, -(one_hot_BTV * log_probs_BTV).sum(-1)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("label_smoothing, z_loss", SETTINGS)
def test_value_and_gradient_are_autodiffs(label_smoothing, z_loss, platform, monkeypatch):
  """Through both outputs at once, each token with weights of its own."""
  compute_as(platform, monkeypatch)
  up = tuple(jnp.asarray(x, jnp.float32) for x in RNG.normal(size=(2, B, T)))

  def ours(logits):
    return losses.token_losses(logits, LABELS, label_smoothing, z_loss)[:2]

  def pulled(f):
    values, pull_back = jax.vjp(f, LOGITS)
    nothing = jnp.zeros((B, T))
    by_each = [pull_back(pair)[0] for pair in (up, (up[0], nothing), (nothing, up[1]))]
    return *values, *by_each

  want = jax.jit(lambda: pulled(lambda logits: plain(logits, label_smoothing, z_loss)))()
  for a, b in zip(jax.jit(lambda: pulled(ours))(), want):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_gradient_is_that_of_finite_differences():
  @jax.jit
  def total(logits):
    return cross_entropy(logits, LABELS, WEIGHTS, label_smoothing=0.2, z_loss=0.05)["loss"][0]

  direction = jnp.asarray(RNG.normal(size=LOGITS.shape), jnp.float32)
  slope = (total(LOGITS + 1e-2 * direction) - total(LOGITS - 1e-2 * direction)) / 2e-2
  along = jax.jit(lambda: (jax.grad(total)(LOGITS) * direction).sum())()
  assert float(along) == pytest.approx(float(slope), rel=2e-3)


def test_large_logits_are_no_trouble():
  logits = 1e4 * LOGITS
  value, gradient = jax.jit(
    jax.value_and_grad(lambda x: cross_entropy(x, LABELS, WEIGHTS, label_smoothing=0.1)["loss"][0])
  )(logits)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


def test_sums_add_up_over_any_split():
  settings = dict(label_smoothing=0.1, z_loss=0.01)
  whole = cross_entropy(LOGITS, LABELS, WEIGHTS, **settings)
  parts = [
    cross_entropy(LOGITS[rows], LABELS[rows], WEIGHTS[rows], **settings)
    for rows in (slice(0, 1), slice(1, 3))
  ]
  added = jax.tree.map(lambda a, b: a + b, *parts)
  assert whole.keys() == {"loss", "nll", "right"}
  for name, pair in whole.items():
    np.testing.assert_allclose(added[name], pair, rtol=1e-5)
    assert float(pair[1]) == float(WEIGHTS.sum())


def test_a_weight_counts_a_token_so_often():
  loss_BT, nll_BT = plain(LOGITS, 0.1, 0.0)
  right_BT = LOGITS.argmax(-1) == LABELS
  sums = cross_entropy(LOGITS, LABELS, WEIGHTS, label_smoothing=0.1)
  for name, each_BT in (("loss", loss_BT), ("nll", nll_BT), ("right", right_BT)):
    np.testing.assert_allclose(sums[name][0], (each_BT * WEIGHTS).sum(), rtol=1e-5)
  gradient = jax.jit(jax.grad(lambda x: cross_entropy(x, LABELS, WEIGHTS)["loss"][0]))(LOGITS)
  assert (np.abs(gradient).max(-1) > 0).tolist() == (WEIGHTS > 0).tolist()


def test_perfect_and_wrong_predictions():
  perfect = 50.0 * jax.nn.one_hot(LABELS, V)
  sums = cross_entropy(perfect, LABELS, WEIGHTS)
  assert float(sums["right"][0]) == float(WEIGHTS.sum())
  assert float(sums["nll"][0]) < 1e-6
  sums = cross_entropy(-perfect, LABELS, WEIGHTS)
  assert float(sums["right"][0]) == 0
  assert float(sums["nll"][0]) > 50 * float(WEIGHTS.sum())


def test_equal_logits_cost_the_log_of_the_vocabulary_smoothed_or_not():
  loss_BT, nll_BT, _ = losses.token_losses(jnp.full((B, T, V), 3.0), LABELS, 0.3, 0.0)
  np.testing.assert_allclose(loss_BT, np.log(V), rtol=1e-6)
  np.testing.assert_allclose(nll_BT, np.log(V), rtol=1e-6)


def test_a_row_in_parts_loses_the_same_and_holds_fewer_logits():
  rng = np.random.default_rng(0)
  B, T, D, V = 4, 32, 8, 2048
  x_BTD, table_DV = rng.normal(size=(B, T, D)), rng.normal(size=(D, V))
  labels, weights = rng.integers(0, V, (B, T)), rng.integers(0, 2, (B, T)).astype(np.float32)

  def made(chunks):
    def loss(x_BTD, table_DV):
      options = dict(label_smoothing=0.1, z_loss=0.01)
      sums = losses.chunked(lambda h: h @ table_DV, x_BTD, labels, weights, chunks, **options)
      return sums["loss"][0], sums

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    arguments = jnp.asarray(x_BTD, jnp.float32), jnp.asarray(table_DV, jnp.float32)
    size = step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    return step(*arguments), size

  (whole, size), (parts, smaller) = made(1), made(8)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), parts, whole)
  assert smaller < 0.3 * size
  with pytest.raises(UserError, match="loss_chunks 5 does not divide the 32 positions"):
    made(5)
