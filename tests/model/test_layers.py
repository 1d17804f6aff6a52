"""Layers and positions against numpy loops, closed forms and the laws of chance."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from model import layers, positions
from model.attention import Attention
from model.config import TransformerConfig
from model.masks import NEG_INF
from model.patterns import DotProduct, FullAttention

SIGMAS = 5  # one good generator in 2 million fails a two-sided bound of this width
SHAPE = (48, 40, 44)
KEYS = {
  "seed": jax.random.key(0),
  "next seed": jax.random.key(1),
  "step 1": jax.random.fold_in(jax.random.key(0), 1),
  "step 2": jax.random.fold_in(jax.random.key(0), 2),
  **{f"split {i}": key for i, key in enumerate(jax.random.split(jax.random.key(7), 3))},
}
hash_bits = jax.jit(layers.hash_bits, static_argnums=1)
sinusoidal = jax.jit(positions.sinusoidal, static_argnums=1)
rotary = jax.jit(positions.rotary, static_argnums=2)
alibi = jax.jit(positions.alibi, static_argnums=1)
bucket = jax.jit(positions.bucket, static_argnames=("bidirectional", "num_buckets", "max_distance"))


def kept(key, rate, shape=SHAPE):
  return np.asarray(layers.dropout(jnp.ones(shape), rate, key)) != 0


# Dropout


def test_a_row_with_its_own_key_drops_the_same_wherever_it_stands():
  keys, shape = jax.random.split(jax.random.key(5), 4), (4, 3, 7)
  bits = np.asarray(hash_bits(keys, shape))
  for row, key in enumerate(keys):
    np.testing.assert_array_equal(bits[row], hash_bits(key, shape[1:]))
  np.testing.assert_array_equal(bits[1:], hash_bits(keys[1:], (3, 3, 7)))
  parts = layers.split(keys, 2)
  for part, alone in zip(parts, zip(*(layers.split(key, 2) for key in keys))):
    np.testing.assert_array_equal(jax.random.key_data(part), list(map(jax.random.key_data, alone)))


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_dropout_drops_its_rate_and_keeps_the_expectation(rate):
  x = np.random.default_rng(3).normal(2.0, size=SHAPE).astype(np.float32)
  for key in KEYS.values():
    y = np.asarray(layers.dropout(jnp.asarray(x), rate, key))
    dropped = y == 0
    bound = SIGMAS * math.sqrt(x.size * rate * (1 - rate))
    assert abs(dropped.sum() - x.size * rate) < bound
    np.testing.assert_allclose(y[~dropped], x[~dropped] / (1 - rate), rtol=1e-6)
    deviation = math.sqrt((x**2).sum() * rate / (1 - rate))  # of the sum of y
    assert abs(y.sum() - x.sum()) < SIGMAS * deviation


def test_dropout_varies_from_key_to_key_as_much_as_chance_does():
  """Counts over keys are neither the same nor wilder than binomial; each place has its turn."""
  count, rate, shape = 1000, 0.3, (8, 16)
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(jnp.arange(count))
  masks = np.asarray(jax.vmap(lambda key: layers.dropout(jnp.ones(shape), rate, key))(keys)) == 0
  for axes in ((1, 2), 0):
    dropped = masks.sum(axes).ravel()
    of = masks.size / dropped.size
    chi_square = ((dropped - of * rate) ** 2 / (of * rate * (1 - rate))).sum()
    assert abs(chi_square - dropped.size) < SIGMAS * math.sqrt(2 * dropped.size)


def test_dropout_is_the_identity_without_key_or_rate():
  x = jnp.arange(6.0).reshape(2, 3)
  assert layers.dropout(x, 0.5, None) is x
  assert layers.dropout(x, 0.0, KEYS["seed"]) is x
  assert layers.split(None, 3) == (None, None, None)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_of_different_keys_are_uncorrelated(rate):
  masks = np.array([kept(key, rate).ravel() for key in KEYS.values()])
  correlation = np.corrcoef(masks) - np.eye(len(masks))
  assert np.abs(correlation).max() < SIGMAS / math.sqrt(masks.shape[1])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_mask_is_uncorrelated_with_itself_shifted(rate):
  mask = kept(KEYS["step 1"], rate) - (1 - rate)
  variance = rate * (1 - rate)
  shifts = [*np.ndindex(3, 3, 3)][1:]
  shifts += [(n * (a == 0), n * (a == 1), n * (a == 2)) for a in range(3) for n in (4, 8, 16, 32)]
  for a, b, c in shifts:
    pairs = mask[a:, b:, c:] * mask[: SHAPE[0] - a, : SHAPE[1] - b, : SHAPE[2] - c]
    assert abs(pairs.sum()) < SIGMAS * variance * math.sqrt(pairs.size), (a, b, c)


@pytest.mark.parametrize("name", ["seed", "next seed", "step 1"])
def test_the_bits_are_balanced_independent_and_evenly_spread(name):
  words = np.asarray(hash_bits(KEYS[name], (128, 512))).ravel()
  n = words.size
  bits = (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1
  signs = 2 * bits.astype(np.float32) - 1
  assert np.abs(signs.mean(0)).max() < SIGMAS / math.sqrt(n)
  between = signs.T @ signs / n - np.eye(32)
  assert np.abs(between).max() < SIGMAS / math.sqrt(n)
  in_a_row = words[:-1] >> 28 << 4 | words[1:] >> 28  # 256 bins of two neighbours' high bits
  in_column = words[:-512] >> 28 << 4 | words[512:] >> 28
  for bins in (words >> 24, words & 255, in_a_row, in_column):
    expected = len(bins) / 256
    chi_square = ((np.bincount(bins, minlength=256) - expected) ** 2 / expected).sum()
    assert abs(chi_square - 255) < SIGMAS * math.sqrt(2 * 255)


def test_the_mask_is_a_function_of_the_key():
  eager = kept(KEYS["seed"], 0.3)
  compiled = jax.jit(lambda x, key: layers.dropout(x, 0.3, key))(jnp.ones(SHAPE), KEYS["seed"])
  np.testing.assert_array_equal(eager, np.asarray(compiled) != 0)
  assert (eager != kept(KEYS["next seed"], 0.3)).mean() > 0.3  # 0.42 if independent


@pytest.mark.parametrize("spec", [P("a"), P(None, "a", "b"), P("b", None, "a"), P()])
def test_dropout_over_eight_devices_is_that_of_one_without_communication(spec):
  mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
  sharding = NamedSharding(mesh, spec)
  x = jnp.asarray(np.random.default_rng(2).normal(size=SHAPE), jnp.float32)
  drop = jax.jit(lambda x, key: layers.dropout(x, 0.3, key), out_shardings=sharding)
  compiled = drop.lower(jax.device_put(x, sharding), KEYS["seed"]).compile()
  over_eight = compiled(
    jax.device_put(x, sharding), jax.device_put(KEYS["seed"], NamedSharding(mesh, P()))
  )
  np.testing.assert_array_equal(over_eight, layers.dropout(x, 0.3, KEYS["seed"]))
  text = compiled.as_text()
  assert not [word for word in ("all-", "collective", "permute") if word in text]


# Attention

B, T, S, D, H, K = 2, 5, 7, 12, 4, 6
SCALE = 0.3
INPUTS = np.random.default_rng(1)
X = INPUTS.normal(size=(B, T, D)).astype(np.float32)
MEMORY = INPUTS.normal(size=(B, S, D)).astype(np.float32)


def randomised(build, seed=0):
  """The module that `build` makes, each weight random (no bias is 0), without compiling."""
  rng = np.random.default_rng(seed)
  graph, state = nnx.split(nnx.eval_shape(build))
  weights = jax.tree.map(
    lambda x: (0.3 * rng.normal(size=x.shape) + (x.ndim == 1)).astype(x.dtype), state
  )
  return nnx.merge(graph, jax.tree.map(jnp.asarray, weights))


def config(**changes):
  sizes = dict(vocab_size=8, dim=D, num_heads=H, head_dim=K, mlp_dim=20)
  return TransformerConfig(**sizes | changes)


def attention(groups, bias=True):
  cfg = config(num_kv_heads=groups, bias=bias)
  return randomised(lambda: Attention(cfg, rngs=nnx.Rngs(0)))


@functools.partial(jax.jit, static_argnames="dot_product")
def attended(module, bias, key, dot_product):
  pattern = FullAttention(bias, dot_product)
  return module.attend(module.queries(X), *module.keys_values(MEMORY), pattern, key)


def attend(module, bias, key=None, impl="einsum", dropout=0.0):
  dot_product = DotProduct(SCALE, dropout, impl)
  return np.asarray(attended(module, jnp.asarray(bias, jnp.float32), key, dot_product))


def attend_in_loops(module, bias, drop=None):
  """The textbook's attention, one head and one position at a time, in float64."""
  weight = {
    name: np.asarray(getattr(module, name).kernel[...], np.float64)
    for name in ("query", "key", "value", "out")
  }
  offset = {
    name: np.asarray(getattr(module, name).bias[...], np.float64) if module.out.bias else 0.0
    for name in weight
  }
  q = np.tensordot(X, weight["query"], 1) + offset["query"]
  k = np.tensordot(MEMORY, weight["key"], 1) + offset["key"]
  v = np.tensordot(MEMORY, weight["value"], 1) + offset["value"]
  per_group = H // k.shape[2]
  bias = np.broadcast_to(bias, (B, H, T, S))
  y = np.zeros((B, T, D))
  for b, h, t in np.ndindex(B, H, T):
    logits = np.array(
      [q[b, t, h] @ k[b, s, h // per_group] * SCALE + bias[b, h, t, s] for s in range(S)]
    )
    share = np.exp(logits - logits.max())
    share /= share.sum()
    if drop is not None:
      share *= drop[b, h, t]
    y[b, t] += sum(share[s] * v[b, s, h // per_group] for s in range(S)) @ weight["out"][h]
  return y + offset["out"]


def biases():
  """A bias for all, one for each head, and a mask that leaves each query something to see."""
  noise = np.random.default_rng(2).normal(size=(B, H, T, S)).astype(np.float32)
  mask = np.where(np.arange(S) <= np.arange(T)[:, None], 0.0, NEG_INF)[None, None]
  return [noise, noise[:1], noise[:, :1], mask.astype(np.float32), mask + noise]


@pytest.mark.parametrize("groups", [H, 2, 1])
def test_attention_is_jaxs_and_the_textbooks(groups):
  ours = attention(groups)
  for bias in biases() if groups == 2 else biases()[-1:]:
    np.testing.assert_allclose(attend(ours, bias), attend(ours, bias, impl="xla"), atol=5e-6)
    np.testing.assert_allclose(attend(ours, bias), attend_in_loops(ours, bias), atol=5e-6)


def test_attention_without_biases_is_the_textbooks():
  ours, bias = attention(2, bias=False), biases()[0]
  assert ours.out.bias is None
  np.testing.assert_allclose(attend(ours, bias), attend_in_loops(ours, bias), atol=5e-6)


def test_the_gradient_of_the_softmax_is_autodiffs_and_keeps_half_as_much():
  rng = np.random.default_rng(0)
  logits, up = (jnp.asarray(rng.normal(size=(2, 3, 17)), jnp.float32) for _ in range(2))
  found, back = jax.vjp(lambda x: layers.softmax(x, jnp.float32), logits)
  want, autodiff = jax.vjp(jax.nn.softmax, logits)
  np.testing.assert_array_equal(found, want)
  np.testing.assert_allclose(back(up)[0], autodiff(up)[0], atol=1e-7)
  half, back = jax.vjp(lambda x: layers.softmax(x, jnp.bfloat16), logits)
  np.testing.assert_array_equal(half, want.astype(jnp.bfloat16))
  np.testing.assert_allclose(back(up.astype(jnp.bfloat16))[0], autodiff(up)[0], atol=4e-3)
  assert sum(x.nbytes for x in jax.tree.leaves(back)) == logits.nbytes // 2


def test_attention_dropout_drops_weights_after_the_softmax():
  ours, key = attention(2), jax.random.key(1)
  bias, drop = biases()[0], np.asarray(layers.dropout(jnp.ones((B, H, T, S)), 0.4, key))
  assert 0.2 < (drop == 0).mean() < 0.6
  found = attend(ours, bias, key, dropout=0.4)
  np.testing.assert_allclose(found, attend_in_loops(ours, bias, drop), atol=5e-6)


@pytest.mark.parametrize("impl", ["einsum", "xla"])
def test_a_query_that_may_see_nothing_is_finite(impl):
  module, dot_product = attention(2), DotProduct(SCALE, 0.0, impl)
  bias = np.zeros((B, 1, T, S), np.float32)
  bias[:, :, 2] = NEG_INF

  def loss(module):
    return (attended(module, bias, None, dot_product) ** 2).sum()

  value, gradient = jax.jit(jax.value_and_grad(loss))(module)
  assert np.isfinite(value)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("groups", [2, 1])
def test_grouped_heads_are_plain_heads_that_share_keys_and_values(groups):
  grouped, plain = attention(groups), attention(H)
  for name in ("query", "out"):
    for part in ("kernel", "bias"):
      getattr(getattr(plain, name), part)[...] = getattr(getattr(grouped, name), part)[...]
  for name in ("key", "value"):
    few, many = getattr(grouped, name), getattr(plain, name)
    many.kernel[...] = jnp.repeat(few.kernel[...], H // groups, axis=1)
    many.bias[...] = jnp.repeat(few.bias[...], H // groups, axis=0)
  bias = biases()[0]
  np.testing.assert_allclose(attend(grouped, bias), attend(plain, bias), atol=5e-6)


def test_glorot_counts_all_heads_as_one_output():
  cfg = config(dim=64, head_dim=8, bias=False)
  state = jax.jit(lambda: nnx.state(Attention(cfg, rngs=nnx.Rngs(0))))()
  limit = math.sqrt(6 / (64 + 4 * 8))
  for kernel in jax.tree.leaves(state):
    assert 0.95 * limit < np.abs(kernel).max() <= limit


# Feed-forward and norms

ACTIVATIONS = {
  "relu": lambda x: np.maximum(x, 0),
  "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
  "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
  "silu": lambda x: x / (1 + np.exp(-x)),
  "tanh": lambda x: 1 - 2 / (1 + np.exp(2 * x)),
}


def test_every_activation_is_tested():
  assert ACTIVATIONS.keys() == layers.ACTIVATIONS.keys()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_is_its_formula(activation, gated):
  cfg = config(activation=activation, gated=gated, activation_dropout=0.25, init_std=0.3)
  module = randomised(lambda: layers.FeedForward(cfg, rngs=nnx.Rngs(0)))

  def linear(part, x):
    return x @ np.asarray(part.kernel[...], np.float64) + np.asarray(part.bias[...], np.float64)

  act, up = ACTIVATIONS[activation], linear(module.up, X)
  hidden = act(linear(module.gate, X)) * up if gated else act(up)
  run, key = jax.jit(lambda module, key: module(X, key)), jax.random.key(0)
  np.testing.assert_allclose(run(module, None), linear(module.down, hidden), atol=5e-5)
  drop = np.asarray(layers.dropout(jnp.ones(hidden.shape), 0.25, key))
  np.testing.assert_allclose(run(module, key), linear(module.down, hidden * drop), atol=5e-5)


def test_norms_are_their_formulas():
  x = X.astype(np.float64) + 1
  for kind in layers.NORMS:
    cfg = config(norm=kind, norm_eps=1e-3)
    module = randomised(lambda cfg=cfg: layers.norm(cfg, rngs=nnx.Rngs(0)))
    scale = np.asarray(module.scale[...])
    if kind == "layer":
      centred = x - x.mean(-1, keepdims=True)
      want = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-3) * scale
      want = want + np.asarray(module.bias[...])
    else:
      want = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * scale
    np.testing.assert_allclose(module(jnp.asarray(x, jnp.float32)), want, atol=2e-5)


# Positions


@pytest.mark.parametrize("dim", [8, 9])
def test_sinusoidal_is_the_formula(dim):
  places = np.array([[0, 1, 2, 300], [0, 1, 0, 7]])
  got = np.asarray(sinusoidal(jnp.asarray(places), dim))
  half = dim // 2
  for b, t in np.ndindex(places.shape):
    for i in range(half):
      angle = places[b, t] / 10000 ** (2 * i / dim)
      np.testing.assert_allclose(got[b, t, i], math.sin(angle), atol=2e-5)
      np.testing.assert_allclose(got[b, t, half + i], math.cos(angle), atol=2e-5)
  assert got.shape == (2, 4, dim)
  assert not got[..., 2 * half :].any()


def test_rotary_turns_pairs_as_complex_numbers():
  x = INPUTS.normal(size=(2, 3, 2, 6)).astype(np.float32)
  places = np.array([[0, 1, 50], [3, 0, 9]])
  got = np.asarray(rotary(jnp.asarray(x), jnp.asarray(places), 100.0))
  turn = np.exp(1j * places[..., None, None] * 100.0 ** (-2 * np.arange(3) / 6))
  want = (x[..., :3] + 1j * x[..., 3:]) * turn
  np.testing.assert_allclose(got, np.concatenate([want.real, want.imag], -1), atol=1e-5)
  norms = np.linalg.norm(x, axis=-1)
  np.testing.assert_allclose(np.linalg.norm(got, axis=-1), norms, rtol=1e-5)
  np.testing.assert_array_equal(got[0, 0], x[0, 0])


def test_rotary_products_depend_on_the_distance_only():
  q, k = INPUTS.normal(size=(2, 8)).astype(np.float32)
  places = jnp.arange(64)[None]
  turned_q, turned_k = (
    np.asarray(rotary(jnp.broadcast_to(x, (1, 64, 1, 8)), places, 10000.0))[0, :, 0] for x in (q, k)
  )
  products = turned_q @ turned_k.T
  for distance in range(-60, 60):
    diagonal = np.diagonal(products, distance)
    np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
  assert np.ptp(products) > 0.1


def test_alibi_slopes_are_the_papers():
  distance = np.arange(5)[None, None, :] - np.arange(3)[None, :, None]
  slopes = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256])
  want = -slopes[:, None, None] * np.abs(distance)[:, None]
  np.testing.assert_allclose(alibi(jnp.asarray(distance), 8), want, rtol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 12, 16, 20])
def test_alibi_takes_any_number_of_heads(heads):
  """Not a power of two: those of the power below, then every second of the power above."""
  slopes = -np.asarray(alibi(jnp.ones((1, 1, 1)), heads))[0, :, 0, 0]
  power = 1
  while 2 * power <= heads:
    power *= 2
  want = [2 ** (-8 * i / power) for i in range(1, power + 1)]
  want += [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power, 2)][: heads - power]
  np.testing.assert_allclose(slopes, want, rtol=1e-6)
  assert len(set(slopes)) == heads


def slow_bucket(distance, bidirectional, num_buckets, max_distance):
  """T5's buckets from the paper's words, in whole numbers: half of a direction's buckets hold one
  distance each, the others grow by a constant factor up to max_distance."""
  first = 0
  if bidirectional:
    num_buckets //= 2
    if distance > 0:
      first = num_buckets
    distance = abs(distance)
  elif distance > 0:
    distance = 0  # the future: never looked at
  else:
    distance = -distance
  near = num_buckets // 2
  if distance < near:
    return first + distance
  far = num_buckets - near
  number = 0  # of the wide bucket: the largest with near * (max / near)^(number / far) <= distance
  while number < far - 1 and distance**far * near ** (number + 1) >= near**far * (
    max_distance ** (number + 1)
  ):
    number += 1
  return first + near + number


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 20), (16, 300)])
def test_buckets_are_the_slow_ones(bidirectional, num_buckets, max_distance):
  distances = range(-300, 301)
  settings = dict(num_buckets=num_buckets, max_distance=max_distance)
  got = bucket(jnp.array(distances), bidirectional=bidirectional, **settings)
  want = [slow_bucket(d, bidirectional, num_buckets, max_distance) for d in distances]
  assert got.tolist() == want
  unused = {num_buckets // 2} if bidirectional else set()  # of the distance +0
  assert set(want) == set(range(num_buckets)) - unused


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_bias_is_a_look_up(bidirectional):
  cfg = config(dim=9, num_heads=3, relative_buckets=8, relative_max_distance=20)
  module = randomised(lambda: positions.RelativeBias(cfg, bidirectional, rngs=nnx.Rngs(0)))
  distance = np.arange(30)[None, None, :] - np.arange(20)[None, :, None]
  bias = np.asarray(jax.jit(lambda module, x: module(x))(module, distance))
  table = np.asarray(module.embedding[...])
  place = np.vectorize(lambda d: slow_bucket(int(d), bidirectional, 8, 20))(distance)
  np.testing.assert_array_equal(bias, np.moveaxis(table[place], -1, 1))
  assert bias.shape == (1, 3, 20, 30)
