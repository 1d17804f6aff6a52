"""One model, many settings: cached = parallel, packed = separate, no look ahead, right sizes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import layers
from model.config import TransformerConfig
from model.masks import Tokens
from model.search import follow, spread
from model.settings import POSITIONS
from model.transformer import Transformer
from tests.model.helpers import (
  PACKED,
  SIZES,
  TINY,
  S,
  T,
  batch_of,
  build,
  decode_step_by_step,
  run,
)
from train.common.trees import match_layers, path_name, stack_layers, unstack_layers

KINDS = [*itertools.product(POSITIONS, ("pre", "post"))]
# The other switches, each on in some kinds and off in others.
SWITCHES = {
  "pre": dict(norm="rms", gated=True, activation="silu", bias=False, tie_output=False),
  "post": dict(share_embeddings=False, embedding_norm=True, output_bias=True, logits_scale=0.5),
}
# `make test` has each kind of positions with one place of the norms.
FAST = {*zip(POSITIONS, itertools.cycle(("pre", "post")))}
every_kind = pytest.mark.parametrize(
  "positions, norm_position",
  [pytest.param(*kind, marks=[] if kind in FAST else pytest.mark.slow) for kind in KINDS],
)


@functools.cache
def model_of(positions, norm_position):
  return build(positions=positions, norm_position=norm_position, **SWITCHES[norm_position])


@every_kind
def test_cached_is_parallel(positions, norm_position):
  model, batch = model_of(positions, norm_position), batch_of(packed=False)
  inputs = np.random.default_rng(0).integers(1, 16, (len(SIZES), T))
  source, source_segments = batch["source"], batch["source_segments"]
  memory = model.encode(source)
  parallel = np.asarray(model.logits(model.decode(inputs, memory, source_segments)))
  cache = model.init_cache(len(inputs), T + 2, memory, source_segments)
  cached = decode_step_by_step(model, inputs[:, :6], cache)
  np.testing.assert_allclose(cached, parallel[:, :6], atol=3e-5)
  assert parallel.std() > 0.1
  assert parallel.dtype == np.float32


@every_kind
def test_no_gradient_comes_from_the_future(positions, norm_position):
  """The Jacobian of output t by the embedding of input s is exactly 0 for s > t, and only there."""
  model, batch = model_of(positions, norm_position), batch_of(packed=False)
  inputs = np.array([[1, 9, 4, 12, 7, 5, 3, 14, 10]])  # a table's row is one place's input
  rows = np.repeat(inputs, len(SIZES), axis=0)
  memory = model.encode(batch["source"])
  graph, state = nnx.split(model)
  weights = nnx.to_pure_dict(state)

  def outputs(table):
    changed = nnx.merge(graph, weights | {"embedding": {"embedding": table}})
    return changed.decode(rows, memory, batch["source_segments"])[:1]

  probes = np.random.default_rng(0).normal(size=(T, 1, 1, 16)) * np.eye(T)[:, None, :, None]
  _, pull_back = jax.vjp(outputs, weights["embedding"]["embedding"])
  (by_table,) = jax.vmap(pull_back)(jnp.asarray(probes, jnp.float32))  # [t, V, D]
  jacobian = np.abs(np.asarray(by_table)).max(-1)[:, inputs[0]]  # [t, s]
  assert (np.triu(jacobian, 1) == 0).all()
  assert (jacobian[np.tril_indices(T)] > 1e-6).all()


@every_kind
def test_packed_rows_are_separate_rows(positions, norm_position):
  model = model_of(positions, norm_position)
  packed, separate = run(model, batch_of(packed=True)), run(model, batch_of(packed=False))
  places = ((r, i) for r, row in enumerate(PACKED) for i in row)
  starts = dict.fromkeys(range(len(PACKED)), (0, 0))
  for r, i in places:
    for side, (together, alone) in enumerate(zip(packed, separate)):
      start, size = starts[r][side], SIZES[i][side]
      np.testing.assert_allclose(together[r, start : start + size], alone[i, :size], atol=3e-5)
    starts[r] = tuple(np.add(starts[r], SIZES[i]))


@every_kind
def test_what_lies_in_padding_does_not_matter(positions, norm_position):
  model, batch = model_of(positions, norm_position), dict(batch_of(packed=True))
  before, rng = run(model, batch), np.random.default_rng(2)
  real = [batch["source_segments"] > 0, batch["segments"] > 0]
  for key, mask in zip(("source", "inputs"), real):
    assert not mask.all()
    batch[key] = np.where(mask, batch[key], rng.integers(3, 16, mask.shape))
  for a, b, mask in zip(before, run(model, batch), real):
    np.testing.assert_array_equal(a[mask], b[mask])
    assert (a != b).any()


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_wider_row_changes_nothing(positions):
  model, source = model_of(positions, "pre"), batch_of(packed=False)["source"]
  narrow, wide = model.encode(source), model.encode(np.pad(source, ((0, 0), (0, 5))))
  np.testing.assert_allclose(wide[:, :S][source > 0], narrow[source > 0], atol=3e-5)


@pytest.mark.parametrize("positions", [p for p in POSITIONS if p != "none"])
def test_positions_tell_orders_apart(positions):
  """Without them an encoder cannot: the state of a word is the same in any order."""
  rng = np.random.default_rng(0)
  source, order = rng.integers(4, 16, (5, S)), rng.permutation(S)

  def change(positions):
    model = model_of(positions, "post")
    return np.abs(model.encode(source)[:, order] - model.encode(source[:, order])).max()

  assert change(positions) > 1e-2
  assert change("none") < 1e-5


def test_an_encoder_shares_its_buckets_between_both_ways_and_a_decoder_does_not():
  model, distance = model_of("relative", "pre"), jnp.arange(-30, 31)[None, None]
  for stack, ways in ((model.encoder, 2), (model.decoder, 1)):
    one_BS = jnp.ones((1, 61), jnp.int32)
    query, key = (
      Tokens(one_BS[:, :1], jnp.array([[30]])),
      Tokens(one_BS, jnp.arange(61)[None], one_BS),  # all of it seen
    )
    bias = np.asarray(stack.bias(None, query, key))
    np.testing.assert_allclose(bias, stack.relative(distance), atol=1e-6)
    assert len(np.unique(bias[0, 0, 0, :31])) == TINY["relative_buckets"] // ways  # the past and 0
    assert len(np.unique(bias[0, 0, 0, 30:])) == (1 if ways == 1 else TINY["relative_buckets"] // 2)


@pytest.mark.parametrize("positions", ["sinusoidal", "relative"])
def test_a_row_without_segments_is_one_segment_up_to_its_padding(positions):
  model, batch = model_of(positions, "pre"), batch_of(packed=False)
  memory, logits = run(model, batch)
  simple = model.encode(batch["source"])
  in_source = batch["source_segments"] > 0
  np.testing.assert_allclose(simple[in_source], memory[in_source], atol=3e-5)
  hidden = model.decode(batch["inputs"], simple, batch["source_segments"])
  real = batch["segments"] > 0
  np.testing.assert_allclose(model.logits(hidden)[real], logits[real], atol=3e-5)


# One side only


@pytest.mark.parametrize("positions", ["learned", "rotary", "relative"])
def test_a_decoder_alone_is_cached_as_it_is_parallel(positions):
  model = build(encoder_layers=0, positions=positions, norm_position="pre", share_embeddings=False)
  assert model.encoder is None
  assert model.source_embedding is None
  assert all(block.cross_attention is None for block in model.decoder.blocks)
  inputs = np.random.default_rng(0).integers(1, 16, (5, T))
  parallel = np.asarray(model.logits(model.decode(inputs)))
  cached = decode_step_by_step(model, inputs, model.init_cache(5, T + 2))
  np.testing.assert_allclose(cached, parallel, atol=3e-5)
  changed = np.asarray(model.logits(model.decode(np.where(np.arange(T) < 4, inputs, 3))))
  np.testing.assert_array_equal(changed[:, :4], parallel[:, :4])


def test_a_window_hides_what_is_further_away():
  small = dict(positions="rotary", norm_position="pre", encoder_layers=1, decoder_layers=1)
  wide, near, whole = build(window=T, **small), build(window=3, **small), build(**small)
  inputs = np.random.default_rng(0).integers(1, 16, (2, T))
  for side in ("encode", "decode"):
    before = {m: np.asarray(getattr(m, side)(inputs)) for m in (wide, near, whole)}
    np.testing.assert_array_equal(before[wide], before[whole])
    place = 5
    inputs[:, place] = inputs[:, place] % 15 + 1
    moved = np.abs(np.asarray(getattr(near, side)(inputs)) - before[near]).max((0, 2)) > 1e-6
    reach = range(place - 2 if side == "encode" else place, place + 3)
    assert np.flatnonzero(moved).tolist() == list(reach)


def test_a_window_is_cached_as_it_is_parallel():
  model = build(window=4, positions="rotary", encoder_layers=0)
  inputs = np.random.default_rng(0).integers(1, 16, (2, T))
  parallel = np.asarray(model.logits(model.decode(inputs)))
  cached = decode_step_by_step(model, inputs, model.init_cache(2, T + 2))
  np.testing.assert_allclose(cached, parallel, atol=3e-5)


def test_an_encoder_alone_sees_both_ways():
  model = build(decoder_layers=0, share_embeddings=False, output_bias=True)
  assert model.decoder is None
  assert model.source_embedding is None
  source = np.random.default_rng(0).integers(4, 9, (5, S))
  logits = np.asarray(model.logits(model.encode(source)))
  assert logits.shape == (5, S, 16)
  for place in range(S):
    other = np.where(np.arange(S) == place, 9, source)
    moved = np.abs(np.asarray(model.logits(model.encode(other))) - logits).max(-1)
    assert (moved > 1e-5).all()


# The cache


def test_the_cache_is_grouped_and_every_leaf_leads_with_the_batch():
  model, batch = model_of("rotary", "pre"), batch_of(packed=False)
  memory = model.encode(batch["source"])
  cache = model.init_cache(5, T + 2, memory, batch["source_segments"])
  assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {5}
  layer, cross = cache.written[1], cache.fixed[1]
  groups, size = TINY["num_kv_heads"], TINY["dim"] // TINY["num_heads"]
  assert layer["keys"].shape == (5, groups * size, T + 2, 1)
  assert layer["values"].shape == (5, groups, T + 2, 1, size)
  assert cross.keys.shape == cross.values.shape == (5, groups, S, size)
  logits, after = model.decode_step(jnp.full((5, 1), 4), cache)
  assert jax.tree.structure(after) == jax.tree.structure(cache)
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, cache)
  assert after.moving.tolist() == [[1]] * 5
  assert logits.shape == (5, 1, 16)


@pytest.mark.parametrize("positions", ["relative", "learned"])
def test_rows_of_the_cache_can_change_places_and_run_ahead(positions):
  """Beams reorder with a tree map; a row's result is its own, however long the others are."""
  model, batch = model_of(positions, "post"), batch_of(packed=False)
  memory = model.encode(batch["source"])
  cache = model.init_cache(5, T + 2, memory, batch["source_segments"])
  token, order = jnp.array([[4], [5], [6], [7], [8]]), np.array([3, 3, 0, 4, 1])
  _, cache = model.decode_step(token, cache)
  logits, later = model.decode_step(token, cache)
  moved, _ = model.decode_step(token[order], jax.tree.map(lambda x: x[order], cache))
  np.testing.assert_allclose(moved, logits[order], atol=1e-6)
  ahead = np.array([True, False, True, False, False])
  mixed = jax.tree.map(
    lambda a, b: jnp.where(ahead.reshape(-1, *[1] * (a.ndim - 1)), a, b), later, cache
  )
  both = np.where(ahead[:, None, None], model.decode_step(token, later)[0], logits)
  np.testing.assert_allclose(model.decode_step(token, mixed)[0], both, atol=1e-6)


@pytest.mark.parametrize("positions", ["sinusoidal", "relative", "rotary", "alibi"])
def test_hypotheses_that_change_slots_go_on_as_rows_of_their_own(positions):
  """Keys and values stay in the slots where they were written."""
  model, batch = model_of(positions, "pre"), batch_of(packed=False)
  memory = model.encode(batch["source"])
  start = model.init_cache(5, 0, memory, batch["source_segments"])
  cache, rng, texts = spread(start, 3, T), np.random.default_rng(0), np.zeros((5, 3, 0), int)
  for _ in range(T):
    token = rng.integers(4, 16, (5, 3))
    texts = np.concatenate([texts, token[..., None]], axis=2)
    logits, cache = model.decode_step(jnp.asarray(token), cache)
    beams = rng.integers(0, 3, (5, 3))
    texts = np.take_along_axis(texts, beams[..., None], axis=1)
    logits = np.take_along_axis(np.asarray(logits), beams[..., None], axis=1)
    cache = follow(cache, jnp.asarray(beams))
    for n in range(3):
      inputs = texts[:, n]
      segments = np.ones_like(inputs)
      x = model.decode(inputs, memory, batch["source_segments"], segments)
      np.testing.assert_allclose(model.logits(x)[:, -1], logits[:, n], atol=2e-5)


# Sizes


def count(**settings):
  cfg = TransformerConfig(**settings)
  state = nnx.state(nnx.eval_shape(lambda: Transformer(cfg, rngs=nnx.Rngs(0))))
  return sum(leaf.size for leaf in jax.tree.leaves(state))


def closed_form(
  vocab_size, dim, heads, head, mlp, encoder, decoder, *, groups=None, bias=True, gated=False,
  norm=2, pre=False, relative=0, learned=0, tables=1, output_bias=False, embedding_norm=False,
):  # fmt: skip
  """Counts a model's weights as with pencil and paper; `norm` is the vectors in one norm."""
  groups = groups or heads
  attention = dim * head * (2 * heads + 2 * groups) + bias * (head * (heads + 2 * groups) + dim)
  feed_forward = dim * mlp * (3 if gated else 2) + bias * (mlp * (2 if gated else 1) + dim)
  encoder_layer = attention + feed_forward + 2 * norm * dim
  cross = bool(encoder and decoder)
  decoder_layer = encoder_layer + cross * (attention + norm * dim)
  stacks = bool(encoder) + bool(decoder)
  total = encoder * encoder_layer + decoder * decoder_layer
  total += stacks * (pre * norm * dim + relative * heads)
  total += stacks * (learned + embedding_norm * norm) * dim
  return total + tables * vocab_size * dim + output_bias * vocab_size


def test_vaswanis_base_has_65_million_weights():
  weights = count(vocab_size=37000)
  assert weights == closed_form(37000, 512, 8, 64, 2048, 6, 6) == 63_082_496
  assert 63e6 < weights < 65.5e6  # their table 3 says 65, of an unstated vocabulary near this


PUBLISHED = {  # as Hugging Face's models of these names count them
  "t5-small": (
    60_506_624,
    dict(vocab_size=32128, norm="rms", norm_position="pre", bias=False, positions="relative"),
  ),
  "gpt2": (
    124_439_808,
    dict(
      vocab_size=50257, dim=768, num_heads=12, mlp_dim=3072, encoder_layers=0, decoder_layers=12,
      positions="learned", max_len=1024, norm_position="pre", activation="gelu_tanh",
    ),
  ),
  "bert-base, less its pooler": (
    109_482_240 - (768 * 768 + 768),
    dict(
      vocab_size=30522, dim=768, num_heads=12, mlp_dim=3072, encoder_layers=12, decoder_layers=0,
      positions="learned", embedding_norm=True, token_types=2, activation="gelu",
    ),
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_models_have_their_published_size(name):
  published, settings = PUBLISHED[name]
  depths = {side: settings.get(side, 6) for side in ("encoder_layers", "decoder_layers")}
  shallow, deep = (count(**settings | {k: min(n, v) for k, v in depths.items()}) for n in (1, 2))
  assert shallow + (max(depths.values()) - 1) * (deep - shallow) == published


@pytest.mark.parametrize(
  "settings, sums",
  [
    (dict(norm="rms", bias=False, tie_output=False), dict(norm=1, bias=False, tables=2)),
    (dict(gated=True, share_embeddings=False), dict(gated=True, tables=2)),
    (dict(gated=True, bias=False), dict(gated=True, bias=False)),
    (dict(share_embeddings=False, tie_output=False), dict(tables=3)),
    (dict(positions="relative", norm_position="pre"), dict(relative=8, pre=True)),
    (dict(positions="learned", output_bias=True), dict(learned=24, output_bias=True)),
    (dict(embedding_norm=True), dict(embedding_norm=True)),
    (dict(head_dim=10, positions="rotary"), dict(head=10)),
    (dict(encoder_layers=0, share_embeddings=False, tie_output=False), dict(encoder=0, tables=2)),
  ],
)  # fmt: skip
def test_sizes_are_the_closed_form(settings, sums):
  base = dict(vocab_size=16, dim=16, heads=4, head=4, mlp=24, encoder=1, decoder=2, groups=2)
  assert count(**TINY | dict(encoder_layers=1) | settings) == closed_form(**base | sums)


# Families


T5 = dict(
  norm="rms", norm_position="pre", bias=False, positions="relative", embed_scale=False,
  attention_scale=1.0,
)  # fmt: skip
FAMILIES = {
  "t5": T5 | dict(logits_scale=16**-0.5),
  "t5 1.1": T5 | dict(gated=True, activation="gelu_tanh", tie_output=False),
  "bert": dict(
    decoder_layers=0, positions="learned", embedding_norm=True, token_types=1, activation="gelu",
    embed_scale=False, norm_eps=1e-12, output_bias=True, init_std=0.02,
  ),
  "bart": dict(
    positions="learned", position_offset=2, embedding_norm=True, activation="gelu",
    embed_scale=False, norm_eps=1e-5, init_std=0.02, output_bias=True,
  ),
  "gpt-2": dict(
    encoder_layers=0, positions="learned", norm_position="pre", activation="gelu_tanh",
    embed_scale=False, norm_eps=1e-5, init_std=0.02,
  ),
  "marian": dict(activation="silu", output_bias=True),
  "llama": dict(
    encoder_layers=0, positions="rotary", norm="rms", norm_position="pre", activation="silu",
    gated=True, bias=False, tie_output=False, embed_scale=False,
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_families_learn_and_every_weight_takes_part(name):
  """A step down the gradient lowers the loss; no weight is left without a gradient."""
  model, batch = build(**FAMILIES[name]), batch_of(packed=True)
  graph, state = nnx.split(model)
  both = bool(model.cfg.encoder_layers and model.cfg.decoder_layers)

  def loss(params):
    model = nnx.merge(graph, params)
    rows = [batch["inputs"], batch["segments"], batch["positions"]]
    if both:
      source = [batch["source"], batch["source_segments"], batch["source_positions"]]
      hidden = model.decode(rows[0], model.encode(*source), source[1], *rows[1:])
    elif model.cfg.encoder_layers:
      hidden = model.encode(*rows)
    else:
      hidden = model.decode(rows[0], segments=rows[1], positions=rows[2])
    log_probs = jax.nn.log_softmax(model.logits(hidden))
    picked = jnp.take_along_axis(log_probs, batch["labels"][..., None], -1)[..., 0]
    return -(picked * batch["weights"]).mean()

  params = nnx.to_pure_dict(state)
  before, gradient = jax.value_and_grad(loss)(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    assert np.isfinite(leaf).all(), name
    if not name.endswith("key/bias"):  # the same for all keys, so the softmax takes no notice
      assert np.abs(leaf).max() > 1e-6, name
  norm = float(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient))) ** 0.5
  after = loss(jax.tree.map(lambda p, g: p - 0.02 / norm * g, params, gradient))
  assert float(after) < float(before) - 0.01 * norm


@pytest.mark.parametrize(
  "wrong, message",
  [
    (dict(activation="swish"), "activation"),
    (dict(norm="batch"), "norm"),
    (dict(norm_position="middle"), "norm_position"),
    (dict(positions="absolute"), "positions"),
    (dict(attention_impl="flash"), "attention_impl"),
    (dict(dim=18), "dim"),
    (dict(num_kv_heads=3), "num_kv_heads"),
    (dict(attention_impl="xla", attention_dropout=0.1), "attention_dropout"),
    (dict(encoder_layers=0, decoder_layers=0), "encoder_layers"),
    (dict(decoder_layers=-1), "decoder_layers"),
    (dict(num_heads=0), "num_heads"),
    (dict(num_kv_heads=0), "num_kv_heads"),
    (dict(dropout=1.0), "dropout"),
    (dict(activation_dropout=-0.1), "activation_dropout"),
    (dict(positions="rotary", head_dim=5), "head_dim"),
    (dict(dtype="float31"), "dtype"),
    (
      dict(relative_buckets=32, relative_max_distance=16, positions="relative"),
      "relative_max_distance",
    ),
  ],
)
def test_settings_that_make_no_model_are_named(wrong, message):
  with pytest.raises(ValueError, match=rf"{message}\b"):
    TransformerConfig(**TINY | wrong)


# Dropout, precision, kernels, scales


@pytest.mark.parametrize("field", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_acts_when_there_is_a_key(field):
  batch, off = batch_of(packed=False), build()
  model, clean = build(**{field: 0.3}), off.encode(batch["source"])

  def outputs(model, key):
    memory = model.encode(batch["source"], key=key)
    return memory, model.decode(batch["inputs"], clean, batch["source_segments"], key=key)

  key, other_key = jax.random.split(jax.random.key(0))
  runs = (outputs(model, key), outputs(model, other_key), outputs(model, None), outputs(off, key))
  for dropped, other, kept, plain in zip(*runs):
    np.testing.assert_array_equal(kept, plain)
    assert np.abs(dropped - other).max() > 1e-2
    assert np.abs(dropped - kept).max() > 1e-2


def test_no_two_places_drop_with_the_same_key(monkeypatch):
  model, batch = build(dropout=0.1, attention_dropout=0.1, activation_dropout=0.1), batch_of(False)
  seen, dropout = [], layers.dropout

  def spy(x, rate, key):
    assert rate == 0.1
    seen.append(tuple(np.asarray(jax.random.key_data(key)).tolist()))
    return dropout(x, rate, key)

  monkeypatch.setattr(layers, "dropout", spy)
  encoder_key, decoder_key = jax.random.split(jax.random.key(0))
  memory = model.encode(batch["source"], key=encoder_key)
  model.decode(batch["inputs"], memory, batch["source_segments"], key=decoder_key)
  # embeddings; a layer: residuals, attention weights, hidden units of the feed-forward
  assert len(seen) == 2 + 2 * (2 + 1 + 1) + 2 * (3 + 2 + 1)
  assert len(set(seen)) == len(seen)


def test_bfloat16_is_close_and_its_logits_are_float32():
  settings = dict(norm_position="pre", **SWITCHES["pre"])
  exact, rough = build(**settings), build(dtype="bfloat16", **settings)
  assert {x.dtype for x in jax.tree.leaves(nnx.state(rough))} == {jnp.dtype("float32")}
  batch = batch_of(packed=True)
  memory, logits = run(rough, batch)
  assert memory.dtype == jnp.bfloat16
  assert logits.dtype == np.float32
  error = (logits - run(exact, batch)[1])[batch["segments"] > 0]
  assert 0 < np.sqrt((error**2).mean()) < 0.03 * run(exact, batch)[1].std()
  cache = rough.init_cache(5, T, jnp.asarray(memory), batch["source_segments"])
  assert {x.dtype for x in jax.tree.leaves(cache.written)} == {jnp.dtype("bfloat16")}
  step, after = rough.decode_step(jnp.array([[4], [5], [6], [7], [8]]), cache)
  assert step.dtype == np.float32
  assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, cache)


@pytest.mark.parametrize("positions", ["sinusoidal", "relative"])
def test_jaxs_attention_makes_the_same_model(positions):
  ours, theirs = (build(positions=positions, attention_impl=impl) for impl in ("einsum", "xla"))
  batch = batch_of(packed=True)
  for a, b, key in zip(run(ours, batch), run(theirs, batch), ("source_segments", "segments")):
    np.testing.assert_allclose(a[batch[key] > 0], b[batch[key] > 0], atol=3e-5)


def test_scales_are_factors():
  batch = batch_of(packed=False)
  logits = run(build(), batch)[1]
  np.testing.assert_allclose(run(build(logits_scale=0.25), batch)[1], 0.25 * logits, rtol=1e-5)
  default = run(build(attention_scale=0.5), batch)[1]  # head size 4
  np.testing.assert_array_equal(default, logits)
  assert np.abs(run(build(attention_scale=1.0), batch)[1] - logits).max() > 1e-3
  model, half = build(positions="none"), build(positions="none", embed_scale=False)
  half.embedding.embedding[...] = half.embedding.embedding[...] * 4.0  # the root of 16
  np.testing.assert_allclose(half.encode(batch["source"]), model.encode(batch["source"]), atol=1e-5)


@pytest.mark.slow
def test_layers_computed_in_a_loop_or_twice_give_the_same_gradient():
  """Every way to trade time for memory, dropout on, in one encoder-decoder."""
  settings = dict(positions="relative", norm_position="pre", dropout=0.1, attention_dropout=0.1)
  batch, key = batch_of(packed=True), jax.random.key(3)

  def gradient(**more):
    model = Transformer(TransformerConfig(**TINY | settings | more), rngs=nnx.Rngs(0))
    graph, weights = nnx.split(model)

    @jax.jit
    def loss(weights):
      model, keys = nnx.merge(graph, weights), jax.random.split(key)
      segments = batch["source_segments"]
      memory = model.encode(batch["source"], segments, batch["source_positions"], keys[0])
      at = (batch["segments"], batch["positions"], keys[1])
      hidden = model.decode(batch["inputs"], memory, segments, *at)
      return jnp.sin(model.logits(hidden)).sum()

    compiled = jax.jit(jax.grad(loss)).lower(weights).compile()
    size = compiled.memory_analysis().temp_size_in_bytes
    return by_path(compiled(weights)), by_path(weights), size

  plain, weights, _ = gradient()
  looped = {"scan_layers": True}
  for more in (
    *({"remat": name} for name in [*layers.REMAT][1:]),
    looped,
    looped | {"remat": "full"},
  ):
    other, same_weights, _ = gradient(**more)
    other, same_weights = match_layers(other, plain), unstack_layers(same_weights)
    assert other.keys() == plain.keys()
    for path, expected in plain.items():
      np.testing.assert_array_equal(same_weights[path], weights[path], err_msg=path)
      message = f"{more} {path}"
      np.testing.assert_allclose(other[path], expected, rtol=1e-3, atol=1e-5, err_msg=message)
  # Unrolled, the CPU's compiler undoes it: it finds the same products twice and keeps the first.
  deep = dict(encoder_layers=8, mlp_dim=256, scan_layers=True)
  assert gradient(**deep, remat="full")[2] < 0.7 * gradient(**deep)[2]


def test_stacked_layers_decode_step_by_step_as_one_by_one():
  models = [build(scan_layers=stacks, positions="rotary") for stacks in (False, True)]
  states = [nnx.state(model) for model in models]
  flat = stack_layers(by_path(states[0]))
  weights = jax.tree_util.tree_map_with_path(lambda path, x: flat[path_name(path)], states[1])
  models[1] = nnx.merge(nnx.graphdef(models[1]), weights)
  batch = batch_of(packed=False)
  steps = []
  for model in models:
    memory = model.encode(batch["source"])
    cache = model.init_cache(len(memory), 4, memory, batch["source"] > 0)
    first, cache = model.decode_step(batch["inputs"][:, :1], cache)
    second, _ = model.decode_step(batch["inputs"][:, 1:2], cache)
    steps.append(jnp.stack([first, second]))
  np.testing.assert_allclose(*steps, atol=1e-5)


def by_path(tree):
  """Returns the leaves of a tree by their paths."""
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
