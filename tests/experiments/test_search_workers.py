"""Workers of a search as processes of their own, and what is left when one is killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

from experiments.tools.search import study
from train.record.writer import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
FILE = """
from experiments.tools.runs import Run
from experiments.tools.space import Float, Search

CHANGES = {"steps": 10, "evaluate.every": 5, "checkpoint.every": 5, "evaluate.decode_every": 0}
CHANGES |= {"task.data.holdout": 20, "loggers": (), "schedule.warmup_steps": 1}
CHANGES |= {"log_every": 5}

def runs(scale):
  yield Run("scan", "configs/scan.py:small", CHANGES)

SEARCH = Search(
  run=next(runs("small")),
  space={"model.dropout": Float(0.0, 0.3)},
  metric="loss",
  mode="min",
  pruner="none",
)
"""


def study_of(folder):
  return optuna.load_study(study_name="mine-small", storage=f"sqlite:///{folder}/study.db")


def start_worker(module, tmp_path, trials, grace, **environment):
  words = ["--root", str(tmp_path), "--trials", str(trials), "--grace", str(grace)]
  flags = dict(XLA_FLAGS=os.environ.get("SCRIPTORIUM_TEST_XLA_FLAGS", ""))
  return subprocess.Popen(
    [sys.executable, "-m", module, str(tmp_path / "mine.py"), *words],
    cwd=ROOT,
    env=os.environ | flags | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def kill(process):
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def finish(workers):
  """The output of each worker, all of which succeed."""
  try:
    outputs = [worker.communicate(timeout=900)[0] for worker in workers]
  finally:
    for worker in workers:
      if worker.poll() is None:
        kill(worker)
  assert [worker.returncode for worker in workers] == [0] * len(workers), outputs
  return outputs


def check_resumed(folder, number):
  """A trial was killed and resumed: the same parameters, in the same folder."""
  several = study.attempts(study_of(folder).get_trials())
  first, again = several[number]
  assert (first.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
  assert first.params == again.params
  assert not (folder / "trials" / str(again.number)).exists()
  for other, tries in several.items():
    if study.result(tries).state == TrialState.COMPLETE:
      assert read_metrics(folder / "trials" / str(other))[-1]["step"] == 10


@pytest.mark.slow
def test_two_workers_share_a_search_and_resume_the_trial_of_a_third(tmp_path):
  """The third is killed with its training, which waits after the first step.

  The others have 7 trials of a second, so they are at work for longer than the grace of 2 seconds.
  """
  (tmp_path / "mine.py").write_text(FILE)
  folder = tmp_path / "mine" / "small" / "search"
  fake = "tests.experiments.fake_worker"
  third = start_worker(fake, tmp_path, 8, grace=2, FAKE_SECONDS="900")
  saved = folder / "trials" / "0" / "saved"
  while not saved.exists() or not saved.read_text():
    assert third.poll() is None, third.stdout.read()
    time.sleep(0.01)
  kill(third)
  workers = [start_worker(fake, tmp_path, 8, grace=2, FAKE_SECONDS="0.1") for _ in range(2)]
  outputs = finish(workers)
  # two workers may both ask for the last trial
  assert study.tally(study_of(folder).get_trials())["complete"] in (8, 9)
  check_resumed(folder, 0)
  starts = json.loads((folder / "trials" / "0" / "run.json").read_text())
  assert starts[:2] == [0, 1]
  assert any("resumed after an interruption" in output for output in outputs)


@pytest.mark.slow
def test_real_trainings_of_a_killed_worker_are_resumed(tmp_path):
  """The training is killed when it has saved and sealed step 5 and not saved step 10."""
  (tmp_path / "mine.py").write_text(FILE)
  folder = tmp_path / "mine" / "small" / "search"
  first = start_worker("experiments.search", tmp_path, 3, grace=60)
  while True:
    assert first.poll() is None, first.stdout.read()
    time.sleep(0.01)
    saved = [file.parents[1] / "checkpoints" for file in folder.glob("trials/*/checksums/5.json")]
    saved = [checkpoints for checkpoints in saved if not (checkpoints / "10").exists()]
    if saved:
      os.killpg(first.pid, signal.SIGSTOP)
      if not (saved[0] / "10").exists():
        break
      os.killpg(first.pid, signal.SIGCONT)
  kill(first)
  number = int(saved[0].parent.name)
  finish([start_worker("experiments.search", tmp_path, 3, grace=60) for _ in range(2)])
  check_resumed(folder, number)
  workdir = folder / "trials" / str(number)
  assert len(json.loads((workdir / "run.json").read_text())["starts"]) == 2
  assert "going on after step 5 of 10" in (workdir / "log.txt").read_text()
  evaluated = [line["step"] for line in read_metrics(workdir) if line["split"] == "validation"]
  assert evaluated == [5, 10]
