"""Schedules against closed forms; every optimizer goes down; who decays; what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import sections
from train import optimizer
from train.common.errors import UserError
from train.common.trees import path_name

RATES = {"adamw": 0.1, "adam": 0.1, "adafactor": 0.1, "lion": 0.02, "muon": 0.1, "sgd": 0.1}
DECAY = {  # the argument that says how much; the others do not decay
  "adamw": "weight_decay",
  "lion": "weight_decay",
  "muon": "weight_decay",
  "adafactor": "weight_decay_rate",
}


def section(**settings):
  usual = dict(name="adamw", clip_norm=0.0, no_decay="(bias|scale)$", rates=())
  return ConfigDict(usual | settings)


def schedule(**settings):
  return ConfigDict(dict(name="constant", peak=0.1, warmup_steps=0) | settings)


def rate_of(steps, **settings):
  return optimizer.build(section(), schedule(**settings), steps)[1]


def weights():
  """The kinds of weights a model has: a block's [D, H, K], [H, K, D] and [D, F], and the rest."""
  rng = np.random.default_rng(0)
  shapes = {
    "query": {"kernel": (6, 2, 4), "bias": (2, 4)},
    "out": {"kernel": (2, 4, 6), "bias": (6,)},
    "up": {"kernel": (6, 5)},
    "norm": {"scale": (6,)},
  }
  tree = {"blocks": {"0": shapes}, "embedding": {"embedding": (7, 6)}}
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    tree,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def test_every_optimizer_is_tested():
  assert RATES.keys() == optimizer.OPTIMIZERS.keys()


@pytest.mark.parametrize("name", RATES)
def test_every_optimizer_goes_down_a_bowl(name):
  tx, _ = optimizer.build(section(name=name), schedule(peak=RATES[name]), 60)
  goal = jax.tree.map(lambda x: x[..., ::-1], weights())

  def loss(params):
    squares = jax.tree.map(lambda p, g: ((p - g) ** 2).sum(), params, goal)
    return sum(jax.tree.leaves(squares)), squares

  @jax.jit
  def sixty_steps(params):
    def step(carry, _):
      params, state = carry
      gradient = jax.grad(loss, has_aux=True)(params)[0]
      updates, state = tx.update(gradient, state, params)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), None, 60)[0][0]

  before, after = loss(weights())[1], loss(sixty_steps(weights()))[1]
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
  ):
    assert b < 0.5 * a, path_name(path)


def update(params, gradient, **settings):
  tx, _ = optimizer.build(section(**settings), schedule(), 10)
  return jax.jit(lambda: tx.update(gradient, tx.init(params), params)[0])()


@pytest.mark.parametrize("name", DECAY)
def test_a_pattern_exempts_from_decay(name):
  """The update changes with the decay by rate * decay * weight, and only where it should."""
  params, zero = weights(), jax.tree.map(jnp.zeros_like, weights())
  settings = dict(name=name, no_decay=r"(bias|scale|embedding)$")
  plain = update(params, zero, **settings | {DECAY[name]: 0.0})
  decayed = update(params, zero, **settings | {DECAY[name]: 0.5})
  change = jax.tree.map(lambda a, b: np.asarray(a - b), decayed, plain)
  for (path, moved), weight in zip(
    jax.tree_util.tree_leaves_with_path(change), jax.tree.leaves(params), strict=True
  ):
    path = path_name(path)
    if path.endswith("kernel"):
      by = 0.5 if name == "adafactor" else 0.05  # optax's adafactor decays outside the rate
      np.testing.assert_allclose(moved, -by * weight, rtol=1e-4, err_msg=path)
    else:
      assert not moved.any(), path


def test_no_decay_that_matches_nothing_exempts_nothing():
  params, zero = weights(), jax.tree.map(jnp.zeros_like, weights())
  moved = update(params, zero, weight_decay=0.5, no_decay="^$")
  assert all(leaf.any() for leaf in jax.tree.leaves(moved))


def test_muon_turns_stacked_matrices_one_by_one():
  first = weights()["blocks"]["0"]
  layers = [first, jax.tree.map(lambda x: jnp.cos(5 * x), first)]
  slopes = [jax.tree.map(lambda x: jnp.sin(9 * x), layer) for layer in layers]
  stacks = [{"blocks": jax.tree.map(lambda *x: jnp.stack(x), *both)} for both in (layers, slopes)]
  single = [{"blocks": {str(i): one for i, one in enumerate(both)}} for both in (layers, slopes)]
  moved, alone = update(*stacks, name="muon"), update(*single, name="muon")
  for i in range(2):
    one = jax.tree.map(lambda x, i=i: x[i], moved["blocks"])
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), one, alone["blocks"][str(i)]
    )


def test_muon_turns_the_matrices_of_blocks_and_nothing_else():
  """Its update of a matrix is nearly orthogonal, seen as D by H * K; all others are Adam's."""
  params = weights()
  gradient = jax.tree.map(lambda x: jnp.sin(9 * x), params)
  by_muon = update(params, gradient, name="muon")
  by_adam = update(params, gradient, name="adam", nesterov=True)
  block, plain = by_muon["blocks"]["0"], by_adam["blocks"]["0"]
  for matrix in (
    block["query"]["kernel"].reshape(6, 8),
    block["out"]["kernel"].reshape(8, 6),
    block["up"]["kernel"],
  ):
    stretch = np.linalg.svd(matrix / 0.1, compute_uv=False) / math.sqrt(
      max(1, matrix.shape[1] / matrix.shape[0])
    )
    assert (stretch > 0.5).all()
    assert (stretch < 1.4).all()
  for a, b in (
    (block["query"]["bias"], plain["query"]["bias"]),
    (block["out"]["bias"], plain["out"]["bias"]),
    (block["norm"]["scale"], plain["norm"]["scale"]),
    (by_muon["embedding"]["embedding"], by_adam["embedding"]["embedding"]),
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("name", RATES)
def test_no_optimizer_takes_larger_steps_for_larger_weights(name):
  """The schedule alone says how large: so adafactor's factor for that is off."""
  params = weights()
  gradient = jax.tree.map(lambda x: jnp.sin(9 * x), params)
  larger = jax.tree.map(lambda x: 10 * x, params)
  decay = {DECAY[name]: 0.0} if name in DECAY else {}
  one, other = (update(p, gradient, name=name, **decay) for p in (params, larger))
  for a, b in zip(*map(jax.tree.leaves, (one, other))):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_clipping_is_of_the_norm_of_all_gradients_together():
  params = gradient = weights()
  norm = float(optax.tree.norm(gradient))
  plain, clipped, loose = (
    update(params, gradient, name="sgd", clip_norm=clip) for clip in (0.0, norm / 4, 2 * norm)
  )
  for a, b, c in zip(*map(jax.tree.leaves, (plain, clipped, loose))):
    np.testing.assert_allclose(b, a / 4, rtol=1e-5)
    np.testing.assert_array_equal(c, a)


# Schedules


def test_rsqrt_is_vaswanis():
  dim, warmup = 512, 4000
  rate = rate_of(100_000, name="rsqrt", peak=(dim * warmup) ** -0.5, warmup_steps=warmup)
  for step in (1, 2, 100, 3999, 4000, 4001, 20_000, 100_000):
    want = dim**-0.5 * min(step**-0.5, step * warmup**-1.5)
    assert float(rate(step)) == pytest.approx(want, rel=1e-5)
    assert float(rate(jnp.int32(step))) == pytest.approx(want, rel=1e-5)
  assert float(rate(0)) > 0  # the first update is not lost
  assert float(rate_of(10, name="rsqrt", peak=1.0)(4)) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("warmup", [0, 20])
def test_warm_up_is_a_line_to_the_peak(name, warmup):
  extra = dict(decay_steps=30) if name == "wsd" else {}
  rate = rate_of(100, name=name, peak=0.3, warmup_steps=warmup, **extra)
  for step in range(warmup + 1):
    assert float(rate(step)) == pytest.approx(0.3 * step / warmup if warmup else 0.3, abs=1e-7)


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 20])
def test_schedules_after_warm_up_are_their_closed_forms(warmup, final):
  settings = dict(peak=0.3, warmup_steps=warmup, final=final)
  cosine, linear, wsd = (
    rate_of(100, name=name, **settings, **({"decay_steps": 30} if name == "wsd" else {}))
    for name in ("cosine", "linear", "wsd")
  )
  constant = rate_of(100, name="constant", peak=0.3, warmup_steps=warmup)
  for step in (warmup, 41, 70, 71, 85, 99, 100, 150):
    done = min(1.0, (step - warmup) / (100 - warmup))
    last = min(1.0, max(0.0, (step - 70) / 30))
    half_cosine = 0.5 * (1 + math.cos(math.pi * done))
    assert float(cosine(step)) == pytest.approx(0.3 * (final + (1 - final) * half_cosine), abs=1e-6)
    assert float(linear(step)) == pytest.approx(0.3 * (1 - done * (1 - final)), abs=1e-6)
    assert float(wsd(step)) == pytest.approx(0.3 * (1 - last * (1 - final)), abs=1e-6)
    assert float(constant(step)) == pytest.approx(0.3)


def test_the_update_takes_its_rate_from_the_schedule():
  tx, rate = optimizer.build(section(name="sgd"), schedule(peak=0.4, warmup_steps=4), 10)
  params = gradient = {"kernel": jnp.ones(2)}
  state = tx.init(params)
  for step in range(6):
    updates, state = tx.update(gradient, state, params)
    np.testing.assert_allclose(updates["kernel"], -rate(step), rtol=1e-6)
  assert float(rate(4)) == pytest.approx(0.4)


# What is refused


@pytest.mark.parametrize(
  "wrong, named",
  [
    (dict(name="adamv"), r"optimizer.name is 'adamv'.*adamw"),
    (dict(beta1=0.9), "optimizer.beta1.*b1"),
    (dict(rates=(("^blocks", 0.1))), r"optimizer.rates: '\^blocks' is no \(pattern, factor\) pair"),
    (dict(rates=(("(", 0.1),)), r"optimizer.rates: '\(' is no pattern"),
    (dict(learning_rate=0.1), "optimizer.learning_rate"),
    (dict(mask=1), "optimizer.mask"),
    (dict(no_decay="(bias"), "optimizer.no_decay"),
  ],
)
def test_an_optimizer_that_is_none_is_named(wrong, named):
  with pytest.raises(UserError, match=named):
    optimizer.build(section(**wrong), schedule(), 100)


@pytest.mark.parametrize(
  "wrong, named",
  [
    (dict(name="cosinus"), "schedule.name is 'cosinus'.*cosine"),
    (dict(warmup_steps=101), "schedule.warmup_steps 101.*100"),
    (dict(name="cosine", warmup_steps=100), "schedule"),
    (dict(end=0.1), "schedule.end is no argument of constant"),
    (dict(name="wsd"), "schedule.decay_steps is missing"),
    (dict(name="wsd", warmup_steps=60, decay_steps=50), "schedule.*decay_steps 50"),
  ],
)
def test_a_schedule_that_is_none_is_named(wrong, named):
  with pytest.raises(UserError, match=named):
    optimizer.build(section(), schedule(**wrong), 100)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
@pytest.mark.parametrize("base", ["ADAMW", "ADAM"])
def test_every_optimizer_can_be_named_instead_of_a_configs(name, base, caplog):
  """Only the name is changed: what it has no use for is told, not refused."""
  usual = optimizer.OPTIMIZER | getattr(sections, base)
  for kind in optimizer.SCHEDULES:
    rate = ConfigDict(optimizer.SCHEDULE | dict(final=0.1, decay_steps=5, name=kind))
    tx, _ = optimizer.build(ConfigDict(usual | dict(name=name)), rate, 100)
    tx.init(weights())


def test_what_an_optimizer_has_no_use_for_is_told(monkeypatch):
  told = []
  monkeypatch.setattr(optimizer.logging, "info", lambda text, *args: told.append(text % args))
  given = section(name="sgd", weight_decay=0.1, b1=0.9, b2=None)
  optimizer.log_unused(given, schedule())
  assert told[-1] == "sgd has no use for optimizer.b1, optimizer.weight_decay"


def test_a_rate_that_no_weight_gets_is_named():
  tx, _ = optimizer.build(section(rates=(("^blcks", 0.0), (".", 1.0))), schedule(), 100)
  with pytest.raises(UserError, match=r"'\^blcks' is the first match of no weight; .* blocks/0/"):
    tx.update(weights(), tx.init(weights()), weights())


@pytest.mark.parametrize("name", ["adamw", "adam", "lion"])
def test_first_moments_may_be_of_half_size(name):
  settings = {**optimizer.OPTIMIZER, "name": name, "mu_dtype": "bfloat16"}
  tx, _ = optimizer.build(ConfigDict(settings), schedule(), 10)
  params = weights()
  state = tx.init(params)
  updates, state = tx.update(params, state, params)
  moments = {path_name(p): x.dtype for p, x in jax.tree_util.tree_leaves_with_path(state)}
  assert {x for path, x in moments.items() if "/mu/" in path} == {jnp.dtype("bfloat16")}
  assert {x for path, x in moments.items() if "/nu/" in path} <= {jnp.dtype("float32")}
  assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
