"""Runs made at commit 5e8b6d9, one of each kind of task, open, predict, go on and evaluate.

Each folder of tests/fixtures/formats/2 is a run after step 3, with the weights, metrics, scores and
predictions that the code of that commit had of it afterwards. On the machine that made them they
are equal bit for bit; the tolerances are for other machines. Of mlm the validation's numbers are
later: a window of it is so short that it had no hidden token, and has one since.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from train.checkpoint import Checkpoints
from train.common.trees import flatten
from train.record import older

ROOT = pathlib.Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "formats" / "2"
KINDS = sorted(path.parent.name for path in FIXTURES.glob("*/config.json"))
FAST = ("translation",)
# The bias of both ends moves all tokens of a window alike, so its gradient is rounding alone, which
# Adam makes as large as any other.
WITHOUT_EFFECT = {"qa": {"head/labels/bias"}}
CORRELATIONS = ("pearson", "spearman")  # of ten nearly equal predictions: noise


def close(kind, now, before):
  """Numbers agree up to rounding, all else is equal."""
  if isinstance(before, dict):
    for key, value in before.items():
      if not (kind == "regression" and key in CORRELATIONS):
        close(kind, now[key], value)
  elif isinstance(before, list):
    assert len(now) == len(before)
    for one, other in zip(now, before):
      close(kind, one, other)
  elif isinstance(before, float):
    assert now == pytest.approx(before, rel=1e-3, abs=1e-4)
  else:
    assert now == before


@pytest.mark.parametrize(
  "kind", [pytest.param(k, marks=[] if k in FAST else pytest.mark.slow) for k in KINDS]
)
def test_a_run_goes_on_as_it_went(kind, tmp_path):
  environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}  # as the runs were made
  script = [sys.executable, str(ROOT / "tests" / "train" / "older_runs.py"), kind, str(tmp_path)]
  done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
  fixture, run = FIXTURES / kind, tmp_path / kind
  after = json.loads((fixture / "after_6.json").read_text())
  if (fixture / "predictions.json").exists():
    predictions = [
      item["output"] for item in json.loads((fixture / "predictions.json").read_text())
    ]
    close(kind, json.loads((tmp_path / f"{kind}.json").read_text()), predictions)
  lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  expected = [older.metrics(line) for line in after["metrics"]]
  close(kind, [line for line in lines if line["step"] > 3], expected)
  results = older.metrics(dict(after["results"], checkpoint="latest"))
  close(kind, json.loads((run / "results.json").read_text()), results)
  with Checkpoints(run, keep_latest=9) as checkpoints:
    weights = flatten(checkpoints.params("6"))
  expected = np.load(fixture / "after_6.npz")
  assert weights.keys() == set(expected)
  for name in weights.keys() - WITHOUT_EFFECT.get(kind, set()):
    np.testing.assert_allclose(weights[name], expected[name], atol=2e-5, err_msg=name)


def test_there_is_a_run_of_each_kind_of_task():
  names = {
    json.loads((FIXTURES / kind / "config.json").read_text())["task"]["name"] for kind in KINDS
  }
  assert names >= {
    "translation",
    "causal",
    "span",
    "mlm",
    "classification",
    "tagging",
    "qa",
    "mixture",
  }
