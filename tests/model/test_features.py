"""Each feature is its formula; cached = parallel, packed = separate, scanned = unrolled."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.config import TransformerConfig
from model.transformer import Transformer
from tests.model.helpers import (
  PACKED,
  SIZES,
  TINY,
  T,
  batch_of,
  build,
  decode_step_by_step,
  run,
)
from tests.model.reference import Reference
from train import sharding
from train.build import model_config
from train.common.trees import flatten, match_layers, path_name
from train.record import config

ROTARY = dict(positions="rotary", norm_position="pre")
FEATURES = {
  "decoder sizes": dict(
    decoder_heads=2, decoder_kv_heads=1, decoder_head_dim=6, decoder_mlp_dim=20,
    positions="learned", decoder_max_len=12,
  ),
  "decoder heads": dict(num_kv_heads=None, decoder_heads=8),
  "norms on both sides": dict(norm_position="both", norm="rms"),
  "norms without bias": dict(norm_bias=False),
  "norms of queries and keys": dict(qk_norm=True, norm="rms", **ROTARY),
  "biases of queries and keys": dict(bias=False, qkv_bias=True),
  "biases of the feed-forward alone": dict(bias=False, mlp_bias=True),
  "pairs that turn seldom are scaled": dict(
    rope_scale=4.0, rope_original_len=10, rope_low_turns=0.1, rope_high_turns=1.0, head_dim=8,
    rope_theta=100.0, **ROTARY,
  ),
  "capped": dict(attention_softcap=0.5, logits_softcap=2.0),
  "a transform before logits": dict(output_transform="tanh"),
  "parallel": dict(parallel=True, encoder_layers=0, decoder_layers=3, **ROTARY),
  "a part turns": dict(rotary_dim=2, **ROTARY),
  "fairseq's sinusoids": dict(positions="sinusoidal_t2t", position_offset=2),
  "learned and relative": dict(positions="learned_relative"),
  "shared layers": dict(share_layers=True, encoder_layers=3),
  "patterns": dict(
    window=(None, 3), rope_theta=(100.0, 10.0, 10.0), rope_scale=(1.0, 2.0), encoder_layers=8,
    decoder_layers=7, norm_position="both", norm="rms", positions="rotary",
  ),
  "patterns of a short period": dict(
    window=(None, 3), rope_theta=(100.0, 10.0), encoder_layers=3, decoder_layers=4, **ROTARY
  ),
  "no first norm": dict(first_norm=False, window=(None, 2), encoder_layers=4, decoder_layers=3,
                        **ROTARY),
  "shared layers of patterns": dict(
    share_layers=True, window=(2, None, 4), encoder_layers=4, decoder_layers=3
  ),
  "a table for each layer": dict(positions="relative", relative_per_layer=True),
  "the same in chunks": dict(positions="relative", relative_per_layer=True, window=2),
  "disentangled": dict(positions="disentangled", relative_max_distance=9),
  "disentangled, exact distances": dict(
    positions="learned_disentangled", relative_buckets=3, relative_max_distance=None,
    disentangled_terms="c2p", disentangled_norm=False,
  ),
  "disentangled, own projections": dict(
    positions="disentangled", relative_max_distance=9, disentangled_projections=True,
  ),
  "positions to contents": dict(
    positions="disentangled", relative_max_distance=9, disentangled_terms="p2c",
  ),
  "a convolution": dict(convolution=3, convolution_activation="relu", encoder_layers=3),
  "disentangled in chunks": dict(
    positions="disentangled", relative_buckets=4, relative_max_distance=6, window=(2, None, None),
    num_kv_heads=None, encoder_layers=4, decoder_layers=3,
  ),
  "global projections": dict(
    window=(2, 4), decoder_window=(None,), global_tokens=2, global_projections=True,
    positions="learned",
  ),
  "global blocks": dict(
    window=3, decoder_window=(None,), global_blocks=2, positions="relative", norm_position="pre",
    norm="rms",
  ),
  "global blocks in chunks": dict(window=2, global_blocks=4, positions="relative"),
  "a decoder without window": dict(window=3, global_tokens=1, decoder_window=(None,)),
}  # fmt: skip
ROWS = {"global_tokens", "global_blocks"}  # settings that count from the start of a row
UNPACKED = {name for name, settings in FEATURES.items() if ROWS & settings.keys()}
every_feature = pytest.mark.parametrize("name", FEATURES)
# Of the tests that compile much the other features are slow ones.
QUICK = ("norms on both sides", "shared layers", "patterns of a short period", "global blocks")


def a_feature(*quick):
  """Runs a test of every feature, of which those besides `quick` are slow."""
  names = [x if x in quick else pytest.param(x, marks=pytest.mark.slow) for x in FEATURES]
  return pytest.mark.parametrize("name", names)


@functools.cache
def model_of(name):
  return build(**FEATURES[name])


def compute(model, batch):
  """Returns the encoder's states, if it has some, and the logits of a decoder."""
  if model.encoder is not None:
    return run(model, batch)
  states = model.decode(batch["inputs"], None, None, batch["segments"], batch["positions"])
  return (np.asarray(model.logits(states)),)


@every_feature
def test_a_feature_is_its_formula_in_numpy(name):
  model, rng = model_of(name), np.random.default_rng(3)
  source, inputs = rng.integers(1, 16, (2, 11))
  theirs, memory, segments = Reference(model), None, None
  encoded = None
  if model.encoder is not None:
    memory, encoded = model.encode(source[None]), theirs.encode(source)
    segments = jnp.ones((1, 11), jnp.int32)
    np.testing.assert_allclose(memory[0], encoded, atol=2e-4)
  logits = model.logits(model.decode(inputs[None], memory, segments))
  np.testing.assert_allclose(logits[0], theirs.decode(inputs, encoded), atol=2e-4)


@a_feature(*QUICK, "decoder sizes", "capped", "parallel")
def test_a_feature_is_cached_as_it_is_parallel(name):
  """By prefilling half of a prompt at once, and then token by token."""
  model, batch = model_of(name), batch_of(packed=False)
  inputs = np.random.default_rng(0).integers(1, 16, (len(SIZES), T))
  memory = segments = None
  if model.encoder is not None:
    memory, segments = model.encode(batch["source"]), batch["source_segments"]
  parallel = np.asarray(model.logits(model.decode(inputs, memory, segments)))
  cache = model.init_cache(len(inputs), T + 2, memory, segments)
  steps = decode_step_by_step(model, inputs[:, :6], cache)
  np.testing.assert_allclose(steps, parallel[:, :6], atol=3e-5)
  cache, last = model.prefill(inputs[:, :5], jnp.full(len(inputs), 5), cache)
  np.testing.assert_array_equal(last, inputs[:, 4])
  steps = decode_step_by_step(model, inputs[:, 4:6], cache)
  np.testing.assert_allclose(steps, parallel[:, 4:6], atol=3e-5)
  assert parallel.std() > 0.1


@pytest.mark.parametrize("name", [name for name in FEATURES if name not in UNPACKED])
def test_packed_rows_with_a_feature_are_separate_rows(name):
  model = model_of(name)
  packed, separate = (compute(model, batch_of(packed=packed)) for packed in (True, False))
  sides = (0, 1) if model.encoder is not None else (1,)
  for side, together, alone in zip(sides, packed, separate):
    for row, members in enumerate(PACKED):
      start = 0
      for i in members:
        size = SIZES[i][side]
        np.testing.assert_allclose(together[row, start : start + size], alone[i, :size], atol=5e-5)
        start += size


def test_of_the_first_tokens_those_are_global_that_a_mask_names():
  """Longformer's questions have other lengths: each row has global tokens of its own."""
  for name in ("global projections", "a decoder without window"):
    settings = dict(global_tokens=3, window=2, decoder_layers=0)
    model = build(**FEATURES[name] | settings)
    source = np.random.default_rng(5).integers(1, 16, (3, 11))
    mask = np.zeros((3, 11), np.int32)
    mask[1, [0, 2, 7]] = mask[2, :3] = 1  # index 7 is none of the first three
    states = np.asarray(model.encode(source, global_mask=mask))
    for row in range(3):
      theirs = Reference(model, mask[row].__getitem__)
      np.testing.assert_allclose(states[row], theirs.encode(source[row]), atol=2e-4)
    np.testing.assert_allclose(states[2], model.encode(source)[2], atol=1e-6)
    assert np.abs(states - model.encode(source))[:2].max() > 1e-2


OVER_DEVICES = ("patterns", "a table for each layer", "disentangled in chunks")
OVER_DEVICES += ("global projections", "global blocks in chunks", "a transform before logits")
OVER_DEVICES = [pytest.param(name, marks=pytest.mark.slow) for name in OVER_DEVICES]


@pytest.mark.parametrize("name", ["norms of queries and keys", *OVER_DEVICES])
def test_a_feature_over_eight_devices_is_that_on_one(name):
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  model = build(**FEATURES[name] | dict(num_kv_heads=2, scan_layers=True))
  graph, state = nnx.split(model)
  params = nnx.to_pure_dict(state)
  rng = np.random.default_rng(0)
  source, inputs = rng.integers(1, 16, (2, 4, 9))

  def loss(params):
    model = nnx.merge(graph, params)
    states = model.decode(inputs, model.encode(source), np.ones_like(source))
    return jnp.sin(model.logits(states)).sum()

  alone = jax.jit(jax.value_and_grad(loss))(params)
  with sharding.activation_sharding(mesh):
    placed = jax.device_put(params, sharding.place(params, mesh))
    spread = jax.jit(jax.value_and_grad(loss))(placed)
  for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(spread)):
    scale = max(1.0, float(np.abs(one).max()))
    np.testing.assert_allclose(other, one, atol=2e-4 * scale)


@every_feature
def test_every_weight_of_a_feature_has_a_place(name):
  mesh = sharding.make_mesh(dict(data=2, fsdp=4, tensor=1))
  for scan in (False, True):
    cfg = TransformerConfig(**TINY | FEATURES[name] | dict(scan_layers=scan))
    state = nnx.state(nnx.eval_shape(lambda cfg=cfg: Transformer(cfg, rngs=nnx.Rngs(0))))
    params = nnx.to_pure_dict(state)
    for path, place in flatten(sharding.place(params, mesh)).items():
      if path.endswith("kernel"):
        assert "fsdp" in place.spec, path


@a_feature(*QUICK)
def test_a_feature_scanned_is_the_feature_unrolled(name):
  """In loss, gradient and decoding, with dropout and remat; the weights match both ways."""
  rates = dict(dropout=0.1, attention_dropout=0.1)
  plain = build(**FEATURES[name] | rates)
  scanned = build(**FEATURES[name] | rates | dict(scan_layers=True, remat="full"))
  theirs = flatten(nnx.state(plain))
  shapes = flatten(nnx.state(scanned))
  matched = match_layers(theirs, shapes)
  assert {k: x.shape for k, x in matched.items()} == {k: x.shape for k, x in shapes.items()}
  back = match_layers(matched, theirs)
  assert back.keys() == theirs.keys()
  for path, weight in back.items():
    np.testing.assert_array_equal(weight, theirs[path], err_msg=path)
  deep = [stack for stack in (scanned.encoder, scanned.decoder) if stack is not None]
  assert all(stack.scanned and stack.scanned % stack.cfg.period == 0 for stack in deep)
  batch, gradients = batch_of(packed=name not in UNPACKED), []
  for model, weights in ((plain, theirs), (scanned, matched)):
    graph, state = nnx.split(model)
    state = jax.tree_util.tree_map_with_path(lambda p, x, w=weights: w[path_name(p)], state)

    def loss(state, graph=graph):
      model, keys = nnx.merge(graph, state), jax.random.split(jax.random.key(2))
      memory, segments = None, None
      if model.encoder is not None:
        segments = batch["source_segments"]
        memory = model.encode(batch["source"], segments, batch["source_positions"], keys[0])
      rows = batch["segments"], batch["positions"], keys[1]
      states = model.decode(batch["inputs"], memory, segments, *rows)
      logits = jnp.sin(model.logits(states))
      return jnp.where(batch["segments"][..., None] > 0, logits, 0).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(state)
    assert np.isfinite(value)
    gradients.append((value, match_layers(flatten(gradient), theirs)))
  (value, ours), (other_value, others) = gradients
  np.testing.assert_allclose(other_value, value, rtol=1e-4, atol=1e-4)
  for path, gradient in ours.items():
    assert np.isfinite(gradient).all(), path
    scale = max(1.0, float(np.abs(gradient).max()))
    np.testing.assert_allclose(others[path], gradient, atol=2e-4 * scale, err_msg=path)


@every_feature
def test_a_config_with_a_feature_survives_its_file(name):
  """As a run's config.json: written, read and frozen, it describes the same model."""
  cfg = TransformerConfig(**TINY | FEATURES[name])
  section = config.frozen(dict(name="transformer", **TINY | FEATURES[name]))
  text = section.to_json_best_effort()
  again = config.frozen(json.loads(text))
  assert model_config(again) == ("transformer", cfg)


@pytest.mark.parametrize(
  "wrong, message",
  [
    (dict(window=()), "window"),
    (dict(window=(4, 0)), "window"),
    (dict(window=(4, (3,))), "window"),
    (dict(window=[4]), "window"),
    (dict(positions="rotary", rope_theta=(1e4, None)), "rope_theta"),
    (dict(positions="rotary", rope_theta=(1e4, -1.0)), "rope_theta"),
    (dict(positions="rotary", rope_scale=0.0), "rope_scale"),
    (dict(positions="rotary", rotary_dim=3), "rotary_dim"),
    (dict(positions="rotary", rotary_dim=6), "rotary_dim"),
    (dict(positions="learned", rotary_dim=2), "rotary_dim"),
    (dict(positions="learned", rope_original_len=2), "rope_original_len"),
    (dict(positions="rotary", rope_low_turns=4.0), "rope_low_turns"),
    (dict(parallel=True, norm_position="pre"), "parallel"),
    (dict(parallel=True, encoder_layers=0), "parallel"),
    (dict(parallel=True, encoder_layers=0, norm_position="both"), "parallel"),
    (dict(first_norm=False), "first_norm"),
    (dict(first_norm=False, norm_position="pre", share_layers=True), "first_norm"),
    (dict(decoder_heads=3), "decoder_heads"),
    (dict(decoder_kv_heads=3), "decoder_kv_heads"),
    (dict(decoder_head_dim=3, positions="rotary"), "decoder_head_dim"),
    (dict(decoder_mlp_dim=0), "decoder_mlp_dim"),
    (dict(global_tokens=1, decoder_window=(None,)), "global_tokens"),
    (dict(relative_per_layer=True), "relative_per_layer"),
    (dict(relative_per_layer=True, positions="relative", share_layers=True), "relative_per_layer"),
    (dict(positions="disentangled", relative_max_distance=5), "relative_max_distance"),
    (dict(positions="relative", relative_max_distance=None), "relative_max_distance"),
    (dict(disentangled_terms="c2p|p2c"), "disentangled_terms"),
    (dict(convolution=2), "convolution"),
    (dict(convolution=3, share_layers=True), "convolution"),
    (dict(convolution=3, encoder_layers=0), "convolution"),
    (dict(global_projections=True, window=3), "global_projections"),
    (dict(global_projections=True, window=3, global_tokens=1, encoder_layers=0),
     "global_projections"),
    (dict(global_projections=True, window=3, global_tokens=1, qk_norm=True), "qk_norm"),
    (dict(global_blocks=0, window=3), "global_blocks"),
    (dict(global_blocks=2), "global_blocks"),
    (dict(global_blocks=2, window=3, encoder_layers=0), "global_blocks"),
    (dict(global_blocks=2, window=3, global_tokens=1), "global_blocks"),
    (dict(global_blocks=2, window=3, positions="rotary"), "global_blocks"),
    (dict(attention_softcap=0.0), "attention_softcap"),
    (dict(logits_softcap=-1.0), "logits_softcap"),
    (dict(output_transform="quick"), "output_transform"),
    (dict(output_transform="gelu", decoder_layers=0), "output_transform"),
  ],
)  # fmt: skip
def test_features_that_exclude_one_another_are_named(wrong, message):
  with pytest.raises((ValueError, TypeError), match=rf"model\.(\w+, )*{message}\b"):
    TransformerConfig(**TINY | wrong)
