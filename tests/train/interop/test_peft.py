"""An adapter in PEFT's format stands for the model that it adapts, with the updates added.

tests/parity/test_peft_parity.py compares with the package `peft`.
"""

import json

import numpy as np
import pytest

from tests.helpers import FIXTURES, train_config
from train import export, inference, pretrained
from train.common.errors import UserError
from train.common.trees import flatten, unstack_layers

BERT = f"hf:{FIXTURES / 'bert'}"


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
  """A classifier by adapters of the fixture BERT."""
  path = tmp_path_factory.mktemp("runs") / "lora"
  changes = {"lora.rank": 2, "lora.layers": ("query$", "value$", "down$"), "schedule.peak": 0.1}
  changes["task.source_len"] = 24
  train_config(f"classify.py:small,data={{folder}},init={BERT}", corpus, path, **changes)
  return path


@pytest.fixture(scope="module")
def adapter(run, tmp_path_factory):
  out = tmp_path_factory.mktemp("peft") / "adapter"
  export.main(["--workdir", str(run), "--out", str(out), "--format", "peft"])
  return out


def test_what_is_written_is_read_as_the_run(run, adapter):
  ours, _ = pretrained.open(str(run)).weights("latest")
  theirs, _ = pretrained.open(f"hf:{adapter}").weights("latest")
  ours = unstack_layers(ours)
  assert ours.keys() == theirs.keys()
  for name, weight in ours.items():
    np.testing.assert_allclose(np.asarray(theirs[name]), weight, rtol=1e-6, atol=1e-7, err_msg=name)
  texts = ["the dog runs", "a red ball"]
  both = [inference.load(x).arrays(texts)["logits"] for x in (run, f"hf:{adapter}")]
  np.testing.assert_allclose(*both, atol=1e-5)
  config = json.loads((adapter / "adapter_config.json").read_text())
  assert config["task_type"] == "SEQ_CLS"
  assert config["r"] == 2
  assert {name.rpartition(".")[2] for name in config["target_modules"]} == {
    "query",
    "value",
    "dense",
  }


def test_a_run_starts_from_an_adapter(adapter, corpus, tmp_path):
  changes = {"schedule.peak": 0.0, "task.source_len": 24}
  after = train_config(
    f"classify.py:small,data={{folder}},init=hf:{adapter}", corpus, tmp_path, **changes
  )
  theirs, _ = pretrained.open(f"hf:{adapter}").weights("latest")
  name = "encoder/blocks/0/self_attention/query/kernel"
  np.testing.assert_allclose(after[name], np.asarray(theirs[name]), rtol=1e-6)
  before, _ = pretrained.open(BERT).weights("latest")
  assert np.abs(after[name] - np.asarray(before[name])).max() > 1e-3


@pytest.mark.slow
def test_an_adapted_convolution_is_refused(corpus, tmp_path):
  init = f"hf:{FIXTURES / 'deberta_v2_classification'}"
  changes = {"lora.rank": 2, "lora.layers": ("convolution",), "task.source_len": 24}
  train_config(
    f"classify.py:small,data={{folder}},init={init}", corpus, tmp_path / "run", **changes
  )
  out = tmp_path / "out"
  with pytest.raises(UserError, match=r"convolution/dense is a convolution there"):
    export.main(["--workdir", str(tmp_path / "run"), "--out", str(out), "--format", "peft"])
  assert not any(out.glob("*"))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(peft_type="LOHA"), "peft_type is 'LOHA'"),
    (dict(use_dora=True), "use_dora is True"),
    (dict(rank_pattern={"query": 4}), "rank_pattern is"),
    (dict(layer_replication=[[0, 1], [0, 2]]), "layer_replication is"),
    (dict(of_a_later_version={"a": 1}), "of_a_later_version is"),
    (dict(init_lora_weights="olora"), "which changes the weights of the model that is adapted"),
    (dict(r=0), "r is 0: expects"),
    (dict(base_model_name_or_path="someone/else"), "no such folder holds a config.json"),
  ],
)
def test_what_is_not_read_is_named(change, message, adapter, tmp_path):
  for file in adapter.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  config = json.loads((tmp_path / "adapter_config.json").read_text()) | change
  (tmp_path / "adapter_config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match=message):
    dict(pretrained.open(f"hf:{tmp_path}").weights("latest")[0])


def test_an_adapter_of_another_model_is_refused(adapter, tmp_path):
  for file in adapter.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  config = json.loads((tmp_path / "adapter_config.json").read_text())
  config["base_model_name_or_path"] = str(FIXTURES / "roberta_mlm")
  (tmp_path / "adapter_config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match=r"does not have|update of"):
    dict(pretrained.open(f"hf:{tmp_path}").weights("latest")[0])


@pytest.mark.parametrize(
  ("base", "config", "changes", "message"),
  ids=["layers", "adapter", "bias", "head", "part"],
  argvalues=[
    (BERT, "classify.py:small,layers=1", {}, "bert is a model with other layers"),
    ("{adapter}", "classify.py:small", {}, "adapter is an adapter itself"),
    (BERT, "classify.py:small", {"lora.train": ("^head/", "query/bias$")}, "query has an adapter"),
    (
      f"hf:{FIXTURES / 'roberta_classification'}",
      "classify.py:small",
      {"lora.layers": (".",)},
      "classifier.dense has an adapter, and PEFT keeps it whole",
    ),
    (
      f"hf:{FIXTURES / 'gpt2'}",
      "causal.py:small",
      {
        "task.target_len": 16,
        "task.decoding.max_len_extra": 8,
        "lora.layers": ("down$",),
        "lora.train": ("value/bias$",),
      },
      "is a part of .*c_attn.bias",
    ),
  ],
)
def test_what_no_adapter_there_can_say_is_refused(
  base, config, changes, message, adapter, corpus, tmp_path
):
  """Updates of another model, of parts of tensors, and of layers that are trained otherwise too."""
  length = {} if config.startswith("causal") else {"task.source_len": 24}
  changes = {"lora.rank": 2, "lora.layers": ("query$",)} | length | changes
  text = f"{config},data={{folder}},init={base.format(adapter=f'hf:{adapter}')}"
  if config.startswith("causal"):
    text = text.replace("{folder}", "{folder}/prose")
  train_config(text, corpus, tmp_path / "run", **changes)
  words = ["--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--format", "peft"]
  with pytest.raises(UserError, match=message):
    export.main(words)


def test_a_run_without_adapters_has_none_to_write(corpus, tmp_path):
  run = tmp_path / "run"
  train_config("classify.py:small,data={folder}", corpus, run)
  with pytest.raises(UserError, match="has no adapters"):
    export.main(["--workdir", str(run), "--out", str(tmp_path / "x"), "--format", "peft"])


def test_shapes_are_those_of_the_model(run):
  loaded = flatten(inference.load_run(run, "latest").params)
  assert not [name for name in loaded if "lora" in name]
