"""Evaluating and predicting on a file that is none of the run's data, and with hf:DIR."""

import hashlib
import json
import random
import shutil

import pytest

from tests import helpers
from train import evaluate, predict
from train.common.errors import UserError
from train.data import given

RNG = random.Random(3)
TEXTS = [helpers.sentence(RNG) for _ in range(24)]
LABELS = ["dog" if "dog" in text else "none" for text in TEXTS]
SENTIMENTS = ("negative", "neutral", "positive")


def sha(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
  """Returns a run that classifies."""
  folder = tmp_path_factory.mktemp("runs") / "classes"
  helpers.train_config("classify.py:small,data={folder}", corpus, folder)
  return folder


@pytest.fixture
def run(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def csv(tmp_path):
  """Returns a table with other columns than the run's data."""
  rows = [f'{n},{label},"{text}"' for n, (text, label) in enumerate(zip(TEXTS, LABELS))]
  path = tmp_path / "other.csv"
  path.write_text("\n".join(["id,label,text", *rows]) + "\n")
  return path


def results_of(capsys, *words):
  capsys.readouterr()
  evaluate.main(list(map(str, words)))
  return json.loads(capsys.readouterr().out)


def outputs_of(capsys, *words):
  capsys.readouterr()
  predict.main(list(map(str, words)))
  return capsys.readouterr().out.splitlines()


def test_a_run_is_evaluated_on_another_file_under_another_name(run, csv, capsys):
  kept = {name: (run / name).read_bytes() for name in ("labels.json", "tokenizer.json")}
  own = results_of(capsys, "--workdir", run)
  results = results_of(capsys, "--workdir", run, "--data", csv)
  assert results["data"] == {str(csv): sha(csv)}
  assert "split" not in results
  assert json.loads((run / "results.json").read_text()) == results
  (written,) = (run / "evaluations").glob("data-*.json")
  assert json.loads(written.read_text()) == results
  assert json.loads((run / "evaluations" / "test-latest.json").read_text()) == own
  lines = written.with_suffix(".jsonl").read_text().splitlines()
  rows = list(map(json.loads, lines))
  assert [row["text"] for row in rows] == TEXTS
  right = sum(row["label"] == row["output"]["text"] for row in rows)
  assert results["accuracy"] == pytest.approx(100 * right / len(TEXTS))
  assert all((run / name).read_bytes() == content for name, content in kept.items())


def test_the_same_data_in_other_forms_have_the_same_results(run, corpus, csv, tmp_path, capsys):
  own = results_of(capsys, "--workdir", run)
  lines = [line.split("\t") for line in (corpus / "test.tsv").read_text().splitlines()]
  rows = [json.dumps({"stars": label, "review": text}) + "\n" for text, label in lines]
  (tmp_path / "a.jsonl").write_text("".join(rows))
  for words in (
    ("--data", corpus / "test.tsv"),
    ("--data", tmp_path / "a.jsonl", "--columns", "review+stars"),
  ):
    results = results_of(capsys, "--workdir", run, *words)
    assert results["loss"] == own["loss"]
    assert results["classes"] == own["classes"]


def test_the_first_examples_alone(run, csv, capsys):
  results = results_of(capsys, "--workdir", run, "--data", csv, "--limit", 5, "--batch_size", 8)
  assert results["limit"] == 5
  assert sum(row["support"] for row in results["classes"].values()) == 5
  results = results_of(capsys, "--workdir", run, "--limit", 7)
  assert sum(row["support"] for row in results["classes"].values()) == 7
  assert {file.name for file in (run / "evaluations").glob("test*.json")} == {
    "test-first7-latest.json"
  }
  assert len(outputs_of(capsys, "--workdir", run, "--data", csv, "--limit", 3)) == 3


def test_a_file_is_predicted_with_and_without_labels(run, csv, tmp_path, capsys):
  (tmp_path / "inputs").write_text("".join(f"{text}\n" for text in TEXTS))
  wanted = outputs_of(capsys, "--workdir", run, "--input", tmp_path / "inputs")
  assert outputs_of(capsys, "--workdir", run, "--data", csv) == wanted
  (tmp_path / "bare.jsonl").write_text("".join(json.dumps({"text": x}) + "\n" for x in TEXTS))
  assert outputs_of(capsys, "--workdir", run, "--data", tmp_path / "bare.jsonl") == wanted


def test_inputs_alone_of_a_run_whose_classes_have_names(tmp_path):
  (tmp_path / "labels.txt").write_text("bad\ngood\n")
  (tmp_path / "bare.csv").write_text("text\na dog\n")
  data = dict(name="files", splits={}, label_names=str(tmp_path / "labels.txt"))
  data = given.describe(str(tmp_path / "bare.csv"), data, ("text", "label"))
  assert [dict(x) for x in given.open_inputs(data)] == [{"text": "a dog"}]


def test_a_run_of_a_column_for_each_label_reads_a_column_of_labels_too(tmp_path):
  (tmp_path / "x.csv").write_text("comment,tags\na dog,dog\n")
  columns = dict(text="comment", label_0="dog", label_1="cat")
  like = dict(name="files", splits={}, columns=columns, label_columns=("dog", "cat"))
  data = given.describe(str(tmp_path / "x.csv"), like, ("text", "labels"), "comment+tags")
  assert [dict(x) for x in given.open_inputs(data)] == [{"text": "a dog", "labels": "dog"}]


def test_words_and_tags_may_be_in_other_columns(tmp_path):
  (tmp_path / "x.conll").write_text("1\tdog\tNN\tO\n2\truns\tVB\tO\n")
  like = dict(name="conll", splits={}, word=0, tag=-1)
  data = given.describe(str(tmp_path / "x.conll"), like, ("words", "tags"), "2+3")
  (example,) = given.open_inputs(data)
  assert (list(example["words"]), list(example["tags"])) == (["dog", "runs"], ["NN", "VB"])
  with pytest.raises(UserError, match="give the numbers of words and tags"):
    given.describe(str(tmp_path / "x.conll"), like, ("words", "tags"), "word+tag")


def test_inputs_alone_may_be_in_a_column_of_another_name(run, tmp_path, capsys):
  (tmp_path / "inputs").write_text("".join(f"{text}\n" for text in TEXTS))
  wanted = outputs_of(capsys, "--workdir", run, "--input", tmp_path / "inputs")
  path = tmp_path / "x.csv"
  path.write_text("id,comment\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(TEXTS)))
  for columns in ("comment", "2"):
    words = ["--workdir", run, "--data", path, "--columns", columns]
    assert outputs_of(capsys, *words)[-len(TEXTS) :] == wanted


def test_a_classifier_of_hugging_face_is_evaluated_by_its_names_and_numbers(tmp_path, capsys):
  model = f"hf:{helpers.FIXTURES}/bert_classification"
  before = sorted((helpers.FIXTURES / "bert_classification").iterdir())
  numbers = [RNG.randrange(3) for _ in TEXTS]
  forms = {
    "names.tsv": [f"{text}\t{SENTIMENTS[n]}\n" for text, n in zip(TEXTS, numbers)],
    "numbers.tsv": [f"{text}\t{n}\n" for text, n in zip(TEXTS, numbers)],
  }
  for name, rows in forms.items():
    (tmp_path / name).write_text("".join(rows))
  names, counted = (results_of(capsys, "--model", model, "--data", tmp_path / x) for x in forms)
  assert names["data"] == {str(tmp_path / "names.tsv"): sha(tmp_path / "names.tsv")}
  assert names["classes"].keys() <= set(SENTIMENTS)
  assert {key: x for key, x in names.items() if key != "data"} == {
    key: x for key, x in counted.items() if key != "data"
  }
  outputs = outputs_of(capsys, "--model", model, "--data", tmp_path / "names.tsv")
  right = sum(x.split("\t")[0] == SENTIMENTS[n] for x, n in zip(outputs, numbers))
  assert names["accuracy"] == pytest.approx(100 * right / len(TEXTS))
  assert sorted((helpers.FIXTURES / "bert_classification").iterdir()) == before
  out = tmp_path / "out"
  words = ("--model", model, "--data", tmp_path / "names.tsv", "--out", out)
  assert results_of(capsys, *words) == json.loads((out / "results.json").read_text())


@pytest.mark.parametrize(
  "kind, name, metric",
  [
    ("bert_tagging", "test.conll", "accuracy"),
    ("bert_qa", "test.json", "f1"),
    ("bert_mlm", "prose/0.txt", "perplexity"),
    ("marian", "source={0}/val.en.gz,target={0}/val.de.gz", "bleu"),
    ("gpt2", "prose/1.txt", "bits_per_byte"),
  ],
)
def test_every_kind_of_hugging_face_has_results(kind, name, metric, corpus, capsys):
  file = name.format(corpus) if "{" in name else corpus / name
  model = f"hf:{helpers.FIXTURES}/{kind}"
  results = results_of(capsys, "--model", model, "--data", file, "--limit", 4)
  assert metric in results
  assert len(results["data"]) == (2 if kind == "marian" else 1)


def test_what_has_no_data_is_said_before_weights_are_read(run, csv, tmp_path):
  (tmp_path / "swapped.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(LABELS, TEXTS)))
  (tmp_path / "a.txt").write_text("a dog\n")
  model = f"hf:{helpers.FIXTURES}/bert_classification"
  for module, words, message in [
    (evaluate, ["--model", model], "--data FILE"),
    (evaluate, ["--workdir", run, "--data", csv, "--split", "test"], "--split"),
    (evaluate, ["--workdir", run, "--columns", "a+b"], "--columns"),
    (evaluate, ["--workdir", run, "--data", tmp_path / "others.csv"], "did you mean other.csv"),
    (evaluate, ["--workdir", run, "--data", tmp_path / "swapped.tsv"], "knows none of the labels"),
    (evaluate, ["--workdir", run, "--data", csv, "--columns", "text+stars"], "no column 'stars'"),
    (predict, ["--workdir", run, "--data", csv, "a dog"], "--data"),
    (predict, ["--workdir", run, "--data", tmp_path / "a.txt"], r"must end in"),
  ]:
    with pytest.raises(UserError, match=message):
      module.main(list(map(str, words)))
