"""Outputs for a split become data to train on; an interrupted file is continued."""

import json

import pytest

from tests.helpers import load_config, train_config
from train import inference, predict, split_outputs
from train.common.errors import UserError
from train.data import sources
from train.scoring import scores


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "run"
  train_config("multi30k.py:small,data={folder}", corpus, path)
  return path


def lines(path):
  return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_student_trains_on_the_outputs(run, corpus, tmp_path, monkeypatch):
  out = tmp_path / "outputs.jsonl"
  words = ["--workdir", str(run), "--split", "train", "--out", str(out)]
  predict.main(words)
  pairs = lines(out)
  examples = inference.load_run(run, "latest").task.examples("train")
  assert [pair["source"] for pair in pairs] == [x["source"] for x in examples]
  predictor = inference.load(run)
  assert [pair["target"] for pair in pairs[:5]] == [
    x["text"] for x in predictor([dict(source=pair["source"]) for pair in pairs[:5]])
  ]
  # cut off in the middle of a line, the file is completed to what it was
  whole = out.read_bytes()
  monkeypatch.setattr(split_outputs, "CHUNK", 16)
  out.write_bytes(whole[: len(whole) // 2])
  predict.main(words)
  assert out.read_bytes() == whole
  with pytest.raises(UserError, match=r"(?s)was made otherwise.*settings"):
    predict.main([*words, "--beam", "2"])
  cfg = load_config(f"multi30k.py:small,data={corpus},tokenizer={run},distilled={out}", corpus)
  data = cfg.task.data.to_dict()
  given = [x["target"] for x in sources.open_split(data, "train")]
  assert given == [pair["target"] for pair in pairs if pair["target"].strip()]
  held = sources.open_split(data, "validation")
  assert len(held) == len(inference.load_run(run, "latest").task.examples("validation"))


def test_the_best_of_n_is_most_like_the_reference(run, tmp_path):
  out = tmp_path / "outputs.jsonl"
  words = ["--workdir", str(run), "--split", "validation", "--out", str(out)]
  predict.main([*words, "--beam", "4", "--nbest", "4", "--choose", "bleu"])
  predictor = inference.load(run, beam=4, nbest=4)
  examples = list(predictor.run.task.examples("validation"))
  for pair, example, output in zip(lines(out), examples, predictor(examples)):
    values = [scores.sentence(x["text"], example["target"]) for x in output["nbest"]]
    assert scores.sentence(pair["target"], example["target"]) == max(values)
  with pytest.raises(UserError, match="give --nbest N too"):
    predict.main([*words, "--choose", "bleu"])
  with pytest.raises(UserError, match=r"--out FILE.jsonl: give both"):
    predict.main(words[:4])
