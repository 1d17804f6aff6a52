"""Adapters alone are trained, optimized and saved; merged into kernels they compute the same."""

import json
import re
import shutil

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from tests.helpers import ROOT, train_config
from tests.train.helpers import start
from tests.train.tasks import helpers
from train import api, inference, resolve
from train.checkpoint import Checkpoints
from train.common import trees
from train.common.errors import UserError
from train.common.trees import flatten, unstack_layers
from train.compression import lora
from train.compression.lora import LORA
from train.step import losses_of, make_train_step

ALL = dict(rank=2, alpha=6.0, layers=(r"(query|key|value|out|up|down|dense|labels)$",))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  helpers.write_data(folder)
  return folder


def adapted(name, data, folder, settings, **changes):
  """Returns a task, the graphs without and with adapters, and weights with adapters that count."""
  body = helpers.MODEL | changes
  task, graph, _ = helpers.build(name, data, folder, body)
  model = helpers.build_model(body | helpers.KINDS[name][2], task, seed=0)
  lora.adapt(model, LORA | settings, nnx.Rngs(1))
  with_adapters, state = nnx.split(model)
  rng = np.random.default_rng(0)

  def noisy(path, x):
    b = trees.path_name(path).endswith(lora.B)
    return x + 0.2 * rng.normal(size=x.shape).astype(np.float32) if b else x

  params = nnx.to_pure_dict(state)
  return task, graph, with_adapters, params, jax.tree_util.tree_map_with_path(noisy, params)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["classes", "span"])
def test_merged_weights_compute_what_base_and_adapters_do(name, scan, data, tmp_path):
  task, graph, with_adapters, first, params = adapted(
    name, data, tmp_path, ALL, scan_layers=scan, num_kv_heads=1
  )
  batch, settings = helpers.first_batch(task), LORA | ALL

  def loss(graph, params):
    return float(jax.jit(task.loss)(nnx.merge(graph, params), batch, None)["loss"][0])

  merged = lora.merge(flatten(params), settings)
  plain = nnx.to_pure_dict(
    nnx.split(
      helpers.build_model(
        helpers.MODEL | dict(scan_layers=scan, num_kv_heads=1) | helpers.KINDS[name][2],
        task,
        seed=0,
      )
    )[1]
  )
  assert merged.keys() == flatten(plain).keys()
  np.testing.assert_allclose(
    loss(graph, trees.replace(plain, merged)), loss(with_adapters, params), rtol=2e-5
  )
  # B begins at 0: the adapted model is the base
  np.testing.assert_allclose(loss(graph, plain), loss(with_adapters, first), rtol=1e-6)
  assert abs(loss(with_adapters, params) / loss(graph, plain) - 1) > 1e-3


def test_stacked_layers_are_merged_as_single_ones(data, tmp_path):
  changes = dict(encoder_layers=2)
  task, *_ = helpers.build("classes", data, tmp_path)
  body = helpers.MODEL | helpers.KINDS["classes"][2] | changes
  stacked = helpers.build_model(body | dict(scan_layers=True), task, seed=0)
  lora.adapt(stacked, LORA | ALL, nnx.Rngs(1))
  weights = flatten(nnx.to_pure_dict(nnx.state(stacked)))
  weights = {path: x + 0.1 * (path.endswith(lora.B)) for path, x in weights.items()}
  once = unstack_layers(lora.merge(weights, LORA | ALL))
  each = lora.merge(unstack_layers(weights), LORA | ALL)
  assert once.keys() == each.keys()
  for name in once:
    np.testing.assert_allclose(once[name], each[name], rtol=1e-6, err_msg=name)


def test_an_update_moves_adapters_alone_and_keeps_no_moments_of_the_base(data, tmp_path):
  task, _, graph, _, params = adapted("classes", data, tmp_path, ALL | dict(dropout=0.1))
  trained = lora.is_trained(LORA | ALL)
  own, base = trees.keep(params, trained), trees.keep(params, lambda path: not trained(path))
  adam = optax.adam(0.1)
  update = make_train_step(task, graph, adam, microbatches=1, seed=0)
  state = start(adam, own)
  moments = sum(x.size for x in jax.tree.leaves(state["opt_state"]))
  assert moments == 2 * sum(x.size for x in jax.tree.leaves(own)) + 1
  state, _ = update(state, helpers.first_batch(task), dict(base=base))
  assert flatten(state["params"]).keys() == flatten(own).keys()
  for name, value in flatten(own).items():
    if not name.startswith("head/dense"):  # a tanh that is saturated has no gradient
      assert np.abs(flatten(jax.device_get(state["params"]))[name] - value).max() > 0, name
  whole = trees.join(base, state["params"])
  assert flatten(whole).keys() == flatten(params).keys()


def test_dropout_is_a_rows_own_and_only_in_training(data, tmp_path):
  task, _, graph, _, params = adapted("classes", data, tmp_path, ALL | dict(dropout=0.5))
  sums_of, batch = jax.jit(losses_of(task, graph)), helpers.first_batch(task)
  keys = jax.random.split(jax.random.key(0), len(batch["source"]))

  def loss(keys, batch=batch):
    return float(sums_of(params, batch, keys)["loss"][0])

  assert loss(None) == loss(None) != loss(keys)
  turned = jax.tree.map(lambda x: x[::-1], batch)
  np.testing.assert_allclose(loss(keys), loss(keys[::-1], turned), rtol=1e-5)
  with pytest.raises(UserError, match="scanned layers have none"):
    adapted("classes", data, tmp_path, ALL | dict(dropout=0.5), scan_layers=True)


def test_a_pattern_that_matches_no_layer_names_those_there_are(data, tmp_path):
  with pytest.raises(UserError, match=r"lora.layers: 'querry\$' matches no layer.*mean query\?"):
    adapted("classes", data, tmp_path, dict(rank=2, layers=("querry$",)))
  with pytest.raises(UserError, match=r"lora.layers: '\(' is no pattern"):
    adapted("classes", data, tmp_path, dict(rank=2, layers=("(",)))


# Runs


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "base"
  return path, train_config("mlm.py:small,data={folder}/prose", corpus, path)


def adapt(base, corpus, folder, config="classify.py:small", **changes):
  text = f"{config},data={corpus},init={base[0]}"
  changes = {"lora.rank": 2, "lora.layers": ("query$", "down$")} | changes
  return train_config(text, corpus, folder, **changes)


def sizes(folder):
  """Returns the numbers of saved weights, and of saved numbers of the optimizer."""
  with Checkpoints(folder) as checkpoints:
    saved = checkpoints._metadata(checkpoints.directory / str(checkpoints.latest))
  return [
    sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(saved[part]))
    for part in ("params", "optimizer")
  ]


def test_a_run_saves_adapters_and_head_and_is_used_as_any_other(base, corpus, tmp_path):
  saved = adapt(base, corpus, tmp_path / "lora")
  assert all(name.startswith("head/") or re.search(lora.NEW, name) for name in saved)
  train_config(f"classify.py:small,data={corpus},init={base[0]}", corpus, tmp_path / "full")
  (own, moments), (whole, whole_moments) = (sizes(tmp_path / x) for x in ("lora", "full"))
  assert own < whole / 3
  assert moments < whole_moments / 3
  noted = json.loads((tmp_path / "lora" / "run.json").read_text())["starts"][-1]
  assert noted["trained"] == own < noted["parameters"]
  outputs = inference.load(tmp_path / "lora")(["the dog runs", "a ball"])
  run = inference.load_run(tmp_path / "lora", "latest")
  loaded = flatten(run.params)
  assert loaded.keys() == set(flatten(inference.load_run(tmp_path / "full", "latest").params))
  expected = {n: x for n, x in base[1].items() if n in loaded and not n.startswith("head/")}
  settings = LORA | dict(rank=2, layers=("query$", "down$"))
  merged = lora.merge(expected | saved, settings)
  for name, value in merged.items():
    np.testing.assert_allclose(loaded[name], value, rtol=1e-6, err_msg=name)
  assert {output["text"] for output in outputs} <= {"dog", "none"}
  # another run starts from the merged weights
  after = train_config(
    f"classify.py:small,data={corpus},init={tmp_path / 'lora'}",
    corpus,
    tmp_path / "next",
    **{"schedule.peak": 0.0},
  )
  for name in merged:
    if not name.startswith("head/"):
      np.testing.assert_allclose(after[name], merged[name], rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_run_resumes_as_if_it_had_not_stopped(base, corpus, tmp_path):
  changes = {"lora.dropout": 0.1, "ema": 0.9}
  whole = adapt(base, corpus, tmp_path / "whole", **changes, steps=4)
  adapt(base, corpus, tmp_path / "parts", **changes, steps=2)
  parts = adapt(base, corpus, tmp_path / "parts", **changes, steps=4)
  for name in whole:
    np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)


def test_a_base_of_other_weights_is_named(base, corpus, tmp_path):
  other = tmp_path / "base"
  weights = train_config("mlm.py:small,data={folder}/prose", corpus, other, seed=3)
  adapt((other, weights), corpus, tmp_path / "lora")
  shutil.rmtree(other)
  train_config("mlm.py:small,data={folder}/prose", corpus, other, seed=4)
  with pytest.raises(UserError, match="whose weights are no longer those"):
    inference.load(tmp_path / "lora")
  with pytest.raises(UserError, match="whose weights are no longer those"):
    api.load_adapters([tmp_path / "lora"])


def test_what_cannot_be_adapted_is_refused(base, corpus, tmp_path):
  text = f"{ROOT}/configs/classify.py:small,data={corpus}"
  with pytest.raises(UserError, match="there is nothing to adapt"):
    resolve.load(text, ["lora.rank=2"])
  with pytest.raises(UserError, match=r"lora.layers is empty"):
    resolve.load(f"{text},init={base[0]}", ["lora.rank=2", "lora.layers=()"])
  rates = (("^encoder", 0.0), (".", 1.0))
  with pytest.raises(UserError, match=r"optimizer.rates freezes encoder/.*lora_a"):
    adapt(base, corpus, tmp_path / "a", **{"optimizer.rates": rates})
  with pytest.raises(UserError, match=r"neither taken from init_from.workdir nor trained"):
    adapt(base, corpus, tmp_path / "b", **{"lora.train": ()})
  with pytest.raises(UserError, match=r"lora.train: '_nrom/' matches no weight.*norm"):
    adapt(base, corpus, tmp_path / "c", **{"lora.train": ("^head/", "_nrom/")})
