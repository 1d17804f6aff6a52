"""The LSTM against a loop in numpy, and what holds for a Transformer: cached = parallel, packed =
separate, no look ahead."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import decoding, recurrence
from model.config import LSTMConfig
from model.lstm import LSTM
from tests.model.helpers import PACKED, SIZES, batch_of, decode_step_by_step, run

TINY = dict(vocab_size=16, dim=12, encoder_layers=2, decoder_layers=2, dropout=0.0)
KINDS = {
  "plain": {},
  "one way": dict(bidirectional=False, share_embeddings=False, tie_output=False, output_bias=True),
  "one layer and three": dict(encoder_layers=1, decoder_layers=3),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(**settings):
  """Builds a tiny model with random weights, none of them 0."""
  rng = np.random.default_rng(0)
  cfg = LSTMConfig(**TINY | settings)
  graph, state = nnx.split(nnx.eval_shape(lambda: LSTM(cfg, rngs=nnx.Rngs(0))))
  weights = jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), state)
  return nnx.merge(graph, weights)


@functools.cache
def model_of(kind):
  return build(**KINDS[kind])


def language_model():
  return build(encoder_layers=0, output_bias=True)


# Against numpy


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def walk(weights, vectors, cell, reverse=False):
  """Computes the hidden states of one direction over one segment, token by token."""
  W, b, U = weights["input"]["kernel"], weights["input"]["bias"], weights["recurrent"]["kernel"]
  hidden, states = np.tanh(cell), []
  for x in vectors[::-1] if reverse else vectors:
    i, f, o, g = np.split(x @ W + b + hidden @ U, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(cell)
    states.append(hidden)
  return np.array(states[::-1] if reverse else states)


def by_hand(model, source, inputs):
  """Computes the encoder's states and the decoder's logits of a pair by the papers' equations."""
  w = jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(nnx.state(model)))
  D = model.cfg.dim
  words = w["embedding"]["embedding"]
  x = w.get("source_embedding", w["embedding"])["embedding"][source] * D**0.5
  for _, layer in sorted(w["encoder"]["blocks"].items()):
    ways = [walk(layer["forward"], x, np.zeros(D // len(layer)))]
    if "backward" in layer:
      ways.append(walk(layer["backward"], x, np.zeros(D // 2), reverse=True))
    x = np.concatenate(ways, axis=1)
  memory, decoder = x, w["decoder"]
  cells = np.tanh(memory.mean(0) @ decoder["first"]["kernel"] + decoder["first"]["bias"])
  x = words[inputs] * D**0.5
  for (_, layer), cell in zip(
    sorted(decoder["blocks"].items()), cells.reshape(model.cfg.decoder_layers, D)
  ):
    x = walk(layer["forward"], x, cell)
  scores = np.exp(x @ (memory @ decoder["attention"]["general"]["kernel"]).T)
  context = scores / scores.sum(1, keepdims=True) @ memory
  x = np.tanh(np.concatenate([context, x], axis=1) @ decoder["attention"]["combine"]["kernel"])
  output = w["output"]["kernel"] if "output" in w else words.T
  return memory, x @ output + w.get("output_bias", 0)


@every_kind
def test_it_computes_what_a_loop_in_numpy_does(kind):
  model, rng = model_of(kind), np.random.default_rng(2)
  source, inputs = rng.integers(1, 16, 6), rng.integers(1, 16, 5)
  memory = model.encode(source[None])
  logits = model.logits(model.decode(inputs[None], memory, jnp.ones((1, 6), jnp.int32)))
  expected_memory, expected_logits = by_hand(model, source, inputs)
  np.testing.assert_allclose(memory[0], expected_memory, atol=2e-5)
  np.testing.assert_allclose(logits[0], expected_logits, atol=1e-4)
  assert logits.dtype == jnp.float32
  assert expected_logits.std() > 0.5


@pytest.mark.parametrize("backward", [False, True])
def test_the_gradient_of_a_recurrence_is_autodiffs(backward):
  T, B, D = 7, 3, 4
  rng = np.random.default_rng(0)
  kernel, gates, starts, probe = (
    jnp.asarray(rng.normal(size=size), jnp.float32)
    for size in ((D, 4 * D), (T, B, 4 * D), (T, B, D), (T, B, D))
  )
  segments = jnp.asarray([[1, 1, 2, 2, 2, 3, 0], [1, 1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 0, 0]]).T
  begins = recurrence.segment_starts(segments, backward)

  def gradients(way):
    def total(kernel, gates, starts):
      return (way(kernel, gates, begins, starts, backward) * probe).sum()

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(kernel, gates, starts)

  for ours, autodiffs in zip(gradients(recurrence.recurrence), gradients(recurrence._scan)):
    np.testing.assert_allclose(ours, autodiffs, rtol=1e-4, atol=1e-5)
    assert np.abs(ours).max() > 0.1


# What holds for a Transformer


@every_kind
def test_cached_is_parallel(kind):
  model, batch = model_of(kind), batch_of(packed=False)
  inputs = np.random.default_rng(0).integers(1, 16, (len(SIZES), 9))
  memory = model.encode(batch["source"])
  parallel = model.logits(model.decode(inputs, memory, batch["source_segments"]))
  cache = model.init_cache(len(inputs), 9, memory, batch["source_segments"])
  assert all(len(leaf) == len(inputs) for leaf in jax.tree.leaves(cache))
  np.testing.assert_allclose(decode_step_by_step(model, inputs, cache), parallel, atol=5e-5)


def test_cached_is_parallel_in_a_language_model():
  model, inputs = language_model(), np.random.default_rng(0).integers(1, 16, (3, 6))
  cached = decode_step_by_step(model, inputs, model.init_cache(3, 6))
  np.testing.assert_allclose(cached, model.logits(model.decode(inputs)), atol=5e-5)
  assert cached.std() > 0.5


@every_kind
def test_packed_rows_are_separate_rows(kind):
  model = model_of(kind)
  packed, separate = (run(model, batch_of(packed=packed)) for packed in (True, False))
  starts = dict.fromkeys(range(len(PACKED)), (0, 0))
  for r, i in ((r, i) for r, row in enumerate(PACKED) for i in row):
    for side, (together, alone) in enumerate(zip(packed, separate)):
      start, size = starts[r][side], SIZES[i][side]
      np.testing.assert_allclose(together[r, start : start + size], alone[i, :size], atol=5e-5)
    starts[r] = tuple(np.add(starts[r], SIZES[i]))


@every_kind
def test_padding_changes_nothing(kind):
  model, rng = model_of(kind), np.random.default_rng(3)
  source, inputs = rng.integers(1, 16, (2, 5)), rng.integers(1, 16, (2, 4))

  def states(padding):
    long = [np.pad(ids, ((0, 0), (0, padding))) for ids in (source, inputs)]
    memory = model.encode(long[0])
    return memory[:, :5], model.decode(long[1], memory, (long[0] > 0).astype(np.int32))[:, :4]

  for without, padded in zip(states(0), states(3)):
    np.testing.assert_allclose(padded, without, atol=1e-6)


@pytest.mark.parametrize("both", [True, False], ids=["with an encoder", "language model"])
def test_no_gradient_comes_from_the_future(both):
  """The Jacobian of output t by the embedding of input s is exactly 0 for s > t, and only there."""
  model, T = model_of("plain") if both else language_model(), 6
  inputs = np.array([[1, 9, 4, 12, 7, 5]])  # a table's row is one place's input
  memory = (model.encode(inputs), jnp.ones((1, T), jnp.int32)) if both else ()
  graph, state = nnx.split(model)
  weights = nnx.to_pure_dict(state)

  def outputs(table):
    changed = nnx.merge(graph, weights | {"embedding": {"embedding": table}})
    return changed.decode(inputs, *memory)

  by_table = jax.jacrev(lambda table: outputs(table)[0].sum(-1))(weights["embedding"]["embedding"])
  jacobian = np.abs(np.asarray(by_table)).max(-1)[:, inputs[0]]  # [t, s]
  assert (np.triu(jacobian, 1) == 0).all()
  assert (jacobian[np.tril_indices(T)] > 1e-6).all()


LIMITS = decoding.Limits(max_len=8, limit_B=jnp.array([8, 5, 3]), bos=1, eos=2, pad=0)


@pytest.fixture(scope="module")
def searched():
  """Returns a model, its memory of three sources, their segments, and a cache."""
  model = model_of("plain")
  source = np.array([[5, 9, 4, 2, 0], [7, 3, 8, 11, 2], [12, 2, 0, 0, 0]])
  memory, segments = model.encode(source), (source > 0).astype(np.int32)
  return model, memory, segments, model.init_cache(3, 8, memory, segments)


def test_one_beam_is_greedy(searched):
  model, *_, cache = searched
  greedy = decoding.greedy(model.decode_step, cache, LIMITS)
  beam = decoding.beam_search(model.decode_step, cache, LIMITS, num_beams=1, length_penalty=0.0)
  for by_greedy, by_beam in zip(greedy, beam):
    np.testing.assert_allclose(by_greedy, by_beam, atol=1e-5)


def test_beams_keep_their_own_state(searched):
  """The log-probabilities of a search are those of the model, all at once."""
  model, memory, segments, cache = searched
  beams = decoding.beam_search(
    model.decode_step, cache, LIMITS, num_beams=4, num_return=4, length_penalty=0.0
  )
  assert len({tuple(row) for row in np.asarray(beams.tokens[0])}) == 4
  for n in range(4):
    tokens = beams.tokens[:, n]
    inputs = jnp.concatenate([jnp.ones((3, 1), jnp.int32), tokens[:, :-1]], axis=1)
    ones = jnp.ones_like(inputs)
    x = model.decode(inputs, memory, segments, ones)
    logs = jnp.take_along_axis(jax.nn.log_softmax(model.logits(x)), tokens[..., None], -1)[..., 0]
    total = jnp.where(jnp.arange(8) < beams.lengths[:, n, None], logs, 0).sum(1)
    nonempty = beams.lengths[:, n] > 0
    np.testing.assert_allclose(
      np.where(nonempty, beams.log_probs[:, n], 0), np.where(nonempty, total, 0), atol=1e-4
    )


# Dropout, precision, mistakes


def test_dropout_is_a_rows_own_and_acts_on_both_sides():
  model, batch = build(dropout=0.5), batch_of(packed=True)
  keys = jax.random.split(jax.random.key(0), len(PACKED))
  source, segments = batch["source"], batch["source_segments"]
  plain, dropped = model.encode(source, segments), model.encode(source, segments, key=keys)
  last = model.encode(source[1:], segments[1:], key=keys[1:])
  np.testing.assert_array_equal(last, dropped[1:])
  kept = dropped != 0
  assert 0.4 < kept.mean() < 0.6
  assert np.abs(dropped - 2 * plain)[kept].max() > 0.1  # what is read is dropped too
  decode = functools.partial(
    model.decode, batch["inputs"], plain, segments, batch["segments"], batch["positions"]
  )
  assert np.abs(decode(key=keys) - decode()).max() > 0.1


def test_half_precision_is_near_whole():
  whole, half = model_of("plain"), build(dtype="bfloat16")
  (memory, logits), (near_memory, near_logits) = (
    run(model, batch_of(packed=True)) for model in (whole, half)
  )
  assert half.encode(batch_of(packed=True)["source"]).dtype == jnp.bfloat16
  assert near_logits.dtype == np.float32
  assert 0 < np.abs(near_memory.astype(np.float32) - memory).max() < 0.1
  assert np.abs(near_logits - logits).mean() < 0.05 * np.abs(logits).mean()


def test_forget_gates_begin_open():
  model = LSTM(LSTMConfig(**TINY, forget_bias=3.0), rngs=nnx.Rngs(0))
  bias = np.asarray(model.decoder.blocks[0].forward.input.bias[...]).reshape(4, 12)
  np.testing.assert_array_equal(bias, np.array([[0], [3], [0], [0]]) + np.zeros((4, 12)))


@pytest.mark.parametrize(
  "wrong, message",
  [
    (dict(dim=11), "dim 11 is odd"),
    (dict(dim=0), "dim"),
    (dict(dropout=1.0), "dropout"),
    (dict(dtype="float31"), "dtype"),
    (dict(encoder_layers=0, decoder_layers=0), "encoder_layers"),
    (dict(decoder_layers=-1), "decoder_layers"),
  ],
)
def test_settings_that_make_no_model_are_named(wrong, message):
  with pytest.raises(ValueError, match=rf"{message}\b"):
    LSTMConfig(**TINY | wrong)


def test_a_prefix_is_refused():
  inputs = np.ones((1, 3), np.int32)
  with pytest.raises(ValueError, match="prefix"):
    language_model().decode(inputs, prefix=inputs)
