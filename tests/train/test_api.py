"""Training and predicting from Python: the same run as the command's, and arrays as outputs."""

import json
import os
import signal

import numpy as np
import pytest

from tests.helpers import FIXTURES, ROOT
from train import loop, main
from train.api import config, load, train
from train.common.errors import UserError
from train.record.writer import FIXED, read_metrics

FEW = {"steps": 3, "batch_size": 8, "evaluate.every": 3, "checkpoint.every": 3, "workers": 0}
FEW |= {"schedule.warmup_steps": 1, "checkpoint.best_metric": "loss", "evaluate.decode_every": 0}


@pytest.fixture(scope="module")
def classifier(corpus, tmp_path_factory):
  cfg = config(f"{ROOT}/configs/classify.py:small,data={corpus}", FEW, log_every=1)
  path = tmp_path_factory.mktemp("api") / "run"
  return cfg, path, train(cfg, path)


def test_a_run_from_python_is_the_command_s(classifier, corpus, tmp_path, monkeypatch):
  cfg, path, last = classifier
  words = [f"--config.{key}={value}" for key, value in FEW.items()]
  words += ["--config.log_every=1", "--workdir", str(tmp_path / "run")]
  assert main.main(["--config", f"{ROOT}/configs/classify.py:small,data={corpus}", *words]) == 0
  ours, theirs = (
    [{k: v for k, v in line.items() if k == "loss" or k in FIXED} for line in read_metrics(folder)]
    for folder in (path, tmp_path / "run")
  )
  assert [line | {"time": 0} for line in ours] == [line | {"time": 0} for line in theirs]
  assert (path / "config.json").read_text() == (tmp_path / "run" / "config.json").read_text()
  assert last["step"] == 3
  assert last["loss"] == ours[-1]["loss"]
  assert json.loads((path / "run.json").read_text())["starts"][0]["command"] == ["train.api.train"]
  assert train(cfg, path)["loss"] == last["loss"]  # it is finished


def test_keys_are_checked_as_the_command_checks_them(corpus):
  text = f"{ROOT}/configs/classify.py:small,data={corpus}"
  assert config(text, {"model.dim": 32, "optimizer.name": "sgd"}, seed=4).model.dim == 32
  with pytest.raises(UserError, match=r"did you mean model\.dim"):
    config(text, {"model.dimm": 32})


def test_logits_and_vectors_are_arrays(classifier):
  pipeline = load(classifier[1])
  texts = ["the dog runs", "a cat", "a red bird sings in the garden"]
  outputs, arrays = pipeline(texts), pipeline.arrays(texts)
  logits = arrays["logits"]
  labels = [pipeline.run.task.labels[i] for i in logits.argmax(-1)]
  assert [output["text"] for output in outputs] == labels
  assert arrays["input"].tolist() == [0, 1, 2]
  assert (arrays["request_lengths"] > 2).all()
  vectors = pipeline.encode(texts)
  assert vectors.shape == (3, classifier[0].model.dim)
  alone = np.concatenate([pipeline.encode([text]) for text in texts])
  np.testing.assert_allclose(vectors, alone, atol=1e-5)
  unit = pipeline.encode(texts, pool="first", normalize=True)
  np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, atol=1e-5)
  assert not np.allclose(unit, vectors, atol=1e-2)


def test_an_embedding_model_s_vectors_are_its_outputs():
  pipeline = load(f"hf:{FIXTURES}/bert")
  texts = ["The lazy fox", "A good word!"]
  np.testing.assert_array_equal(
    pipeline.encode(texts), np.float32([output["embedding"] for output in pipeline(texts)])
  )


@pytest.mark.slow
def test_the_n_best_of_a_search_are_arrays():
  pipeline = load(f"hf:{FIXTURES}/t5", beam=3, nbest=2)
  texts = ["The lazy fox jumps.", "Is it"]
  outputs, arrays = pipeline(texts), pipeline.arrays(texts)
  decode = pipeline.run.task.tokenizer.decode
  for row, output in enumerate(outputs):
    assert [decode(ids) for ids in arrays["tokens"][row]] == [x["text"] for x in output["nbest"]]
    assert arrays["scores"][row].tolist() == [x["score"] for x in output["nbest"]]
  with pytest.raises(UserError, match="no encoder"):
    load(f"hf:{FIXTURES}/gpt2").encode(texts)


def test_ctrl_c_saves_and_is_raised(corpus, tmp_path, monkeypatch):
  cfg = config(f"{ROOT}/configs/classify.py:small,data={corpus}", FEW, log_every=1)
  make = loop.make_train_step

  def interrupted(*args, **options):
    step = make(*args, **options)

    def call(state, batch, *fixed):
      if int(state["step"]) == 1:
        os.kill(os.getpid(), signal.SIGINT)
      return step(state, batch, *fixed)

    return call

  monkeypatch.setattr(loop, "make_train_step", interrupted)
  with pytest.raises(KeyboardInterrupt):
    train(cfg, tmp_path / "run")
  monkeypatch.undo()
  assert train(cfg, tmp_path / "run")["step"] == 3
  assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3, 3]
