"""A worker of a search: asks for a trial, trains it, tells what came of it, until all are done."""

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
from experiments.tools.launch.results import Place
from experiments.tools.runs import Run
from experiments.tools.search import study as studies
from experiments.tools.space import Search, with_values
from train.cluster.signals import StopSignal
from train.common.entry import INTERRUPTED, TERMINATED
from train.common.errors import UserError, did_you_mean
from train.record.writer import number, read_metrics

POLL_SECONDS = 0.3
STOP_SECONDS = 600  # a training that has not saved and left by then is killed
MOST_FAILURES = 3  # in a row
LAST_LINES = 8  # of a log


def start(words: Sequence[str], log: pathlib.Path) -> subprocess.Popen:
  """Begins `python WORDS`, which are -m train.main ...; what it says goes to the end of `log`."""
  return launchers.start(["python", *words], log)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a worker has to know."""

  search: Search
  place: Place
  cfg: ConfigDict  # of the run
  most: int  # trials, finished or pruned, of all workers
  grace: float  # seconds
  start: Callable  # as `start` above: a process with poll(), terminate() and kill()

  def run(self, trial) -> Run:
    """What a trial is."""
    name = f"search/trials/{studies.original(trial)}"
    return with_values(self.search, trial.params, name)


def work(study, plan: Plan) -> int:
  """Runs trials until there are enough; 0, or 130 or 143 where a signal ended it. UserError where
  nothing can come of it: a first trial that is no run, or several that fail one after another."""
  signs, failures = studies.Signs(plan.grace), []
  with StopSignal(lambda _: None) as stop:  # a second Ctrl-C changes nothing: training saves
    while not stop.status:
      for back in studies.put_back_stale(study, signs):
        say(f"trial {back}: its worker shows no sign of life; it is put back")
      counts = studies.tally(study.get_trials(deepcopy=False))
      if counts["complete"] + counts["pruned"] >= plan.most:
        break
      trial = studies.ask(study, plan.search, plan.most)
      if trial is None:  # others have the last ones in hand
        time.sleep(POLL_SECONDS)
        continue
      try:
        why = Trial(study, plan, trial, signs, stop).run()
      except (UpdateFinishedTrialError, ValueError) as error:
        if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
          raise
        say(f"trial {studies.original(trial)}: was taken up by another worker ({error})")
        continue
      failures = [*failures, why] if why else []
      if len(failures) == MOST_FAILURES:
        raise UserError(f"{MOST_FAILURES} trials failed one after another; the last: {why}")
  return stop.status


class Trial:
  """A trial being run."""

  def __init__(self, study, plan, trial, signs, stop):
    self.study, self.plan, self.trial, self.signs, self.stop = study, plan, trial, signs, stop
    self.name, self.workdir = (
      f"trial {studies.original(trial)}",
      plan.place.workdir(plan.run(trial)),
    )
    self.values, self.reported = {}, 0  # step -> value; how many of them Optuna knows
    self.process, self.size, self.waits = None, None, False
    self.next_sign = 0.0

  def run(self) -> str | None:
    """Trains, watches and tells the study; why it failed, or None."""
    self.workdir.mkdir(parents=True, exist_ok=True)
    params = ", ".join(f"{key}={value}" for key, value in self.trial.params.items())
    say(f"{self.name}: {params}")
    try:
      pruned = self.watch()
      return self.tell(pruned)
    finally:
      self.leave()

  def watch(self) -> bool:
    """Waits until the training is over, or stops it; whether it was pruned."""
    while not self.stop.status:
      self.live()
      # in this order: a process that is over has written all its lines
      over = self.process is not None and self.process.poll() is not None
      self.read()
      if over and self.process.poll() == 2 and in_use(self.workdir):
        over, self.process = False, None
      if over:
        return False
      if self.report():
        return self.leave() != 0
      if self.process is None:
        self.begin()
      time.sleep(POLL_SECONDS)
    self.leave()
    return False

  def begin(self) -> None:
    """Starts the training, once nobody else trains there."""
    if not in_use(self.workdir):
      command = launchers.commands(self.plan.run(self.trial), self.plan.place)[0]
      self.process = self.plan.start(command[1:], self.workdir / LOG)
    elif not self.waits:
      self.waits = True
      say(f"{self.name}: {self.workdir} is in use by another process; it is waited for")

  def live(self) -> None:
    """A sign of life, when it is due, and a look at those of others."""
    if time.monotonic() >= self.next_sign:
      self.next_sign = time.monotonic() + self.plan.grace / 4
      studies.show_life(self.trial)
      studies.put_back_stale(self.study, self.signs)

  def read(self) -> None:
    """Reports the evaluations that are new in metrics.jsonl."""
    file = self.workdir / "metrics.jsonl"
    size = file.stat().st_size if file.exists() else None
    if size == self.size:
      return
    self.size, split, metric = size, self.plan.cfg.evaluate.split, self.plan.search.metric
    every = self.plan.cfg.evaluate.decode_every or self.plan.cfg.evaluate.every
    for line in read_metrics(file):
      if line["split"] != split:
        continue
      if metric in line:
        self.values.setdefault(line["step"], line[metric])
      elif line["step"] % every == 0 and not self.values:
        self.no_metric(line)

  def no_metric(self, line) -> None:
    metric, split = self.plan.search.metric, self.plan.cfg.evaluate.split
    known = [name for name in line if name not in ("step", "split", "time", "seconds")]
    studies.fail(self.study, self.trial, f"no {metric}")
    raise UserError(
      f"SEARCH: metric is {metric!r}; evaluation of {split} tells {', '.join(known)}"
      f"{did_you_mean(metric, known)}"
    )

  def report(self) -> bool:
    """Tells Optuna what is new, one evaluation after another as if each had been seen at once;
    whether it is to be pruned."""
    for step, value in list(self.values.items())[self.reported :]:
      self.trial.report(value, step)
      self.reported += 1
      if self.trial.should_prune():
        return True
    return False

  def tell(self, pruned: bool) -> str | None:
    """Tells the study what came of it; why it failed, or None."""
    code = self.process.poll() if self.process else None
    self.read()
    self.report()
    value = studies.best_of(list(self.values.values()), self.plan.search)
    last = list(self.values)[-1:]
    if code == 0 and not last:
      self.no_metric(read_metrics(self.workdir)[-1])
    if pruned:
      self.study.tell(self.trial, state=TrialState.PRUNED)
      return say(f"{self.name}: pruned after step {last[0]}")
    if code == 0 and value is not None:
      self.study.tell(self.trial, value)
      best, metric = self.study.best_trial, self.plan.search.metric
      of = f"best: {number(best.value)}, trial {studies.original(best)}"
      return say(f"{self.name}: {metric} {number(value)} ({of})")
    if (code == 0 and last) or (code == 2 and diverged(self.workdir, self.plan.cfg.max_skipped)):
      self.trial.set_user_attr(studies.WHY, "diverged")
      self.study.tell(self.trial, state=TrialState.PRUNED)  # so TPE learns from it
      return say(f"{self.name}: diverged; counted as pruned")
    if self.stop.status or code in (INTERRUPTED, TERMINATED, -signal.SIGINT, -signal.SIGTERM):
      studies.put_back(self.study, self.trial)
      return say(f"{self.name}: interrupted; it is put back")
    why = f"{self.name} (exit status {code}): {tail(self.workdir / LOG)}"
    studies.fail(self.study, self.trial, why)
    say(f"failed: {why}")
    counts = studies.tally(self.study.get_trials(deepcopy=False))
    if code == 2 and not counts["complete"] + counts["pruned"]:
      raise UserError(f"the first trial ended in an error, and so would the others. {why}")
    return why

  def leave(self) -> int | None:
    """Ends the training, which saves; its exit status."""
    if self.process is None:
      return None
    if self.process.poll() is None:
      self.process.terminate()
    until = time.monotonic() + STOP_SECONDS
    while self.process.poll() is None:
      if time.monotonic() > until:
        self.process.kill()
      with contextlib.suppress(UpdateFinishedTrialError, ValueError):
        self.live()
      time.sleep(POLL_SECONDS / 3)
    return self.process.poll()


def in_use(workdir: pathlib.Path) -> bool:
  """Whether a living process trains in the folder, as its lock tells."""
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
  """Whether the last `most` updates were left out, one after another, which ends a run."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    lines = (workdir / "skipped.jsonl").read_text(encoding="utf-8").splitlines()[-most:]
    steps = [json.loads(line)["step"] for line in lines]
    return 0 < most == len(steps) == steps[-1] - steps[0] + 1
  return False


def tail(log: pathlib.Path) -> str:
  """The last lines of what a training said."""
  if not log.exists():
    return "it said nothing"
  return f"the last lines of {log}:\n{launchers.log_end(log, LAST_LINES)}"


def say(text: str) -> None:
  print(text, flush=True)
