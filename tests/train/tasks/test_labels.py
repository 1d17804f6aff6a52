"""Labels of data are checked before training: numbers of a regression, and swapped columns."""

import json

import pytest

from tests.helpers import load_config
from tests.train.tasks import helpers
from train import loop
from train.common.decimals import parse_decimal
from train.common.errors import UserError
from train.record.workdir import Workdir


def put(folder, rows, name="x.tsv"):
  (folder / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
  return helpers.table(folder / name)


def build(spec, folder, **changes):
  """Builds a task of classes of the data `spec`."""
  section = helpers.defaults("classification") | dict(data=spec, source_len=24) | changes
  return helpers.tasks.build(
    helpers.ConfigDict(section | {"tokenizer": dict(name="word")}), folder / "run"
  )


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "run").mkdir()
  return tmp_path


def test_a_missing_package_of_scores_is_named_before_the_data(monkeypatch, tmp_path):
  section = dict(name="text_to_text", kind="summaries")
  cfg = load_config("text2text.py:small,task=summarize,data=nowhere.csv", "nowhere")
  helpers.tasks.check_packages(dict(section, kind="classes"))
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  for wrong in (section, dict(name="mixture", parts=dict(a=section))):
    with pytest.raises(UserError, match=r"rouge-score: pip install -r requirements"):
      helpers.tasks.check_packages(wrong)
  with pytest.raises(UserError, match="rouge-score"):
    loop.train(cfg, Workdir(tmp_path, True, None))


# Numbers


@pytest.mark.parametrize("text", ["1", "-0.5", "+3.", ".5", "1e-3", " 2 "])
def test_a_decimal_number_is_read(text):
  assert parse_decimal(text) == float(text)


@pytest.mark.parametrize(
  "text", ["nan", "inf", "-Infinity", "1_000", "٣", "1e999", "1e39", "0x1", "", "1,5"]
)
def test_nothing_else_is_a_number(text):
  assert parse_decimal(text) is None


@pytest.mark.parametrize("label", ["nan", "inf", "1_000", "٣", "high"])
def test_a_label_that_is_no_number_is_refused_with_file_and_line(folder, label):
  spec = put(folder, ["a dog\t1.5", "", "a cat\t2", f"a\t{label}"])
  task = build(spec, folder, regression=True)
  with pytest.raises(UserError, match=rf"x.tsv, line 4: the label '{label}' is no decimal number"):
    task.items("train")
  pairs = dict(name="formatted", of=spec, source="{text}", target="{label}")
  section = helpers.defaults("text_to_text") | dict(data=pairs, kind="numbers")
  tokenizer = dict(name="word")
  task = helpers.tasks.build(
    helpers.ConfigDict(section | dict(tokenizer=tokenizer)), folder / "run"
  )
  with pytest.raises(UserError, match=r"x.tsv, line 4: the label"):
    task.items("train")


# Columns


def test_swapped_columns_are_refused(folder):
  rows = [f"{'good' if i % 2 else 'bad'}\tthe {i}th film" for i in range(20)]
  with pytest.raises(UserError, match=r"20 different labels.* 2 different values of 'text'.*2\+1"):
    build(put(folder, rows), folder)
  assert not (folder / "run" / "labels.json").exists()
  spec = put(folder, rows) | dict(columns=dict(text="2", label="1"))
  assert build(spec, folder).labels == ("bad", "good")


@pytest.mark.parametrize(
  "rows",
  [
    [f"same\tlabel {i}" for i in range(19)],  # few
    [f"text {i}\tlabel {i}" for i in range(30)],  # nothing repeats
    [f"same\tlabel {i % 15}" for i in range(30)],  # labels repeat
  ],
)
def test_many_labels_alone_are_no_mistake(folder, rows):
  labels = {row.split("\t")[1] for row in rows}
  assert set(build(put(folder, rows), folder).labels) == labels
  assert json.loads((folder / "run" / "labels.json").read_text()) == sorted(labels)


def test_a_regression_has_no_classes(folder):
  rows = [f"same\t{i}" for i in range(30)]
  assert len(build(put(folder, rows), folder, regression=True).items("train").lengths()) == 30


# Names


def test_labels_are_in_the_order_of_their_names(folder):
  (folder / "labels.txt").write_text("very bad\nfair\nexcellent\n")
  spec = put(folder, ["a dog\t2", "a cat\t0", "a\t2"]) | dict(label_names=f"{folder}/labels.txt")
  task = build(spec, folder)
  assert task.labels == ("very bad", "fair", "excellent")
  assert [item["labels"][0] for item in task.items("train").read(range(3), range(3))] == [2, 0, 2]
  assert task.hugging_face().labels == task.labels


def test_labels_and_examples_of_large_data_are_listed(folder, monkeypatch):
  """What a labelled task opens, and what its labels are found in, is read by index."""
  monkeypatch.setattr("train.data.source.LARGE", 10)
  rows = [f"text {i}\t{'ab'[i % 2]}" for i in range(30)]
  task = build(put(folder, rows), folder)
  assert task.labels == ("a", "b")
  assert len(task.items("train").lengths()) == 30
