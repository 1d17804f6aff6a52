"""Several labels of a text, and several numbers: data, losses, scores, commands, Hugging Face."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import load_config
from tests.train.tasks import helpers
from train import evaluate, export, loop, predict
from train.common.errors import UserError
from train.data.label_vectors import split_labels
from train.interop.directory import Directory
from train.record import workdir
from train.scoring import classes, scores


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("several")
  helpers.write_data(folder)
  return folder


def build(folder, content, name="train.tsv", **changes):
  (folder / name).write_text(content)
  section = helpers.defaults("multi_label") | dict(
    data=helpers.table(folder / name, ("text", "labels")), tokenizer=helpers.MASKS, source_len=24
  )
  return helpers.tasks.build(helpers.ConfigDict(section | changes), folder)


def first_labels(task, count):
  """Returns the labels on the first token of the first items of training."""
  items = task.items("train").read(range(count), range(count))
  return [
    {name for i, name in enumerate(task.labels) if item[f"labels_{i // 31}"][0] >> (i % 31) & 1}
    for item in items
  ]


@pytest.mark.parametrize(
  "name, content, changes",
  [
    ("x.tsv", "a dog\tpet, loud\na cat\tpet\na house\t\n", {}),
    ("x.tsv", "a dog\tpet|loud\na cat\tpet\na house\t\n", dict(separator="|")),
    ("x.csv", 'a dog,"pet,loud"\na cat,pet\na house,""\n', {}),
    (
      "x.jsonl",
      '{"text": "a dog", "labels": ["pet", "loud"]}\n{"text": "a cat", "labels": "pet"}\n'
      '{"text": "a house", "labels": []}\n',
      {},
    ),
  ],
)
def test_a_cell_has_any_number_of_labels(tmp_path, name, content, changes):
  task = build(tmp_path, content, name, **changes)
  assert task.labels == ("loud", "pet")
  assert json.loads((tmp_path / "labels.json").read_text()) == ["loud", "pet"]
  assert first_labels(task, 3) == [{"loud", "pet"}, {"pet"}, set()]
  assert "loud" not in task.tokenizer.copy_inner().get_vocab()


@pytest.mark.parametrize("cell", ["pet|loud", "pet;loud", "a, b|c"])
def test_another_separator_is_refused_until_it_is_named(tmp_path, cell):
  mark = "|" if "|" in cell else ";"
  with pytest.raises(UserError, match=re.escape(f"set task.separator={mark!r}")):
    build(tmp_path, f"a dog\t{cell}\na cat\tpet\n")
  assert not (tmp_path / "labels.json").exists()
  assert len(build(tmp_path, f"a dog\t{cell}\na cat\tpet\n", separator=mark).labels) >= 2


@pytest.mark.parametrize(
  "content, changes, message",
  [
    ("a dog\tpet\n", dict(separator=" "), "task.separator is ' '"),
    ("a dog\tpet\n", dict(class_weights="pets:2"), "did you mean pet"),
  ],
)
def test_what_does_not_fit_is_refused(tmp_path, content, changes, message):
  with pytest.raises(UserError, match=message):
    build(tmp_path, content, **changes)


def test_a_list_of_other_than_texts_is_refused_with_its_line(tmp_path):
  with pytest.raises(UserError, match=r"x.jsonl, line 1: 'labels' must be a list of texts"):
    build(tmp_path, '{"text": "a", "labels": [["b"]]}\n', "x.jsonl")
  section = helpers.defaults("classification") | dict(tokenizer=helpers.MASKS)
  section["data"] = helpers.table(tmp_path / "y.jsonl")
  (tmp_path / "y.jsonl").write_text('{"text": "a", "label": ["b"]}\n')
  with pytest.raises(UserError, match="'label' must be text or a number, not list"):
    helpers.tasks.build(helpers.ConfigDict(section), tmp_path)


@given(st.lists(st.text("ab[]\"' é", min_size=1).map(str.strip).filter(bool)))
def test_labels_come_back_from_lists_and_cells(labels):
  assert split_labels(json.dumps(labels), ",") == tuple(dict.fromkeys(labels))
  assert set(split_labels(", ".join(labels), ",")) <= {*labels} or labels[0].startswith("[")


@pytest.mark.parametrize("count", [1, 31, 32, 70])
def test_there_may_be_more_labels_than_bits_of_a_number(tmp_path, count):
  names = [f"n{i:02}" for i in range(count)]
  task = build(tmp_path, f"a dog\t{','.join(names)}\na cat\t{names[-1]}\na b\t{names[0]}\n")
  assert first_labels(task, 3) == [{*names}, {names[-1]}, {names[0]}]
  bits = np.asarray(task._bits(helpers.first_batch(task)))
  assert bits.shape[-1] == count
  assert bits.sum() == count + 2


def expected_loss(logits, labels, weights):
  """Returns the mean binary cross-entropy, in which a label's positives have a weight."""
  prob = 1 / (1 + np.exp(-logits))
  return np.mean(-(weights * labels * np.log(prob) + (1 - labels) * np.log(1 - prob)))


@pytest.mark.parametrize(
  "setting, weights", [("", [1, 1]), ("pet:3", [1, 3]), ("balanced", [3, 1 / 3])]
)
def test_the_loss_is_the_mean_binary_cross_entropy(tmp_path, monkeypatch, setting, weights):
  content = "a dog\tpet,loud\na cat\tpet\na b\t\nthe cat\tpet\n"
  task = build(tmp_path, content, class_weights=setting)
  labels = np.asarray([[1, 1], [0, 1], [0, 0], [0, 1]])
  logits = np.asarray([[0.3, -1.0], [2.0, 0.5], [-0.7, 0.1], [0.4, 0.9]])
  words = task.tokenizer.encode_batch(["dog", "cat", "b", "the"])
  batch = helpers.first_batch(task)
  placed = np.zeros((*batch["weights"].shape, 2))
  for row, column in np.argwhere(batch["weights"]):
    text = batch["source"][row][column : column + 4].tolist()
    number = next(i for i in (3, 0, 1, 2) if words[i][0] in text)
    placed[row, column] = logits[number]
  monkeypatch.setattr(type(task), "logits", lambda *_: jnp.asarray(placed))
  total, count = task.loss(None, batch, None)["loss"]
  assert count == 4
  assert total / count == pytest.approx(expected_loss(logits, labels, weights), rel=1e-5)


SETS = st.lists(st.tuples(st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcd"))))


@given(SETS.filter(len))
def test_scores_are_scikit_learns(rows):
  from sklearn import metrics
  from sklearn.preprocessing import MultiLabelBinarizer

  predictions, references = zip(*rows)
  binarizer = MultiLabelBinarizer(classes=list("abcd"))
  b, a = binarizer.fit_transform(references), binarizer.transform(predictions)
  values = scores.label_sets(predictions, references)
  assert tuple(values) == scores.NAMES["label sets"]
  assert values["exact_match"] == pytest.approx(100 * metrics.accuracy_score(b, a))
  micro = metrics.f1_score(b, a, average="micro", zero_division=0.0)
  assert values["micro_f1"] == pytest.approx(100 * micro)
  columns = [i for i, x in enumerate("abcd") if any(x in row for row in references)]
  each = metrics.f1_score(b, a, average=None, zero_division=0.0)[columns]
  assert values["macro_f1"] == pytest.approx(100 * each.mean() if columns else 0)
  report = classes.label_set_report(predictions, references)
  assert [row["f1"] for row in report.classes.values()] == pytest.approx((100 * each).tolist())


def test_the_threshold_decides(data, tmp_path):
  task, _, _ = helpers.build("label sets", data, tmp_path)
  logits = np.linspace(-3, 3, len(task.labels)).astype(np.float32)
  high, low = (task.output(logits, task.settings(threshold=x)) for x in (0.9, 0.1))
  assert set(high["labels"]) < set(low["labels"])
  assert low["labels"] == [name for name, prob in low["probs"].items() if prob > 0.1]
  assert high["labels"][0] == task.labels[-1]
  assert task.render(low, scores=False, colour=False).count("\t") == 2 * len(low["labels"]) - 1
  assert task.render(low, scores=True, colour=False).count("\t") == 2 * len(task.labels) - 1
  assert task.output(logits - 99, task.settings())["text"] == ""
  with pytest.raises(UserError, match="threshold"):
    task.settings(threshold=1.5)


# Numbers


def test_the_loss_of_numbers_is_the_mean_squared_error(data, tmp_path):
  task, graph, params = helpers.build("vectors", data, tmp_path)
  batch = helpers.first_batch(task)
  model = nnx.merge(graph, params)
  total, count = task.loss(model, batch, None)["loss"]
  logits, on = np.asarray(task.logits(model, batch)), batch["weights"] > 0
  labels = np.stack([batch["labels_0"], batch["labels_1"]], -1)
  assert total / count == pytest.approx(np.mean((logits[on] - labels[on]) ** 2), rel=1e-5)
  gradient = jax.grad(lambda p: task.loss(nnx.merge(graph, p), batch, None)["loss"][0])(params)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(gradient["head"]))


def test_scores_of_numbers_are_of_each_column_and_their_means(data, tmp_path):
  task, _, _ = helpers.build("vectors", data, tmp_path)
  examples = list(task.examples("train"))
  outputs = [
    dict(values=dict(size=float(x["label_0"]) + 1, articles=-float(x["label_1"]))) for x in examples
  ]
  values = task.score(outputs, examples)
  assert values["pearson_size"] == pytest.approx(100)
  assert values["spearman_articles"] == pytest.approx(-100)
  assert values["mse_size"] == pytest.approx(1)
  assert values["pearson"] == pytest.approx(0)
  assert values["mse"] == pytest.approx((1 + values["mse_articles"]) / 2)
  assert tuple(values) == task.score_names(dict(targets=("size", "articles")))


def test_a_cell_that_is_no_number_is_refused_with_its_line(tmp_path):
  (tmp_path / "x.csv").write_text("text,size,price\na dog,1,2\na cat,2,cheap\n")
  columns = {"text": "text", "label_0": "size", "label_1": "price"}
  section = helpers.defaults("numbers") | dict(
    data=helpers.table(tmp_path / "x.csv", columns),
    tokenizer=helpers.MASKS,
    targets=("size", "price"),
  )
  task = helpers.tasks.build(helpers.ConfigDict(section), tmp_path)
  with pytest.raises(UserError, match=r"x.csv, line 3: the label 'cheap'"):
    task.items("train")
  assert not {"1", "2"} & task.tokenizer.copy_inner().get_vocab().keys()
  for targets in ((), ("size", "size")):
    with pytest.raises(UserError, match=r"task\.targets"):
      helpers.tasks.build(helpers.ConfigDict(section | dict(targets=targets)), tmp_path)


# Whole runs, from a config to Hugging Face


def write_table(folder):
  rows = ["comment,labels,price,size"]
  for i in range(60):
    words = [helpers.WORDS[(i * k) % len(helpers.WORDS)] for k in (1, 3, 5, 7)]
    labels = ";".join(sorted({*words} & {*helpers.NOUNS}))
    rows.append(f"{' '.join(words)},{labels},{i / 30},{len(labels)}")
  (folder / "x.csv").write_text("\n".join(rows) + "\n")


def test_a_column_for_each_label_is_the_same_as_a_column_of_labels(tmp_path):
  write_table(tmp_path)
  first, *rows = (tmp_path / "x.csv").read_text().splitlines()
  cells = [row.split(",")[1].split(";") for row in rows]
  wide = [
    f"{row},{','.join(str(int(x in has)) for x in helpers.NOUNS)}" for row, has in zip(rows, cells)
  ]
  (tmp_path / "wide.csv").write_text(
    "\n".join([f"{first},{','.join(helpers.NOUNS)}", *wide]) + "\n"
  )
  read = {}
  for name, arguments in (("x", "separator=;"), ("wide", f"labels={'+'.join(helpers.NOUNS)}")):
    columns = "comment+labels" if name == "x" else "comment+" + "+".join(helpers.NOUNS)
    text = f"classify.py:small,data={tmp_path}/{name}.csv,multi_label,columns={columns},{arguments}"
    cfg = load_config(text, tmp_path)
    (tmp_path / name).mkdir()
    task = helpers.tasks.build(cfg.task, tmp_path / name)
    read[name] = [(x["text"], set(task.labels_of(x))) for x in task.examples("train")]
  assert read["x"] == read["wide"]
  text = f"classify.py:small,data={tmp_path}/x.csv,multi_label,labels=size,columns=comment+size"
  task = load_config(text, tmp_path).task
  with pytest.raises(
    UserError, match=r"column 'size' has '.*expects 1 where a text has this label"
  ):
    helpers.tasks.build(task, tmp_path)


RUNS = {
  "multi_label,separator=;,class_weights=dog:2": "multi_label_classification",
  "targets=price+size": "regression",
}


@pytest.mark.parametrize("arguments", RUNS)
def test_a_config_trains_evaluates_predicts_and_goes_to_transformers_and_back(
  tmp_path, arguments, capsys
):
  write_table(tmp_path)
  cfg = load_config(f"classify.py:small,data={tmp_path}/x.csv,{arguments}", tmp_path)
  cfg.steps, cfg.schedule.warmup_steps = 2, 1
  cfg.evaluate.every = cfg.evaluate.decode_every = cfg.checkpoint.every = 2
  run = tmp_path / "run"
  with workdir.open_run(run, cfg, ["test"]) as opened:
    assert loop.train(cfg, opened) == 0
  evaluate.main(["--workdir", str(run), "--split", "test"])
  results = json.loads((run / "results.json").read_text())
  assert cfg.checkpoint.best_metric in results
  capsys.readouterr()
  predict.main(["--workdir", str(run), "--jsonl", "the red dog"])
  output = json.loads(capsys.readouterr().out)
  export.main(["--workdir", str(run), "--out", str(tmp_path / "hf")])
  theirs = json.loads((tmp_path / "hf" / "config.json").read_text())
  assert theirs["problem_type"] == RUNS[arguments]
  task = Directory(tmp_path / "hf").task()
  assert task["name"] == cfg.task.name
  if cfg.task.name == "numbers":
    assert {"pearson_price", "mse_size"} <= results.keys()
    assert [*output["values"]] == ["price", "size"] == [*theirs["label2id"]]
    key = "values"
  else:
    assert results["classes"].keys() <= {*helpers.NOUNS}
    assert output["probs"].keys() == theirs["label2id"].keys()
    assert results["settings"] == dict(threshold=0.5)
    key = "probs"
  (back,) = predict.load(f"hf:{tmp_path / 'hf'}")(["the red dog"])
  assert back[key] == pytest.approx(output[key], abs=1e-4)
  export.main(["--workdir", f"hf:{tmp_path / 'hf'}", "--out", str(tmp_path / "again")])
  again = json.loads((tmp_path / "again" / "config.json").read_text())
  assert again["problem_type"] == theirs["problem_type"]
