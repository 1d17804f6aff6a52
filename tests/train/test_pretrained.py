"""A run's folder and hf:DIR are one thing to start from."""

import json
import shutil

import jax
import numpy as np
import pytest

from model.config import TransformerConfig
from tests.helpers import FIXTURES, ROOT, load_config
from train import inheriting, pretrained
from train.common.errors import UserError
from train.data.tokenizer import Tokenizer
from train.data.tokenizer_training import train_tokenizer
from train.inheriting import HEAD, OUTPUT
from train.record import config as configs
from train.record import workdir
from train.resolve import load

RUNS = {
  "mlm": "mlm.py:small,data=nowhere",
  "span": "span.py:small,data=nowhere",
  "causal": "causal.py:small,data=nowhere",
  "lstm": "scan.py:small,model=lstm",
}
TASKS = {
  "mlm": dict(name="mlm", source_len=128),
  "translation": dict(name="translation", source_len=64, target_len=64),
  "causal": dict(name="causal", target_len=64),
  "classification": dict(
    name="classification", source_len=128, pool="first", pool_activation="tanh"
  ),
  "mean": dict(name="classification", source_len=128, pool="mean", pool_activation="tanh"),
  "tagging": dict(name="tagging", source_len=128),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Returns the folders of runs that have a config and a tokenizer, and no checkpoint yet."""
  folders = {}
  for name, text in RUNS.items():
    folders[name] = folder = tmp_path_factory.mktemp("runs") / name
    folder.mkdir()
    (folder / "config.json").write_text(workdir.config_json(load_config(text, "nowhere")))
    train_tokenizer(dict(name="char"), ["some text"]).save(folder / "tokenizer.json")
  return folders


def name_of(origin, runs):
  """Returns the name of a run of `runs` or of a fixture."""
  return str(runs[origin]) if origin in runs else f"hf:{FIXTURES / origin}"


def resolve(name, task, inherit, changes=(), **start):
  config = dict(
    steps=3,
    task=TASKS[task] | dict(tokenizer=dict(name="bpe")),
    model=dict(changes, inherit=inherit),
    init_from=dict(workdir=name) | start,
  )
  return inheriting.resolve(config)


NO_WORDS = dict(output_bias=False, tie_output=True, output_transform="none")
ENCODER = dict(decoder_layers=0, **NO_WORDS)
NO_DECODER = (*HEAD, "^decoder/", OUTPUT)
NO_HEAD = (*HEAD, OUTPUT)
MLM = dict(output_bias=True, decoder_layers=0)  # the changes of configs/mlm.py


@pytest.mark.parametrize(
  "origin, task, inherit, changes, which, skip, differences",
  [
    ("span", "translation", "model", {}, "latest", HEAD[:1], {}),
    ("lstm", "translation", "model", dict(dropout=0.5), "latest", HEAD[:1], dict(dropout=0.5)),
    ("marian", "translation", "model", {}, "latest", HEAD[:1], {}),
    ("gpt2", "causal", "model", {}, "latest", HEAD[:1], {}),
    ("gpt2", "tagging", "encoder", {}, "latest", NO_HEAD, NO_WORDS),
    ("mlm", "tagging", "encoder", {}, "latest", NO_DECODER, ENCODER),
    ("span", "classification", "encoder", {}, "latest", NO_DECODER, ENCODER),
    ("t5", "tagging", "encoder", {}, "body", NO_DECODER, ENCODER),
    ("bert_mlm", "classification", "encoder", {}, "body", NO_DECODER, ENCODER),
    ("bert", "tagging", "encoder", {}, "body", NO_DECODER, ENCODER),
    ("bert", "mean", "encoder", {}, "body", NO_DECODER, ENCODER),
    ("bert", "classification", "encoder", {}, "body", ("^head/labels",), ENCODER),
    ("mlm", "mlm", "pretraining", dict(dropout=0.5), "latest", (), {}),
    ("bert_mlm", "mlm", "pretraining", MLM, "latest", (), {}),
    ("span", "mlm", "pretraining", MLM, "latest", NO_HEAD, MLM),
    ("bert", "mlm", "pretraining", MLM, "body", NO_HEAD, MLM),
  ],
)
def test_a_config_inherits(origin, task, inherit, changes, which, skip, differences, runs):
  name = name_of(origin, runs)
  config = resolve(name, task, inherit, changes)
  assert config["model"] == pretrained.open(name).model | differences
  assert config["init_from"] == dict(workdir=name, which=which, skip=skip)
  path = f"{name}/tokenizer.json" if origin in runs else name
  assert config["task"]["tokenizer"] == dict(name="file", path=path)
  assert config["steps"] == 3
  assert "inherit" not in config["model"]


@pytest.mark.parametrize("layers", [(0, 2), (2, 1), (1, 2)])
def test_chosen_layers_keep_their_own_windows_and_positions(layers, runs):
  name, patterns = name_of("modernbert_mlm", runs), ("window", "rope_theta", "rope_scale")
  before = pretrained.open(name).model
  after = resolve(name, "tagging", "encoder", encoder_layers=layers)["model"]
  of_layer = [TransformerConfig(**{**model, "vocab_size": 8}).layer for model in (before, after)]
  assert after["encoder_layers"] == len(layers)
  assert any(isinstance(before[pattern], tuple) for pattern in patterns)
  for ours, theirs in enumerate(layers):
    for pattern in patterns:
      there, here = (getattr(of(i), pattern) for of, i in zip(of_layer, (theirs, ours)))
      assert there == here, pattern
  changed = resolve(name, "tagging", "encoder", dict(window=5), encoder_layers=layers)
  assert changed["model"]["window"] == 5


def test_encoder_and_decoder_share_patterns_or_have_their_own(runs, tmp_path):
  """T5Gemma has (6, None) and (None, 3), LongT5 3 and no window in its decoder."""
  start = dict(encoder_layers=(0,), decoder_layers=(1, 0))
  for name, windows in (("t5gemma", (6, (3, None))), ("longt5", (3, (None,)))):
    model = resolve(name_of(name, runs), "translation", "model", **start)["model"]
    assert (model["window"], model["decoder_window"]) == windows
  shutil.copytree(runs["span"], tmp_path / "run")
  file = tmp_path / "run/config.json"
  config = json.loads(file.read_text())
  config["model"] |= dict(window=[3, None], encoder_layers=2, decoder_layers=2)
  file.write_text(json.dumps(config))
  run = str(tmp_path / "run")
  both = resolve(run, "translation", "model", encoder_layers=(1,), decoder_layers=(1, 0))["model"]
  assert both["window"] == (None, 3)
  with pytest.raises(UserError, match="choose the same of both"):
    resolve(run, "translation", "model", encoder_layers=(1,))


@pytest.mark.parametrize("key", ["encoder_layers", "decoder_layers"])
def test_layers_are_chosen_by_override_as_by_argument(key):
  """Of Gemma 2, whose layers have windows in turn."""
  text = f"{ROOT}/configs/causal.py:small,init=hf:{FIXTURES / 'gemma2'}"
  ours = load(text, [f"init_from.{key}=(1,)"])
  assert ours.to_dict() == load(f"{text},layers=1").to_dict()
  assert (ours.model.window, ours.model.decoder_layers) == (None, 1)
  assert load(text).model.window == (5, None)
  if key == "decoder_layers":
    with pytest.raises(UserError, match=r"layers is \(0,\) and .* has one stack"):
      load(f"{text},layers=0", ["init_from.decoder_layers=(1,)"])
  else:
    assert load(f"{text},layers=0", [f"init_from.{key}=(1,)"]).to_dict() == ours.to_dict()
  usual = load(f"{ROOT}/configs/causal.py:small", [f"init_from.{key}=()"])
  assert usual.to_dict() == load(f"{ROOT}/configs/causal.py:small").to_dict()
  for start in ([], ["init_from.workdir="]):
    with pytest.raises(UserError, match=rf"init_from.{key}=\(1,\) has no effect: there is no"):
      load(f"{ROOT}/configs/causal.py:small", [*start, f"init_from.{key}=(1,)"])


@pytest.mark.parametrize("name", ["bart", "bert"])
def test_layers_of_a_stack_that_a_task_leaves_out_are_refused(name, corpus):
  text = f"{ROOT}/configs/tag.py:data={corpus},init=hf:{FIXTURES / name}"
  with pytest.raises(UserError, match=r"decoder_layers is \(0,\), and a tagging task takes no"):
    load(text, ["init_from.decoder_layers=(0,)"])


@pytest.mark.parametrize(
  "origin, activation",
  [("distilbert_mlm", "relu"), ("electra_mlm", "gelu"), ("bert_mlm", "tanh"), ("mlm", "tanh")],
)
def test_a_classifier_takes_over_its_activation(origin, activation, runs):
  for task in ("classification", "mean"):
    config = resolve(name_of(origin, runs), task, "encoder")
    assert config["task"]["pool_activation"] == activation
  assert "pool_activation" not in resolve(name_of(origin, runs), "tagging", "encoder")["task"]


def test_what_a_config_says_of_init_from_stays(runs):
  config = resolve(str(runs["span"]), "translation", "model", which="best", skip=())
  assert config["init_from"] == dict(workdir=str(runs["span"]), which="best", skip=())


def test_a_config_that_inherits_nothing_stays_as_it_is():
  config = dict(model=dict(dim=8), task=dict(name="mlm"), init_from=dict(workdir="nowhere"))
  assert inheriting.resolve(config) == config


@pytest.mark.parametrize(
  "origin, task, inherit, words",
  [
    ("mlm", "translation", "model", ["no decoder", "translation"]),
    ("causal", "mlm", "pretraining", ["no encoder", "mlm"]),
    ("gpt2", "mlm", "pretraining", ["no encoder", "mlm", "hf:"]),
    ("mlm", "mlm", "encoders", ["model.inherit", "'encoders'", "did you mean encoder"]),
  ],
)
def test_what_cannot_be_inherited_is_an_error(origin, task, inherit, words, runs):
  with pytest.raises(UserError) as error:
    resolve(name_of(origin, runs), task, inherit)
  assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("name, words", [("nowhere", "nowhere"), ("hf:nowhere", "config.json")])
def test_a_missing_origin_is_an_error(name, words):
  with pytest.raises(UserError, match=words):
    resolve(name, "mlm", "model")


def test_both_kinds_answer_the_same_questions(runs):
  run, bert = pretrained.open(runs["mlm"]), pretrained.open(f"hf:{FIXTURES / 'bert'}")
  assert (run.kind, bert.kind) == ("mlm", "body")
  assert (run.directory, bert.config) == (None, None)
  assert run.config.task.name == "mlm"
  assert bert.directory.path == FIXTURES / "bert"
  assert run.tokenizer.fingerprint == Tokenizer.load(run.tokenizer_path).fingerprint
  assert bert.tokenizer.foreign
  assert pretrained.open("nowhere").tokenizer is None


def test_weights_of_a_directory_are_placed_as_asked():
  bert = pretrained.open(f"hf:{FIXTURES / 'bert'}")
  weights, steps = bert.weights("latest")
  before = np.asarray(weights["embedding/embedding"])
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = jax.ShapeDtypeStruct(before.shape, "bfloat16", sharding=here)
  placed, _ = bert.place("latest", dict(embedding=dict(embedding=like)))
  after = placed["embedding"]["embedding"]
  assert steps == []
  assert (after.dtype, after.sharding) == ("bfloat16", here)
  np.testing.assert_array_equal(after, before.astype("bfloat16"))
  with pytest.raises(UserError, match=r"one set of weights, latest, and no best \(--checkpoint"):
    bert.place("best", dict(embedding=dict(embedding=like)))


def test_a_run_has_no_pairs(runs):
  with pytest.raises(UserError, match="--pair"):
    pretrained.open(runs["mlm"]).task(pair=True)


def test_a_run_without_checkpoints_has_no_weights(runs):
  with pytest.raises(UserError, match="holds no checkpoints"):
    pretrained.open(runs["mlm"]).weights("latest")


def test_a_task_takes_its_tokenizer_from_a_directory(tmp_path):
  name = f"hf:{FIXTURES / 'bert'}"
  config = load_config("mlm.py:small,data=nowhere", "nowhere")
  task = config.task.to_dict() | dict(
    data=dict(name="blank"), tokenizer=dict(name="file", path=name)
  )
  built = pretrained.build_task(configs.frozen(task), tmp_path)
  assert built.tokenizer.fingerprint == pretrained.open(name).tokenizer.fingerprint
