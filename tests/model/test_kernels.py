"""Splash in Pallas's interpreter = attention over all pairs, masked; and what no kernel can do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import kernels
from model.config import TransformerConfig
from tests.model.helpers import build
from train import sharding

T, S = 128, 256


def batch_of(rows=1):
  """Returns targets and sources in three segments and padding."""
  rng = np.random.default_rng(0)

  def side(length):
    ids = rng.integers(1, 16, (rows, length))
    segments = np.repeat([1, 2, 3, 0], length // 4)
    return np.where(segments > 0, ids, 0), np.tile(segments, (rows, 1))

  return *side(T), *side(S)


def compute(impl, batch, **settings):
  """Computes loss and gradient; returns them and the program's text."""
  model = build(attention_impl=impl, norm_position="pre", **settings)
  graph, weights = nnx.split(model)

  def loss(weights, inputs, segments, source, source_segments):
    model = nnx.merge(graph, weights)
    memory = None
    if model.encoder is not None:
      memory = model.encode(source, source_segments)
    states = model.decode(inputs, memory, source_segments, segments)
    return jnp.where((segments > 0)[..., None], states**2, 0).sum()

  traced = jax.jit(jax.value_and_grad(loss)).trace(weights, *batch)
  return jax.device_get(traced.lower().compile()(weights, *batch)), str(traced.jaxpr)


@pytest.mark.parametrize(
  "encoder_layers, window", [(1, None), (1, 20), (0, None), (0, 20), (0, (20, None))]
)
def test_splash_is_attention_over_all_pairs(encoder_layers, window, monkeypatch):
  monkeypatch.setattr(kernels, "INTERPRET", True)
  sizes = dict(encoder_layers=encoder_layers, decoder_layers=1, window=window, positions="rotary")
  if isinstance(window, tuple):
    sizes |= dict(decoder_layers=2, attention_softcap=1.5, head_dim=128)  # a layout of its own
  ours, program = compute("splash", batch_of(), **sizes)
  assert "pallas_call" in program
  theirs, program = compute("einsum", batch_of(), **sizes)
  assert "pallas_call" not in program
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), ours, theirs)


def test_a_kernel_is_spread_over_rows_and_heads(monkeypatch):
  monkeypatch.setattr(kernels, "INTERPRET", True)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  sizes = dict(encoder_layers=0, decoder_layers=1, positions="rotary")
  alone, _ = compute("splash", batch_of(4), **sizes)
  with sharding.activation_sharding(mesh):
    spread, program = compute("splash", batch_of(4), **sizes)
  assert "shard_map" in program
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), alone, spread)


@pytest.mark.parametrize("rows", ["no tiles", "prefix"])
def test_what_splash_cannot_do_in_a_row_is_done_without(rows):
  """Rows that are no whole tiles, and prefixes."""
  model = build(attention_impl="splash", positions="rotary", encoder_layers=0)
  other = build(attention_impl="einsum", positions="rotary", encoder_layers=0)
  length = T if rows == "prefix" else T - 1
  inputs = np.random.default_rng(0).integers(1, 16, (2, length))
  prefix = (np.arange(length) < 9).astype(np.int32)[None] if rows == "prefix" else None
  np.testing.assert_allclose(
    model.decode(inputs, prefix=prefix), other.decode(inputs, prefix=prefix), atol=1e-5
  )


@pytest.mark.parametrize(
  "settings, platform, message",
  [
    (dict(attention_impl="einsum"), "cpu", ""),
    (dict(attention_impl="xla"), "tpu", ""),
    (dict(attention_impl="splash"), "tpu", ""),
    (dict(attention_impl="splash"), "cpu", "it runs on tpu, not on cpu"),
    (dict(attention_impl="splash", positions="relative"), "tpu", "no bias of distances"),
    (dict(attention_impl="splash", window=4, global_tokens=1), "tpu", "no global tokens"),
    (dict(attention_impl="splash", positions="disentangled"), "tpu", "no bias of distances"),
    (dict(attention_impl="splash", window=4, global_blocks=2), "tpu", "no global tokens"),
    (dict(attention_impl="splash", attention_softcap=9.0), "tpu", ""),
    (dict(attention_impl="xla", attention_softcap=9.0), "cpu", "no model.attention_softcap"),
    (dict(attention_impl="cudnn"), "gpu", "model.dtype is float32"),
    (dict(attention_impl="cudnn", dtype="bfloat16"), "gpu", ""),
    (dict(attention_impl="cudnn", dtype="bfloat16"), "tpu", "it runs on gpu, not on tpu"),
  ],
)
def test_what_a_kernel_lacks(settings, platform, message):
  lacks = kernels.lacks(TransformerConfig(vocab_size=8, **settings), platform)
  assert (message in lacks) if message else lacks == ""


@pytest.mark.parametrize(
  "settings, platform, impl",
  [
    ({}, "tpu", "splash"),
    (dict(positions="relative"), "tpu", "einsum"),
    (dict(attention_dropout=0.1), "tpu", "einsum"),
    (dict(dtype="bfloat16"), "gpu", "cudnn"),
    (dict(dtype="bfloat16"), "cuda", "cudnn"),
    ({}, "gpu", "einsum"),
    (dict(dtype="bfloat16"), "cpu", "einsum"),
  ],
)
def test_auto_is_the_kernel_of_the_platform_that_can_compute_the_model(settings, platform, impl):
  cfg = TransformerConfig(vocab_size=8, attention_impl="auto", **settings)
  assert kernels.chosen(cfg, platform) == dataclasses.replace(cfg, attention_impl=impl)


def test_auto_is_einsum_where_no_platform_is_known():
  batch, sizes = batch_of(2), dict(positions="rotary")
  auto, einsum = (compute(impl, batch, **sizes) for impl in ("auto", "einsum"))
  jax.tree.map(np.testing.assert_array_equal, auto[0], einsum[0])
