"""Two workers of a search as processes of their own, and what is left when one is killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import optuna
from optuna.trial import TrialState

from experiments.tools.search import study
from train.record.writer import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
FILE = """
from experiments.tools.runs import Run
from experiments.tools.space import Choice, Search

CHANGES = {"steps": 10, "evaluate.every": 5, "checkpoint.every": 5, "evaluate.decode_every": 0}
CHANGES |= {"task.data.holdout": 20, "tensorboard": False, "schedule.warmup_steps": 1}
CHANGES |= {"log_every": 5}

def runs(scale):
  yield Run("scan", "configs/scan.py:small", CHANGES)

SEARCH = Search(
  run=next(runs("small")),
  space={"schedule.peak": Choice(1e-4, 1e-3, 1e-2), "model.num_heads": Choice(2, 4)},
  metric="loss",
  mode="min",
  pruner="none",
)
"""


def study_of(folder):
  return optuna.load_study(study_name="mine-small", storage=study.default_storage(folder))


def start_worker(tmp_path, trials):
  words = ["--root", str(tmp_path), "--trials", str(trials), "--grace", "15"]
  environment = os.environ | dict(XLA_FLAGS=os.environ.get("SCRIPTORIUM_TEST_XLA_FLAGS", ""))
  return subprocess.Popen(
    [sys.executable, "-m", "tests.experiments.warm", str(tmp_path / "mine.py"), *words],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def kill_in_the_middle(process, folder):
  """Kills a worker and its training when that has saved step 5 and not step 10; which trial."""
  while True:
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.01)
    for saved in folder.glob("trials/*/checkpoints/5/commit_success.txt"):
      number, last = int(saved.parents[2].name), saved.parents[1] / "10"
      if last.exists():
        continue
      (one,) = (one for one in study_of(folder).get_trials() if study.original(one) == number)
      if not one.user_attrs["worker"].endswith(f" {process.pid}"):
        continue
      os.killpg(process.pid, signal.SIGSTOP)
      if not last.exists():
        os.killpg(process.pid, signal.SIGKILL)
        return number
      os.killpg(process.pid, signal.SIGCONT)


def test_two_workers_share_a_search_and_one_is_killed(tmp_path):
  """20 trials of SCAN; the first worker and its training get SIGKILL in the middle of one."""
  (tmp_path / "mine.py").write_text(FILE)
  folder = tmp_path / "mine" / "small" / "search"
  workers = [start_worker(tmp_path, 20) for _ in range(2)]
  try:
    number = kill_in_the_middle(workers[0], folder)
    told = workers[1].communicate(timeout=900)[0]
  finally:
    for one in workers:
      if one.poll() is None:
        os.killpg(one.pid, signal.SIGKILL)
  assert workers[1].returncode == 0, told
  trials = study_of(folder).get_trials()
  several = study.attempts(trials)
  assert study.tally(trials) == {"complete": 20}
  first, again = several[number]
  assert (first.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
  assert first.params == again.params
  workdir = folder / "trials" / str(number)
  assert len(json.loads((workdir / "run.json").read_text())["starts"]) == 2
  assert "going on after step 5 of 10" in (workdir / "log.txt").read_text()
  evaluated = [line["step"] for line in read_metrics(workdir) if line["split"] == "validation"]
  assert evaluated == [5, 10]
  assert not (folder / "trials" / str(again.number)).exists()
  for one in several:
    assert read_metrics(folder / "trials" / str(one))[-1]["step"] == 10
  assert "1 went on after an interruption" in told
