"""Outputs for a split become data to train on; an interrupted file is continued."""

import json

import pytest

from tests.helpers import load_config, train_config
from train import inference, predict, split_outputs, tasks
from train.common.errors import UserError
from train.data import sources
from train.scoring import scores
from train.tasks.translation import Translation


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


@pytest.mark.slow
def test_outputs_of_a_mixture_are_those_of_its_main_part(corpus, tmp_path):
  run, out = tmp_path / "run", tmp_path / "outputs.jsonl"
  train_config("mixture.py:small,data={folder}", corpus, run)
  predict.main(["--workdir", str(run), "--split", "validation", "--out", str(out)])
  main = tasks.main_part(inference.load_run(run, "latest").task)
  assert [x["source"] for x in lines(out)] == [x["source"] for x in main.examples("validation")]


def test_the_best_is_by_the_tasks_own_bleu():
  texts = ["他们在公园里面踢足球了", "一只狗"]
  output = dict(text=texts[1], nbest=[dict(text=text) for text in reversed(texts)])
  task = Translation(data={}, tokenizer=None, source_len=8, target_len=8, bleu_tokenizer="zh")
  example = dict(target="他们在公园里踢足球")
  assert split_outputs.best_by_bleu(task, output, example) == texts[0]


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
