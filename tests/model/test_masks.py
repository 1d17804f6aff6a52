"""Attention in chunks = attention over all pairs, masked; and the mask is what its text says."""

import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from model import patterns
from model.masks import MaskRule, Tokens
from tests.model.helpers import build

LENGTH = 23  # no multiple of any window


def row_of(packed=True, prefix=False):
  """Returns two rows: of three segments and padding, and full; or of one segment each."""
  sizes = [[9, 3, 8], [23]] if packed else [[20], [23]]
  segments = np.zeros((2, LENGTH), np.int32)
  for row, lengths in zip(segments, sizes):
    filled = np.repeat(np.arange(len(lengths)), lengths) + 1
    row[: len(filled)] = filled
  place = np.arange(LENGTH)[None]
  return Tokens(segments, place, (place < [[4], [7]]).astype(np.int32) if prefix else None)


def seen_in_loops(rule, row):
  """Applies the rule as its docstring reads, pair by pair."""
  seen = np.zeros((2, LENGTH, LENGTH), bool)
  for b, t, s in itertools.product(range(2), range(LENGTH), range(LENGTH)):
    if row.segments[b, s] == 0 or row.segments[b, t] != row.segments[b, s]:
      continue
    if rule.causal and s > t and not (row.prefix is not None and row.prefix[b, s]):
      continue
    if abs(s - t) >= (rule.window or LENGTH) and min(s, t) >= rule.global_tokens:
      continue
    seen[b, t, s] = True
  return seen


RULES = [
  MaskRule(causal, window, global_tokens)
  for causal, (window, global_tokens) in itertools.product(
    (False, True), ((None, 0), (1, 0), (5, 0), (3, 2), (2, 7))
  )
]


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_is_what_it_says_pair_by_pair(rule, prefix):
  row = row_of(prefix=prefix)
  np.testing.assert_array_equal(rule(row, row), seen_in_loops(rule, row))


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.window], ids=str)
def test_chunks_see_each_pair_that_a_rule_lets_see_once(rule, prefix):
  """Values that are one-hot places: what comes out is what was seen."""
  row = row_of(prefix=prefix)

  def seen(query, key):
    return np.asarray(rule(query, key), np.float32)[..., None, :, :]

  def attend(q, k, v, mask, key):
    assert key is None
    return np.einsum("BHTS,BSHK->BTHK", mask, v)

  chunks = patterns.cut(rule, row)
  chunked = 3 * rule.window + rule.global_tokens < LENGTH
  assert (chunks is not None) == chunked
  if not chunked:
    return
  first = row.map(lambda x: x[:, : chunks.first])
  bias = seen(row.map(chunks.own), chunks.keys(row)), seen(first, row) if chunks.first else None
  pattern = patterns.ChunkedAttention(chunks, *bias, attend)
  values = np.broadcast_to(np.eye(LENGTH)[None, :, None], (2, LENGTH, 1, LENGTH))
  attended = np.asarray(pattern(values, values, values))[:, :, 0]
  np.testing.assert_array_equal(attended, seen_in_loops(rule, row))


@pytest.mark.parametrize("positions", ["rotary", "relative", "alibi"])
@pytest.mark.parametrize("global_tokens", [0, 3])
def test_a_model_in_chunks_is_the_model_with_a_mask(positions, global_tokens, monkeypatch):
  """Encoder and decoder, loss and gradient, packed unless there are global tokens."""
  packed = not global_tokens
  row = row_of(packed=packed)
  model = build(window=4, global_tokens=global_tokens, positions=positions, norm_position="pre")
  graph, weights = nnx.split(model)
  rng = np.random.default_rng(0)
  source, inputs = rng.integers(1, 16, (2, 2, LENGTH)) * (row.segments > 0)

  def compute():
    """Computes loss and gradient, traced anew; returns them and the program."""

    def loss(weights):
      model = nnx.merge(graph, weights)
      memory = model.encode(source, row.segments)
      states = model.decode(inputs, memory, row.segments, row.segments)
      return (states[row.segments > 0] ** 2).sum()  # what padding sees is nobody's business

    traced = jax.jit(jax.value_and_grad(loss)).trace(weights)
    return jax.device_get(traced.lower().compile()(weights)), str(traced.jaxpr)

  shape = f"[{2 * -(-LENGTH // 4)},2,2,4,"  # rows of chunks, groups, heads of each, tokens
  local, program = compute()
  assert shape in program
  monkeypatch.setattr(patterns.Chunks, "width", LENGTH)
  whole, program = compute()
  assert shape not in program
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), local, whole)


def test_what_chunks_drop_depends_on_the_row_alone():
  """With a key for each row, as training has it: rows in another order drop the same."""
  model = build(window=2, positions="rotary", encoder_layers=1, attention_dropout=0.5)
  inputs = np.random.default_rng(0).integers(1, 16, (3, LENGTH))
  keys = jax.random.split(jax.random.key(0), 3)
  states = np.asarray(model.encode(inputs, key=keys))
  assert np.abs(states - model.encode(inputs)).max() > 1e-2
  turned = np.asarray(model.encode(inputs[::-1], key=keys[::-1]))[::-1]
  np.testing.assert_allclose(states, turned, atol=1e-5)


def test_the_memory_of_a_window_grows_with_the_length_and_not_with_its_square():
  model = build(window=8, positions="rotary", decoder_layers=0)
  graph, weights = nnx.split(model)

  def bytes_of(length):
    ids = jax.ShapeDtypeStruct((1, length), np.int32)
    encode = jax.jit(lambda weights, ids: nnx.merge(graph, weights).encode(ids))
    return encode.lower(weights, ids).compile().memory_analysis().temp_size_in_bytes

  assert bytes_of(4096) < 3 * bytes_of(2048)  # the square would be 4
