"""A pruned model computes what the whole one does with the same heads and units masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import train_config
from tests.train.tasks import helpers
from train import inference, prune
from train.common.errors import UserError
from train.common.trees import flatten, match_layers, replace, unstack_layers
from train.compression import pruning
from train.data import batches

CONFIG = dict(positions="rotary", relative_per_layer=False, num_kv_heads=None, num_heads=4)
CONFIG |= dict(decoder_kv_heads=None, decoder_heads=None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  helpers.write_data(folder)
  return folder


def gated(body, task):
  model = helpers.build_model(body, task, seed=0)
  sizes = pruning.add_gates(model)
  return model, sizes


SLOW = pytest.mark.slow
RELATIVE = dict(positions="relative")


@pytest.mark.parametrize(
  ("name", "changes"),
  [
    ("span", {}),
    ("classes", RELATIVE),
    ("causal", RELATIVE | dict(relative_per_layer=True)),
    pytest.param("classes", {}, marks=SLOW),
    pytest.param("causal", {}, marks=SLOW),
    pytest.param("span", RELATIVE, marks=SLOW),
    pytest.param("span", RELATIVE | dict(relative_per_layer=True), marks=SLOW),
  ],
)
def test_a_pruned_model_is_the_masked_one(name, changes, data, tmp_path):
  task, *_ = helpers.build(name, data, tmp_path)
  depths = {key: 2 * depth for key, depth in helpers.KINDS[name][2].items()}
  body = helpers.MODEL | depths | dict(num_heads=4, gated=True) | changes
  whole, sizes = gated(body, task)
  batch = helpers.first_batch(task)
  values = jax.jit(lambda model: pruning.importance(task, model, sizes, batch))(whole)
  config = dict(helpers.build_model(body, task, seed=0).cfg.__dict__)
  kept = pruning.choose(jax.device_get(values), config, heads=0.5, units=0.25)
  assert {len(kept[path]) for path in kept if path.endswith("out")} == {2}
  assert {len(kept[path]) for path in kept if path.endswith("down")} == {12}
  section = body | {
    key: x
    for key, x in pruning.smaller_config(config, kept).items()
    if key
    in ("num_heads", "head_dim", "mlp_dim", "decoder_heads", "decoder_head_dim", "decoder_mlp_dim")
  }
  model = helpers.build_model(section, task, seed=0)
  graph, state = nnx.split(model)
  params = nnx.to_pure_dict(state)
  weights = unstack_layers(flatten(nnx.to_pure_dict(nnx.state(whole))))
  smaller = pruning.cut(weights, kept)
  assert smaller.keys() == flatten(params).keys()
  pruned = nnx.merge(graph, replace(params, match_layers(smaller, flatten(params))))
  rows = len(batch["weights"])

  def mask(path):
    keep = np.isin(np.arange(sizes[path]), kept[path]).astype(np.float32)
    return jnp.tile(keep, (rows, 1))

  def masked(model):
    gates = {path: mask(path) for path in sizes}
    return pruning.with_gates(lambda: task.loss(model, batch, None)["loss"][0], gates)

  expected = float(jax.jit(masked)(whole))
  found = float(jax.jit(lambda model: task.loss(model, batch, None)["loss"][0])(pruned))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  if name == "span" and not changes:  # a search too: its cache has fewer heads
    examples = [task.example("the dog runs"), task.example("a red ball")]
    request = next(iter(batches.requests(task.requests(examples), 2, task.source_len, 0)))
    outputs = jax.jit(lambda m: task.predict(m, request, task.settings(beam=2)))(pruned)
    assert outputs["tokens"].shape[0] == 2


def test_the_importance_is_the_gradient_of_the_gates_row_by_row(data, tmp_path):
  """Against one row at a time."""
  task, *_ = helpers.build("classes", data, tmp_path)
  body = helpers.MODEL | helpers.KINDS["classes"][2]
  model, sizes = gated(body, task)
  batch = helpers.first_batch(task)
  compute = jax.jit(lambda batch: pruning.importance(task, model, sizes, batch))
  whole = compute(batch)
  each = [compute(jax.tree.map(lambda x, r=r: x[r : r + 1], batch)) for r in range(4)]
  for path in sizes:
    np.testing.assert_allclose(whole[path], sum(x[path] for x in each), rtol=1e-4, atol=1e-7)
    assert float(whole[path].max()) > 0


def test_the_most_important_are_kept_in_their_order():
  values = {
    "encoder/blocks/0/self_attention/out": np.asarray([4.0, 1, 3, 2]),
    "encoder/blocks/1/self_attention/out": np.asarray([1.0, 5, 4, 0]),
    "encoder/blocks/0/mlp/down": np.asarray([1.0, 2, 3, 4]),
  }
  kept = pruning.choose(values, CONFIG, heads=0.5, units=1.0)
  assert {path: list(x) for path, x in kept.items()} == {
    "encoder/blocks/0/self_attention/out": [0, 2],
    "encoder/blocks/1/self_attention/out": [1, 2],
  }
  shared = pruning.choose(values, CONFIG | dict(positions="relative"), heads=0.5, units=0.5)
  assert [list(x) for x in shared.values()] == [[1, 2], [1, 2], [2, 3]]
  with pytest.raises(UserError, match="slope"):
    pruning.choose(values, CONFIG | dict(positions="alibi"), heads=0.5, units=1.0)
  with pytest.raises(UserError, match="several heads share keys"):
    pruning.choose(values, CONFIG | dict(num_kv_heads=2), heads=0.5, units=1.0)


def test_a_pruned_run_is_used_as_any_other(corpus, tmp_path, capsys):
  run, out = tmp_path / "run", tmp_path / "pruned"
  before = train_config("classify.py:small,data={folder}", corpus, run)
  prune.main(["--workdir", str(run), "--out", str(out), "--heads", "0.5", "--mlp", "0.5"])
  assert "| weights |" in capsys.readouterr().out
  loaded = inference.load_run(out, "latest")
  query = flatten(loaded.params)["encoder/blocks/0/self_attention/query/kernel"]
  assert query.shape[1] == before["encoder/blocks/0/self_attention/query/kernel"].shape[1] // 2
  assert inference.load(out)(["the dog runs"])[0]["text"] in ("dog", "none")
  changes = {"schedule.peak": 0.0, "init_from.skip": ()}
  text = f"classify.py:small,data={corpus},init={out}"
  after = train_config(text, corpus, tmp_path / "next", **changes)
  for name, weight in flatten(loaded.params).items():
    np.testing.assert_array_equal(after[name], weight, err_msg=name)
  for words, message in (
    (["--heads", "1.5"], "heads"),
    ([], "are both 1"),
    (["--heads", "0.5", "--split", "nothing"], "nothing"),
  ):
    with pytest.raises(UserError, match=message):
      prune.main(["--workdir", str(run), "--out", str(tmp_path / "x"), *words])
