"""Predicting and evaluating beside a training that removes checkpoints as fast as it can."""

import os
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT
from train import inference

SECONDS = 120
TRAINING = (
  *("-m", "train.main", "--config=configs/scan.py:small", "--config.steps=100000"),
  *("--config.checkpoint.every=1", "--config.evaluate.every=20", "--config.log_every=20"),
  *("--config.evaluate.decode_every=0", "--config.checkpoint.best_metric=loss"),
)


@pytest.mark.slow
def test_two_minutes_of_predictions_beside_a_training_have_no_failure(tmp_path):
  environment = os.environ | {"XLA_FLAGS": os.environ["SCRIPTORIUM_TEST_XLA_FLAGS"]}
  command = [
    sys.executable,
    *TRAINING,
    "--config.checkpoint.best_mode=min",
    f"--workdir={tmp_path}",
  ]
  with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as training:
    try:
      while not any(tmp_path.glob("checksums/*.json")):
        assert training.poll() is None
        time.sleep(0.1)
      began, steps = time.monotonic(), []
      while time.monotonic() - began < SECONDS:
        steps += inference.load_run(str(tmp_path), "latest").steps
        if '"validation"' in (tmp_path / "metrics.jsonl").read_text():
          inference.load_run(str(tmp_path), "best")
      one = [sys.executable, "-m", "train.predict", "--workdir", str(tmp_path), "jump twice"]
      assert subprocess.run(one, cwd=ROOT, env=environment).returncode == 0
    finally:
      training.kill()
  assert steps == sorted(steps)
  assert len(set(steps)) > 20
