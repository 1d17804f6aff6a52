"""Runs the trials of a search: asks for a trial, trains it and reports its result, and so on."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from experiments.tools.launch import launchers
from experiments.tools.launch.launchers import LOG
from experiments.tools.launch.results import Paths
from experiments.tools.runs import Run
from experiments.tools.search import study as studies
from experiments.tools.space import Search, with_values
from train.cluster.signals import StopSignal
from train.common.entry import INTERRUPTED, TERMINATED
from train.common.errors import UserError, did_you_mean
from train.record.writer import number, read_metrics

POLL_SECONDS = 0.3
STOP_SECONDS = 600  # a training that has not saved and ended by then is killed
MOST_FAILURES = 3  # in a row
LAST_LINES = 8  # of a log


def start(words: Sequence[str], log: pathlib.Path) -> subprocess.Popen:
  """Begins `python WORDS`, which are -m train.main ...; its output is added to `log`."""
  return launchers.start(["python", *words], log)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The settings of a worker."""

  search: Search
  paths: Paths
  cfg: ConfigDict  # of the run
  most: int  # trials, finished or pruned, of all workers
  grace: float  # seconds
  start: Callable  # as `start` above: a process with poll(), terminate() and kill()

  def run(self, trial) -> Run:
    """Returns the run of a trial."""
    name = f"search/trials/{studies.original(trial)}"
    return with_values(self.search, trial.params, name)


def work(study, plan: Plan) -> int:
  """Runs trials until there are enough; returns 0, or 130 or 143 after a signal.

  Raises UserError where the search cannot succeed: the first trial is refused, or several fail in a
  row.
  """
  heartbeats, failures = studies.Heartbeats(plan.grace), []
  with StopSignal(lambda _: None) as stop:  # a second Ctrl-C changes nothing: training saves
    while not stop.status:
      for stale in studies.put_back_stale(study, heartbeats):
        log(f"trial {stale}: its worker's heartbeat stopped; put back")
      counts = studies.tally(study.get_trials(deepcopy=False))
      if counts["complete"] + counts["pruned"] >= plan.most:
        break
      trial = studies.ask(study, plan.search, plan.most)
      if trial is None:  # other workers run the last trials
        time.sleep(POLL_SECONDS)
        continue
      try:
        failure = Trial(study, plan, trial, heartbeats, stop).run()
      except (UpdateFinishedTrialError, ValueError) as error:
        if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
          raise
        log(f"trial {studies.original(trial)}: continued by another worker ({error})")
        continue
      failures = [*failures, failure] if failure else []
      if len(failures) == MOST_FAILURES:
        raise UserError(f"{MOST_FAILURES} trials failed one after another; the last: {failure}")
  return stop.status


class Trial:
  """A trial in progress."""

  def __init__(self, study, plan, trial, heartbeats, stop):
    self.study, self.plan, self.trial, self.stop = study, plan, trial, stop
    self.heartbeats, self.next_beat = heartbeats, 0.0
    self.name = f"trial {studies.original(trial)}"
    self.workdir = plan.paths.workdir(plan.run(trial))
    self.values, self.reported = {}, 0  # step -> value; how many of them Optuna has
    self.process, self.size, self.waits = None, None, False

  def run(self) -> str | None:
    """Trains and reports the result to the study; returns why the trial failed, or None."""
    self.workdir.mkdir(parents=True, exist_ok=True)
    params = ", ".join(f"{key}={value}" for key, value in self.trial.params.items())
    log(f"{self.name}: {params}")
    try:
      return self.finish(pruned=self.watch())
    finally:
      self.end_training()

  def watch(self) -> bool:
    """Waits until the training ends, or ends it; returns whether the trial was pruned."""
    while not self.stop.status:
      self.beat()
      # asked before the lines are read: a process that has ended has written all of them
      ended = self.process is not None and self.process.poll() is not None
      self.read()
      if ended and self.process.poll() == 2 and in_use(self.workdir):
        ended, self.process = False, None
      if ended:
        return False
      if self.report():
        return self.end_training() != 0
      if self.process is None:
        self.start_training()
      time.sleep(POLL_SECONDS)
    self.end_training()
    return False

  def start_training(self) -> None:
    """Starts the training, once no other process trains in the folder."""
    if not in_use(self.workdir):
      command = launchers.commands(self.plan.run(self.trial), self.plan.paths)[0]
      self.process = self.plan.start(command[1:], self.workdir / LOG)
    elif not self.waits:
      self.waits = True
      log(f"{self.name}: waiting for another process, which uses {self.workdir}")

  def beat(self) -> None:
    """Renews the heartbeat when it is due, and puts back trials whose heartbeat stopped."""
    if time.monotonic() >= self.next_beat:
      self.next_beat = time.monotonic() + self.plan.grace / 4
      studies.beat(self.trial)
      studies.put_back_stale(self.study, self.heartbeats)

  def read(self) -> None:
    """Reads the new evaluations in metrics.jsonl."""
    file = self.workdir / "metrics.jsonl"
    size = file.stat().st_size if file.exists() else None
    if size == self.size:
      return
    self.size, metric = size, self.plan.search.metric
    evaluate = self.plan.cfg.evaluate
    for line in read_metrics(file):
      if line["split"] != evaluate.split:
        continue
      if metric in line:
        self.values.setdefault(line["step"], line[metric])
      elif line["step"] % (evaluate.decode_every or evaluate.every) == 0 and not self.values:
        self.refuse_metric(line)

  def refuse_metric(self, line) -> None:
    """Raises UserError: the search's metric is not among those of an evaluation."""
    metric, split = self.plan.search.metric, self.plan.cfg.evaluate.split
    known = [name for name in line if name not in ("step", "split", "time", "seconds")]
    studies.fail(self.study, self.trial, f"no {metric}")
    raise UserError(
      f"SEARCH: metric is {metric!r}; evaluation of {split} reports {', '.join(known)}"
      f"{did_you_mean(metric, known)}"
    )

  def report(self) -> bool:
    """Reports new evaluations to Optuna one after another; returns whether to prune the trial."""
    for step, value in list(self.values.items())[self.reported :]:
      self.trial.report(value, step)
      self.reported += 1
      if self.trial.should_prune():
        return True
    return False

  def finish(self, pruned: bool) -> str | None:
    """Reports the result to the study; returns why the trial failed, or None."""
    code = self.process.poll() if self.process else None
    self.read()
    self.report()
    value = studies.best_value(list(self.values.values()), self.plan.search)
    if code == 0 and not self.values:
      self.refuse_metric(read_metrics(self.workdir)[-1])
    if pruned:
      self.study.tell(self.trial, state=TrialState.PRUNED)
      return log(f"{self.name}: pruned after step {list(self.values)[-1]}")
    if code == 0 and value is not None:
      self.study.tell(self.trial, value)
      best, metric = self.study.best_trial, self.plan.search.metric
      text = f"best: {number(best.value)}, trial {studies.original(best)}"
      return log(f"{self.name}: {metric} {number(value)} ({text})")
    if code == 0 or (code == 2 and diverged(self.workdir, self.plan.cfg.max_skipped)):
      self.trial.set_user_attr(studies.WHY, "diverged")
      self.study.tell(self.trial, state=TrialState.PRUNED)  # so that TPE avoids the place
      return log(f"{self.name}: diverged; counted as pruned")
    if self.stop.status or code in (INTERRUPTED, TERMINATED, -signal.SIGINT, -signal.SIGTERM):
      studies.put_back(self.study, self.trial)
      return log(f"{self.name}: interrupted; put back")
    why = f"{self.name} (exit status {code}): {read_log(self.workdir / LOG)}"
    studies.fail(self.study, self.trial, why)
    log(f"failed: {why}")
    counts = studies.tally(self.study.get_trials(deepcopy=False))
    if code == 2 and not counts["complete"] + counts["pruned"]:
      raise UserError(f"the first trial ended in an error, and so would the others. {why}")
    return why

  def end_training(self) -> int | None:
    """Ends the training, which saves; returns its exit status."""
    if self.process is None:
      return None
    if self.process.poll() is None:
      self.process.terminate()
    until = time.monotonic() + STOP_SECONDS
    while self.process.poll() is None:
      if time.monotonic() > until:
        self.process.kill()
      with contextlib.suppress(Exception):  # a lost storage must not leave the training behind
        self.beat()
      time.sleep(POLL_SECONDS / 3)
    return self.process.poll()


def in_use(workdir: pathlib.Path) -> bool:
  """Returns whether a living process holds the folder's lock, as a training does."""
  try:
    lock = os.open(workdir / ".lock", os.O_RDONLY)
  except FileNotFoundError:
    return False
  try:
    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return False
  except BlockingIOError:
    return True
  except OSError:  # a file system without locks
    return False
  finally:
    os.close(lock)


def diverged(workdir: pathlib.Path, most: int) -> bool:
  """Returns whether the last `most` updates were skipped, one after another, which ends a run."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    lines = (workdir / "skipped.jsonl").read_text(encoding="utf-8").splitlines()[-most:]
    steps = [json.loads(line)["step"] for line in lines]
    return 0 < most == len(steps) == steps[-1] - steps[0] + 1
  return False


def read_log(log: pathlib.Path) -> str:
  """Returns the last lines of a training's output."""
  if not log.exists():
    return "it printed nothing"
  return f"the last lines of {log}:\n{launchers.read_tail(log, LAST_LINES)}"


def log(text: str) -> None:
  """Prints a line at once."""
  print(text, flush=True)
