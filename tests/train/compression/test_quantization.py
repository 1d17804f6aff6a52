"""Quantized weights stay within their bound, and compute the same however they are held."""

import collections
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import FIXTURES, ROOT, train_config
from tests.train.tasks import helpers
from train import export, export_source, inference, pretrained, prune, resolve, schema, soup, tasks
from train.build import build_model
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.common.trees import flatten, replace, unstack_layers
from train.compression import integers, linears, quantization
from train.compression.integers import Axes
from train.compression.quantization import QUANTIZE
from train.data import batches

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  helpers.write_data(folder)
  return folder


@pytest.mark.parametrize("group", [0, 4])
@pytest.mark.parametrize(
  ("shape", "axes"),
  [((8, 3, 4), Axes((0,), 0)), ((2, 8, 6), Axes((0, 1), 0)), ((5, 8), Axes((1,), 1))],
)
@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_an_error_is_at_most_half_a_step(kind, shape, axes, group):
  weight = RNG.normal(size=shape).astype(np.float32)
  values, scale = integers.quantize(weight, kind, axes, group)
  back = np.asarray(integers.dequantize(values, scale, kind, axes))
  step = np.broadcast_to(np.asarray(integers.spread(scale, shape)), shape)
  bound = step / 2 if kind != "fp8" else np.maximum(np.abs(weight) * 2.0**-4, step * 2.0**-10)
  assert (np.abs(back - weight) <= bound * 1.0001).all()
  assert values.nbytes == weight.nbytes / dict(int8=4, fp8=4, int4=8)[kind]
  # a scale for each output, or for each group of its inputs
  outputs = [shape[axis] for axis in axes.channels(len(shape))]
  inputs = [shape[axis] for axis in axes.inputs]
  assert scale.size == np.prod(outputs) * (1 if not group else np.prod(inputs) // group)
  # the largest of each takes the last step
  largest = np.abs(np.asarray(integers.values_of(values, kind, axes), np.float32)).max()
  assert largest >= dict(int8=127, int4=7, fp8=448)[kind]


def test_packed_numbers_are_unpacked():
  numbers = RNG.integers(-8, 8, (6, 4)).astype(np.int8)
  for axis in (0, 1):
    packed = integers.pack(jnp.asarray(numbers, jnp.int4), axis)
    assert packed.dtype == jnp.uint8
    np.testing.assert_array_equal(integers.unpack(packed, axis), numbers)


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_a_rounded_weight_has_its_own_gradient(kind):
  weight, axes = jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32), Axes((0,), 0)

  def loss(weight):
    return (integers.fake(weight, kind, axes) ** 2).sum()

  rounded = integers.dequantize(*integers.quantize(weight, kind, axes), kind, axes)
  np.testing.assert_allclose(jax.grad(loss)(weight), 2 * rounded, rtol=1e-5)


SETTINGS = [
  dict(weights="int8"),
  dict(weights="int8", activations="int8"),
  dict(weights="int4", group=8),
  dict(weights="fp8", activations="fp8"),
  dict(weights="int8", skip=("embedding$", "mlp/")),
]


def built(settings, body, task, params=None):
  model = helpers.build_model(body, task, seed=0)
  if params is not None:
    graph, _ = nnx.split(model)
    model = nnx.merge(graph, params)
  if settings:
    quantization.apply(model, settings)
  return model


def models(name, data, folder, settings, **changes):
  """Returns a task, and its model rounded as in training and as stored."""
  task, *_ = helpers.build(name, data, folder)
  body = helpers.MODEL | helpers.KINDS[name][2] | changes
  settings = QUANTIZE | settings
  rounded = built(settings, body, task)
  plain = helpers.build_model(body, task, seed=0)
  weights = flatten(nnx.to_pure_dict(nnx.state(plain)))
  stored = quantization.store(plain, settings, weights, {})
  model = helpers.build_model(body, task, seed=0)
  quantization.apply(model, settings | dict(stored=True))
  graph, state = nnx.split(model)
  params = replace(nnx.to_pure_dict(state), stored.weights)
  assert flatten(params).keys() == stored.weights.keys()
  for path, x in flatten(nnx.to_pure_dict(state)).items():
    assert (stored.weights[path].shape, stored.weights[path].dtype) == (x.shape, x.dtype), path
  return task, plain, rounded, nnx.merge(graph, params), stored


# Each kind with one of the settings; all pairs are slow.
PAIRS = [
  pytest.param(name, settings, marks=[] if (i + j) % 3 == 0 else pytest.mark.slow)
  for i, name in enumerate(("classes", "span", "causal"))
  for j, settings in enumerate(SETTINGS)
]


@pytest.mark.parametrize(("name", "settings"), PAIRS)
def test_stored_integers_compute_what_training_rounds(name, settings, data, tmp_path):
  task, plain, rounded, model, stored = models(name, data, tmp_path, settings, num_kv_heads=1)
  batch = helpers.first_batch(task)
  loss = jax.jit(lambda model: task.loss(model, batch, None)["loss"][0])
  exact, trained, held = (float(loss(x)) for x in (plain, rounded, model))
  np.testing.assert_allclose(trained, held, rtol=2e-3 if settings.get("activations") else 2e-5)
  assert abs(exact / held - 1) > 1e-6
  assert max(stored.errors.values()) < dict(int8=0.02, int4=0.2, fp8=0.05)[settings["weights"]]
  if name != "classes" and not settings.get("activations"):  # a search reads the same integers
    request, settings = requests(task), task.settings(beam=2, nbest=2)
    search = jax.jit(lambda model: task.predict(model, request, settings)["tokens"])
    np.testing.assert_array_equal(search(rounded), search(model))


def requests(task):
  examples = [task.example("the dog runs"), task.example("a red ball")]
  items = task.requests(examples)
  longest = task.source_len or task.target_len
  return next(iter(batches.requests(items, 2, longest, 0)))


@pytest.mark.parametrize("how", [{}, dict(layers=("blocks/mlp/",)), dict(skip=("lead/", "query"))])
@pytest.mark.parametrize("depth", [2, 3])
def test_scanned_layers_are_rounded_as_single_ones(depth, how, data, tmp_path):
  """Of three layers, whose windows repeat after two, the first stands before the scan."""
  settings = QUANTIZE | dict(weights="int4") | how
  task, *_ = helpers.build("classes", data, tmp_path)
  batch, losses = helpers.first_batch(task), []
  body = helpers.MODEL | dict(encoder_layers=depth, decoder_layers=0, window=(4, None))
  if how.get("skip") and depth == 2:
    settings["skip"] = ("query",)
  for scan in (True, False):
    model = helpers.build_model(body | dict(scan_layers=scan), task, seed=0)
    if scan:
      single = quantization.of_single_layers(settings, model)
    quantization.apply(model, settings if scan else single)
    losses.append(float(jax.jit(task.loss)(model, batch, None)["loss"][0]))
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_floats_come_back(data, tmp_path):
  settings = QUANTIZE | dict(weights="int4", group=8)
  _, plain, _, _, stored = models("classes", data, tmp_path, settings)
  weights = flatten(nnx.to_pure_dict(nnx.state(plain)))
  back = quantization.floats(stored.weights, settings, plain)
  assert back.keys() == weights.keys()
  for path, weight in weights.items():
    error = np.linalg.norm(back[path] - weight) / max(np.linalg.norm(weight), 1e-9)
    assert error <= stored.errors.get(path, 0.0) * 1.001, path


def test_patterns_and_sizes_are_checked(data, tmp_path):
  for settings, message in (
    (dict(weights="int8", skip=("hed",)), r"quantize.skip: 'hed' matches no layer.*mean head"),
    (dict(weights="int8", group=7), r"quantize.group 7 does not divide"),
  ):
    with pytest.raises(UserError, match=message):
      models("classes", data, tmp_path, settings)
  text = f"{ROOT}/configs/scan.py:small"
  for change, message in (
    ("quantize.activations=int8", "no effect while quantize.weights is ''"),
    ("quantize.weights=int3", "int8"),
  ):
    with pytest.raises(UserError, match=message):
      resolve.load(text, [change])
  with pytest.raises(UserError, match="multiplied as floats"):
    resolve.load(text, ["quantize.weights=int4", "quantize.activations=int8"])


# Runs


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "run"
  changes = {"quantize.weights": "int8", "quantize.activations": "int8"}
  train_config("classify.py:small,data={folder}", corpus, path, **changes)
  return path


def exported(run, out, *more):
  export.main(["--workdir", str(run), "--out", str(out), "--quantize", "int8", *more])
  return json.loads((out / "quantized.json").read_text())


def close(report, share):
  before, after = (report["losses"][when]["loss"] for when in ("before", "after"))
  return after == pytest.approx(before, rel=share)


def test_an_exported_run_is_predicted_with_evaluated_and_started_from(
  run, corpus, tmp_path, capsys
):
  out = tmp_path / "int8"
  report = exported(run, out, "--activations", "int8")
  assert report["bytes"]["after"] < 0.3 * report["bytes"]["before"]
  assert close(report, 0.02)
  assert "bytes of the weights" in capsys.readouterr().out
  texts = ["the dog runs", "a ball", "two red balls"]
  held, trained = (inference.load(path) for path in (out, run))
  kinds = {str(x.dtype) for x in jax.tree.leaves(held.run.params)}
  assert kinds == {"int8", "float32"}
  for ours, theirs in zip(held.arrays(texts)["logits"], trained.arrays(texts)["logits"]):
    # as training rounded them, but for numbers between two integers
    np.testing.assert_allclose(ours, theirs, atol=5e-3)
  with Checkpoints(out) as checkpoints:
    saved = {str(x.dtype) for x in flatten(checkpoints.params("latest")).values()}
  assert saved == {"int8", "float32"}
  after = train_config(
    f"classify.py:small,data={corpus},init={out}",
    corpus,
    tmp_path / "next",
    **{"schedule.peak": 0.0},
  )
  assert {str(x.dtype) for x in after.values()} == {"float32"}
  with pytest.raises(UserError, match="are integers already: name the run that it was made of"):
    exported(out, tmp_path / "again")
  with pytest.raises(UserError, match="holds integers: prune the run that it was made of"):
    prune.main(["--workdir", str(out), "--heads", "0.5", "--out", str(tmp_path / "pruned")])
  with pytest.raises(UserError, match=r"is no run with floats: `train.export --format run` writes"):
    soup.main(["--runs", str(run), str(out), "--out", str(tmp_path / "soup")])
  with pytest.raises(UserError, match=r"distill.teacher .* holds integers: name the run"):
    train_config(f"classify.py:small,data={corpus},teacher={out}", corpus, tmp_path / "student")
  with pytest.raises(UserError, match="name a new folder"):
    exported(run, out)
  with pytest.raises(UserError, match="which no update moves"):
    train_config(
      f"classify.py:small,data={corpus}",
      corpus,
      tmp_path / "trained",
      **{"quantize.weights": "int8", "quantize.stored": True},
    )


@pytest.mark.parametrize("name", ["bert", "bert_classification"])
def test_a_directory_is_quantized_and_becomes_a_run(name, tmp_path):
  """Also one whose pooler the task leaves out."""
  model, texts = f"hf:{FIXTURES / name}", ["the dog runs", "a ball"]
  kind = "embedding" if name == "bert" else "logits"
  whole = inference.load(model).arrays(texts)[kind]
  words = ["--workdir", model, "--out"]
  export.main([*words, str(tmp_path / "floats"), "--format", "run"])
  export.main([*words, str(tmp_path / "int8"), "--quantize", "int8"])
  same, close = (inference.load(tmp_path / x).arrays(texts)[kind] for x in ("floats", "int8"))
  np.testing.assert_allclose(same, whole, atol=1e-6)
  np.testing.assert_allclose(close, whole, atol=0.05)
  assert np.abs(close - whole).max() > 0


def test_what_is_made_of_a_directory_is_exported_with_its_tokenizer(tmp_path):
  """Marian's two sets of pieces fit no tokenizer.json, so its files are copied."""
  one, two, three, out = (tmp_path / name for name in ("one", "two", "three", "out"))
  origin = FIXTURES / "marian"
  export.main(["--workdir", f"hf:{origin}", "--out", str(one), "--format", "run"])
  export.main(["--workdir", str(one), "--out", str(two), "--quantize", "int8"])
  export.main(["--workdir", str(two), "--out", str(three), "--format", "run"])
  export.main(["--workdir", str(three), "--out", str(out), "--no-check"])
  for name in ("source.spm", "target.spm", "vocab.json"):
    assert (out / name).read_bytes() == (origin / name).read_bytes()
  ours, theirs = (inference.load(x)(TEXTS) for x in (three, f"hf:{out}"))
  assert [x["text"] for x in ours] == [x["text"] for x in theirs]
  # a run under the name of its own origin has none, nor has one whose origin is gone
  shutil.rmtree(two)
  assert export_source.open_source(three, "latest").origin is None
  three.rename(two)
  assert export_source.open_source(two, "latest").origin is None


def stacked(corpus, path, **changes):
  """Trains a run that is aware of the integers of some of its scanned layers."""
  changes |= {"quantize.weights": "int4", "quantize.group": 4, "schedule.peak": 0.01}
  changes |= {"model.scan_layers": True, "quantize.layers": ("blocks/mlp/", "query$", "labels$")}
  train_config("classify.py:small,data={folder}", corpus, path, **changes)
  return path


TEXTS = ["the dog runs", "a ball"]


def test_an_aware_run_is_exported_as_it_computes(corpus, tmp_path):
  run, out, held = stacked(corpus, tmp_path / "run"), tmp_path / "out", tmp_path / "held"
  export.main(["--workdir", str(run), "--out", str(out), "--no-check"])
  export.main(["--workdir", str(run), "--out", str(held), "--quantize", "int4"])
  ours, *theirs = (inference.load(x).arrays(TEXTS)["logits"] for x in (run, f"hf:{out}", held))
  np.testing.assert_allclose(theirs[0], ours, atol=1e-5)
  np.testing.assert_allclose(theirs[1], ours, atol=1e-5)
  kinds = {path: str(x.dtype) for path, x in flatten(inference.load(held).run.params).items()}
  assert {path for path, kind in kinds.items() if kind == "uint8"} == {
    path
    for path in kinds
    if re.search(r"blocks/\d+/mlp/.*kernel$|query/kernel$|labels/kernel$", path)
  }


@pytest.mark.slow
def test_an_aware_run_of_scanned_layers_is_averaged_and_pruned(corpus, tmp_path):
  runs = [stacked(corpus, tmp_path / f"run{seed}", seed=seed) for seed in (0, 1)]
  run, mean, pruned = runs[0], tmp_path / "mean", tmp_path / "pruned"
  more = ("--uniform", "--metric", "loss", "--mode", "min", "--out", str(mean))
  soup.main(["--runs", *map(str, runs), *more])
  *parts, whole = (inference.load_run(x, "latest").params for x in (*runs, mean))
  parts = [unstack_layers(flatten(x)) for x in parts]
  for path, x in flatten(whole).items():
    np.testing.assert_allclose(x, (parts[0][path] + parts[1][path]) / 2, atol=1e-7, err_msg=path)
  # it rounds as they do
  how = schema.load_run(mean).quantize
  assert (how.weights, how.group, len(how.layers)) == ("int4", 4, 4)
  other = tmp_path / "other"
  shutil.copytree(run, other)
  (other / "config.json").write_text((run / "config.json").read_text().replace("int4", "int8"))
  with pytest.raises(UserError, match=r"differ:\n  quantize.weights: 'int4' and 'int8'"):
    soup.main(["--runs", str(run), str(other), "--out", str(tmp_path / "x")])
  words = ["--workdir", str(run), "--out", str(pruned), "--mlp"]
  with pytest.raises(UserError, match=r"--mlp 0.3: quantize.group 4 does not .*; or other shares"):
    prune.main([*words, "0.3"])
  prune.main([*words, "0.5"])
  inference.load(pruned).arrays(TEXTS)
  assert schema.load_run(pruned).quantize.weights == "int4"


def test_an_aware_runs_activations_are_kept(run, corpus, tmp_path, caplog):
  caplog.set_level("INFO")
  exported(run, tmp_path / "kept")
  assert schema.load_run(tmp_path / "kept").quantize.activations == "int8"
  assert "was trained with" not in caplog.text
  exported(run, tmp_path / "groups", "--group", "4")
  assert schema.load_run(tmp_path / "groups").quantize.activations == ""
  exported(run, tmp_path / "none", "--activations", "none")
  assert schema.load_run(tmp_path / "none").quantize.activations == ""
  assert "the activations are floats" in caplog.text


def ranges_read(run, split, monkeypatch):
  """Returns path -> the largest magnitude that each linear layer of a run reads on a split, by
  calling its model without jit."""
  trained = pretrained.open(run)
  task, cfg = trained.task(), trained.config
  model = build_model(cfg.model, task, seed=0)
  params = nnx.to_pure_dict(nnx.state(model))
  nnx.update(model, replace(params, trained.weights("latest")[0]))
  for path, layer in linears.find(model, (".",), "test").items():
    layer.path = path
  seen = collections.defaultdict(float)
  for layer_class in (nnx.Linear, nnx.LinearGeneral):

    def call(self, inputs, *args, whole=layer_class.__call__, **kwargs):
      seen[self.path] = max(seen[self.path], float(np.abs(inputs).max()))
      return whole(self, inputs, *args, **kwargs)

    monkeypatch.setattr(layer_class, "__call__", call)
  for batch in batches.eval_batches(task.items(split), tasks.layout(task, cfg.batch_size)):
    task.loss(model, batch, None)
  return seen


def test_ranges_are_those_of_the_split(run, tmp_path, monkeypatch):
  report = exported(run, tmp_path / "a", "--activations", "int8", "--calibrate", "validation")
  assert close(report, 0.05)
  held = flatten(inference.load_run(tmp_path / "a", "latest").params)
  with monkeypatch.context() as patched:
    expected = ranges_read(run, "validation", patched)
  assert len(expected) == 5  # query, key and value are one product there
  for layer, span in expected.items():
    np.testing.assert_allclose(held[f"{layer}/{quantization.RANGE}"], span, rtol=1e-5)
  with pytest.raises(UserError, match="give --activations"):
    exported(run, tmp_path / "b", "--activations", "none", "--calibrate", "validation")
  with pytest.raises(UserError, match=r"nothing"):
    exported(run, tmp_path / "c", "--activations", "int8", "--calibrate", "nothing")


def test_an_empty_split_is_named(run, corpus, tmp_path):
  other, folder = tmp_path / "run", tmp_path / "data"
  shutil.copytree(run, other)
  shutil.copytree(corpus, folder)
  config = (other / "config.json").read_text()
  (other / "config.json").write_text(config.replace(str(corpus), str(folder)))
  (folder / "dev.tsv").write_text("text\tlabel\n")
  with pytest.raises(UserError, match=r"data.splits.validation .*dev.tsv.*: there is no example"):
    exported(other, tmp_path / "out", "--activations", "int8", "--calibrate", "validation")
