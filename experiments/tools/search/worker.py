"""Runs the trials of a search: asks for a trial, trains it and reports its result, and so on."""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import pathlib
import signal
import socket
import time
from collections.abc import Callable

import optuna
from ml_collections import ConfigDict
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from experiments.tools.launch import launchers
from experiments.tools.launch.results import Paths
from experiments.tools.search import study as studies
from experiments.tools.space import Search, with_values
from train.cluster.signals import StopSignal
from train.common.entry import INTERRUPTED, TERMINATED
from train.common.errors import UserError, did_you_mean
from train.record.writer import number, read_metrics

POLL_SECONDS = 0.3
STOP_SECONDS = 600  # a training that has not saved and ended by then is killed
MOST_FAILURES = 3  # in a row

log = functools.partial(print, flush=True)


@dataclasses.dataclass(frozen=True)
class Worker:
  """A process that runs trials of a study, one after another."""

  study: optuna.Study
  search: Search
  paths: Paths
  cfg: ConfigDict  # of the run
  most: int  # trials, finished or pruned, of all workers
  heartbeats: studies.Heartbeats
  start: Callable  # as launchers.start: returns a process with poll(), terminate() and kill()

  def work(self) -> int:
    """Runs trials until there are enough; returns 0, or 130 or 143 after a signal. Raises UserError
    where the first trial is refused, or several fail in a row."""
    failures = 0
    with StopSignal(lambda _: None) as stop:  # a second Ctrl-C changes nothing: training saves
      while not stop.status:
        for stale in studies.put_back_stale(self.study, self.heartbeats):
          log(f"trial {stale}: its worker's heartbeat stopped; put back")
        if len(self.study.get_trials(deepcopy=False, states=studies.FINISHED)) >= self.most:
          break
        trial = studies.ask(self.study, self.search, self.most)
        if trial is None:  # other workers run the last trials
          time.sleep(POLL_SECONDS)
          continue
        try:
          failure = Trial(self, trial, stop).run()
        except (UpdateFinishedTrialError, ValueError) as error:
          if self.study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
            raise
          log(f"trial {studies.original(trial)}: continued by another worker ({error})")
          continue
        failures = failures + 1 if failure else 0
        if failures == MOST_FAILURES:
          raise UserError(f"{MOST_FAILURES} trials failed one after another; the last: {failure}")
    return stop.status


class Trial:
  """A trial in progress."""

  def __init__(self, worker: Worker, trial: optuna.Trial, stop: StopSignal):
    self.worker, self.trial, self.stop = worker, trial, stop
    self.name = f"trial {studies.original(trial)}"
    folder = f"search/trials/{studies.original(trial)}"
    settings = with_values(worker.search, trial.params, folder)
    self.workdir = worker.paths.workdir(settings)
    self.command = launchers.commands(settings, worker.paths)[0]
    self.values, self.reported = {}, 0  # step -> value; how many of them Optuna has
    self.next_beat, self.process, self.size = 0.0, None, None

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
    """Waits until the training ends or must end; returns whether the trial is to be pruned."""
    waits = False
    while not self.stop.status:
      self.beat()
      status = self.process and self.process.poll()
      if status == 2 and in_use(self.workdir):
        self.process = None
      elif status is not None:
        return False
      if self.read():
        return True
      if self.process is None and not in_use(self.workdir):
        self.process = self.worker.start(self.command, self.workdir / launchers.LOG)
      elif self.process is None and not waits:
        waits = True
        log(f"{self.name}: waiting for another process, which uses {self.workdir}")
      time.sleep(POLL_SECONDS)
    return False

  def beat(self) -> None:
    """Renews the heartbeat when it is due, and puts back trials whose heartbeat stopped."""
    if time.monotonic() >= self.next_beat:
      self.next_beat = time.monotonic() + self.worker.heartbeats.grace / 4
      # raises UpdateFinishedTrialError where another worker has put the trial back
      self.trial.set_user_attr(studies.WORKER, f"{socket.gethostname()} {os.getpid()}")
      self.trial.set_user_attr(studies.ALIVE, round(time.time(), 3))
      studies.put_back_stale(self.worker.study, self.worker.heartbeats)

  def read(self) -> bool:
    """Reports new evaluations in metrics.jsonl to Optuna; returns whether to prune the trial."""
    file, metric = self.workdir / "metrics.jsonl", self.worker.search.metric
    evaluate = self.worker.cfg.evaluate
    size = file.stat().st_size if file.exists() else None
    for line in read_metrics(file) if size != self.size else ():
      if line["split"] == evaluate.split:
        if metric in line:
          self.values.setdefault(line["step"], line[metric])
        elif line["step"] % (evaluate.decode_every or evaluate.every) == 0 and not self.values:
          self.refuse_metric(line)
    self.size = size
    for step, value in list(self.values.items())[self.reported :]:
      self.trial.report(value, step)
      self.reported += 1
      if self.trial.should_prune():
        return True
    return False

  def refuse_metric(self, line) -> None:
    """Marks the trial failed; raises UserError, as an evaluation lacks the search's metric."""
    metric = self.worker.search.metric
    known = [name for name in line if name not in ("step", "split", "time", "seconds")]
    studies.end(self.worker.study, self.trial, TrialState.FAIL, f"no {metric}")
    raise UserError(
      f"SEARCH: metric is {metric!r}; evaluation of {self.worker.cfg.evaluate.split} reports"
      f" {', '.join(known)}{did_you_mean(metric, known)}"
    )

  def finish(self, pruned: bool) -> str | None:
    """Ends the training and reports to the study; returns why the trial failed, or None."""
    study, search = self.worker.study, self.worker.search
    status = self.end_training()
    self.read()
    value = studies.best_value(list(self.values.values()), search)
    if status == 0 and not self.values:
      self.refuse_metric(read_metrics(self.workdir)[-1])
    if pruned and status != 0:
      study.tell(self.trial, state=TrialState.PRUNED)
      log(f"{self.name}: pruned after step {list(self.values)[-1]}")
    elif status == 0 and value is not None:
      study.tell(self.trial, value)
      best = study.best_trial
      text = f"best: {number(best.value)}, trial {studies.original(best)}"
      log(f"{self.name}: {search.metric} {number(value)} ({text})")
    elif status == 0 or (status == 2 and diverged(self.workdir, self.worker.cfg.max_skipped)):
      studies.end(study, self.trial, TrialState.PRUNED, "diverged")  # so that TPE avoids the place
      log(f"{self.name}: diverged; counted as pruned")
    elif self.stop.status or status in (INTERRUPTED, TERMINATED, -signal.SIGINT, -signal.SIGTERM):
      studies.put_back(study, self.trial)
      log(f"{self.name}: interrupted; put back")
    else:
      file = self.workdir / launchers.LOG
      why = f"{self.name} (exit status {status}): the last lines of {file}:\n"
      why += launchers.read_tail(file)
      studies.end(study, self.trial, TrialState.FAIL, why)
      log(f"failed: {why}")
      if status == 2 and not study.get_trials(deepcopy=False, states=studies.FINISHED):
        raise UserError(f"the first trial ended in an error, and so would the others. {why}")
      return why
    return None

  def end_training(self) -> int | None:
    """Ends the training, which saves; returns its exit status."""
    if self.process is None:
      return None
    self.process.terminate()  # does nothing where it has ended
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
    with open(workdir / ".lock", "rb") as lock:
      fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except OSError as error:  # another one: there is no such file yet, or no locks on the file system
    return isinstance(error, BlockingIOError)
  return False


def diverged(workdir: pathlib.Path, most: int) -> bool:
  """Returns whether the last `most` updates were skipped, one after another, which ends a run."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    lines = (workdir / "skipped.jsonl").read_text(encoding="utf-8").splitlines()[-most:]
    steps = [json.loads(line)["step"] for line in lines]
    return 0 < most == len(steps) == steps[-1] - steps[0] + 1
  return False
