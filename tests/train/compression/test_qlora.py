"""Adapters of a base that is held as integers, and several runs that adapt one base."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from tests.helpers import FIXTURES, ROOT, assert_same_arrays, train_config
from tests.train.tasks import helpers
from train import api, export, inference, pretrained, resolve
from train.checkpoint import Checkpoints
from train.common import trees
from train.common.errors import UserError
from train.common.trees import flatten
from train.compression import lora, quantization
from train.compression.lora import LORA
from train.compression.quantization import QUANTIZE

STORED = {"quantize.weights": "int8", "quantize.stored": True}
LABELS = "classify.py:small,data={folder},init={base}"
TAGS = "tag.py:small,suffix=.conll,data={folder},init={base}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  helpers.write_data(folder)
  return folder


@pytest.mark.parametrize("settings", [dict(weights="int8"), dict(weights="int4", group=4)])
@pytest.mark.parametrize("name", ["classes", "span"])
def test_adapters_of_integers_merge_into_the_floats_that_these_stand_for(
  name, settings, data, tmp_path
):
  task, graph, params = helpers.build(name, data, tmp_path)
  weights, adapters = flatten(params), LORA | dict(rank=2, layers=(r"(query|out|up|down)$",))
  trained, settings = lora.is_trained(adapters), QUANTIZE | settings | dict(stored=True)

  def model():
    return helpers.build_model(helpers.MODEL | helpers.KINDS[name][2], task, seed=0)

  held = model()
  quantization.apply(held, settings, trained)
  lora.adapt(held, adapters, nnx.Rngs(1))
  held_graph, state = nnx.split(held)
  rng = np.random.default_rng(0)
  own = {
    path: 0.2 * rng.normal(size=x.shape).astype(np.float32)
    for path, x in flatten(nnx.to_pure_dict(state)).items()
    if path.endswith((lora.A, lora.B))
  }
  stored = quantization.store(model(), settings, weights, leave=trained).weights
  kinds = {str(x.dtype) for x in stored.values()}
  assert kinds == {"float32", "int8" if settings["weights"] == "int8" else "uint8"}
  assert all(x.dtype == np.float32 for path, x in stored.items() if path.startswith("head/"))
  floats = quantization.floats(stored, settings, model(), trained)
  merged = lora.merge(floats | own, adapters)
  assert any(np.abs(merged[path] - weights[path]).max() > 1e-4 for path in weights)
  held_params = trees.replace(nnx.to_pure_dict(state), stored | own)
  batch = helpers.first_batch(task)

  def loss(graph, params):
    return jax.jit(task.loss)(nnx.merge(graph, params), batch, None)["loss"][0]

  ours = loss(held_graph, held_params)
  np.testing.assert_allclose(ours, loss(graph, trees.replace(params, merged)), rtol=1e-4)


# Runs


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "base"
  return path, train_config("mlm.py:small,data={folder}/prose", corpus, path)


def adapt(text, base, corpus, folder, **changes):
  changes = {"lora.rank": 2, "lora.layers": ("query$", "down$"), "schedule.peak": 0.05} | changes
  return train_config(text.format(folder=corpus, base=base[0]), corpus, folder, **changes)


def test_a_run_holds_integers_and_saves_adapters_alone(base, corpus, tmp_path, caplog):
  caplog.set_level("INFO")
  first = adapt(LABELS, base, corpus, tmp_path, **STORED, steps=2)
  assert all(path.startswith("head/") or path.endswith((lora.A, lora.B)) for path in first)
  second = adapt(LABELS, base, corpus, tmp_path, **STORED, steps=4)  # resumed
  whole = adapt(LABELS, base, corpus, tmp_path / "whole", **STORED, steps=4)
  for path in whole:
    np.testing.assert_array_equal(second[path], whole[path], err_msg=path)
  # loaded beside others it holds integers, loaded alone the floats that they stand for
  (held,) = api.load_adapters([tmp_path])
  loaded = api.load(tmp_path)
  kernels = {path: x for path, x in flatten(held.run.params).items() if path.endswith("kernel")}
  assert {str(x.dtype) for path, x in kernels.items() if "head" not in path} == {"int8"}
  assert {str(x.dtype) for x in flatten(loaded.run.params).values()} == {"float32"}
  texts = ["the dog runs", "a ball"]
  a, b = (predictor.arrays(texts)["logits"] for predictor in (held, loaded))
  np.testing.assert_allclose(a, b, atol=1e-4)
  floats = inference.load_run(base[0], "latest").params
  path = "encoder/blocks/0/mlp/up/kernel"  # has no adapter
  error = np.abs(flatten(loaded.run.params)[path] - flatten(floats)[path])
  assert 0 < error.max() < 0.01
  # what is made of it has floats
  assert not pretrained.quantized(pretrained.open(tmp_path))


@pytest.mark.slow
def test_a_run_is_written_with_floats_and_counts_weights_and_not_bytes(base, corpus, tmp_path):
  int4 = STORED | {"quantize.weights": "int4", "quantize.group": 4}
  held, plain, floats = (tmp_path / name for name in ("held", "plain", "floats"))
  adapt(LABELS, base, corpus, held, **int4)
  adapt(LABELS, base, corpus, plain)
  noted = [json.loads((run / "run.json").read_text())["starts"][-1] for run in (held, plain)]
  for key in ("parameters", "trained"):
    assert noted[0][key] == noted[1][key]
  export.main(["--workdir", str(held), "--format", "run", "--out", str(floats)])
  a, b = (flatten(inference.load_run(run, "latest").params) for run in (held, floats))
  assert_same_arrays(a, b)
  with pytest.raises(UserError, match="a run is there already"):
    export.main(["--workdir", str(floats), "--format", "run", "--out", str(tmp_path / "more")])
  stored, back = tmp_path / "stored", tmp_path / "back"
  export.main(["--workdir", str(floats), "--quantize", "int8", "--out", str(stored)])
  export.main(["--workdir", str(stored), "--format", "run", "--out", str(back)])
  params = flatten(inference.load_run(back, "latest").params)
  assert {str(x.dtype) for x in params.values()} == {"float32"}
  values = flatten(inference.load_run(floats, "latest").params)
  for path, value in params.items():
    np.testing.assert_allclose(value, values[path], atol=0.01, err_msg=path)


def test_runs_that_adapt_a_published_model_share_it(corpus, tmp_path):
  """One takes its pooler over, and the other does not."""
  base = (f"hf:{FIXTURES / 'bert'}",)
  labels, tags, length = tmp_path / "labels", tmp_path / "tags", {"task.source_len": 24}
  adapt(LABELS, base, corpus, labels, **length)
  adapt(TAGS, base, corpus, tags, **length, **{"task.stride": 12})
  one, two = (flatten(x.run.params) for x in api.load_adapters([labels, tags]))
  path = "encoder/blocks/0/self_attention/query/kernel"
  assert one[path] is two[path]


def test_several_runs_share_the_weights_that_they_adapt(base, corpus, tmp_path):
  labels, tags = tmp_path / "labels", tmp_path / "tags"
  adapt(LABELS, base, corpus, labels)
  adapt(TAGS, base, corpus, tags, **{"lora.rank": 3})
  both = api.load_adapters([labels, tags])
  for predictor, path in zip(both, (labels, tags)):
    alone = api.load(path)
    for name, value in alone.arrays(["the dog runs"]).items():
      np.testing.assert_allclose(
        predictor.arrays(["the dog runs"])[name], value, atol=1e-4, err_msg=name
      )
  one, two = (flatten(predictor.run.params) for predictor in both)
  with Checkpoints(labels) as checkpoints:
    own = flatten(checkpoints.params("latest")).keys()
  for path in one.keys() - own:
    assert one[path] is two[path], path
  assert len(one.keys() - own) > 10


def test_what_cannot_share_a_base_is_refused(base, corpus, tmp_path):
  labels, other = tmp_path / "labels", tmp_path / "other"
  adapt(LABELS, base, corpus, labels)
  adapt(LABELS, base, corpus, other, **STORED)
  with pytest.raises(UserError, match=r"adapts another model than .*: quantize is"):
    api.load_adapters([labels, other])
  with pytest.raises(UserError, match="has no adapters"):
    api.load_adapters([labels, base[0]])


def test_integers_and_adapters_that_do_not_go_together_are_refused(base, corpus, tmp_path):
  text = f"{ROOT}/configs/{LABELS.format(folder=corpus, base=base[0])}"
  rank = "lora.rank=2"
  words = ["quantize.weights=int8", "quantize.activations=int8", "quantize.stored=True"]
  with pytest.raises(UserError, match=r"set quantize\.stored=True, which holds"):
    resolve.load(text, [rank, "quantize.weights=int8"])
  with pytest.raises(UserError, match=r"quantize\.activations has no gradient"):
    resolve.load(text, [rank, *words])
  with pytest.raises(UserError, match=r"lora\.train: head/.* is neither taken"):
    adapt(LABELS, base, corpus, tmp_path / "head", **STORED, **{"lora.train": ()})
  with pytest.raises(UserError, match="set it to False"):
    adapt(LABELS, base, corpus, tmp_path, **STORED, **{"model.scan_layers": True})
