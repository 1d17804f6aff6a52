"""Older names and units of metrics become the present ones, where they are read."""

import json

import pytest

from train import schema, tasks
from train.record import older
from train.record.config import flat
from train.record.writer import read_metrics


@pytest.mark.parametrize(
  "before, now",
  [
    (dict(loss=1.0, accuracy=0.5, perplexity=2.0), dict(token_accuracy=50.0)),
    (dict(loss=1.0, accuracy=80.0, perplexity=2.0, right=0.5), dict(accuracy=80.0)),
    (dict(accuracy=80.0, macro_f1=70.0), dict(accuracy=80.0)),
    (dict(loss=1.0, right=0.25), dict(token_accuracy=25.0)),
    (dict(right=0.5, recall=0.1, perplexity=2.0), dict(replaced_recall=10.0)),
    (dict(right=0.5, recall=10.0, precision=20.0), dict(recall=10.0, token_accuracy=50.0)),
    (dict(accuracy=80.0, token_accuracy=50.0, perplexity=2.0), dict(accuracy=80.0)),
  ],
)
def test_metrics_have_their_present_names_and_units(before, now, tmp_path):
  after = older.metrics(before)
  assert {key: after[key] for key in now} == now
  assert "right" not in after
  assert older.metrics(after) == after
  line = dict(step=1, split="validation", time=0.0) | before
  (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
  assert read_metrics(tmp_path)[0].items() >= now.items()


def test_an_unfinished_window_has_the_present_names_of_sums():
  window = dict(loss=[1.0, 2.0], accuracy=[1.0, 2.0], recall=[1.0, 2.0])
  assert older.sums(window).keys() == {"loss", "right", "recalled"}


@pytest.mark.parametrize("name", [name for name in tasks.NAMES if name != "mixture"])
def test_settings_of_models_and_tasks_were_added_with_their_defaults(name):
  usual = flat(schema.defaults(dict(task=dict(name=name), model={})))
  added = older.defaults(usual)
  changed = {
    key for key in added if key.startswith(("model.", "task.")) and added[key] != usual[key]
  }
  assert changed <= {"task.decoding.temperature"}  # a language model's was 0
  moved = {key.replace("task.", "task.parts.x."): key for key in usual if key.startswith("task.")}
  assert older.defaults(moved) == {new: added[old] for new, old in moved.items() if old in added}
