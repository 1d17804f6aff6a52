"""Starts runs, each a list of commands that can be pasted into a shell, here or through SLURM."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from experiments.tools.launch import results
from experiments.tools.launch.results import Paths
from experiments.tools.runs import Derived, Estimate, Run, overrides
from train.common import json_files
from train.common.errors import UserError, as_user_error

PLAN = "plan.json"
LOG = "log.txt"  # in a run's folder: the output of its commands
LAST_LINES = 8  # of the log, printed where a command failed
# Replaces itself by a command that keeps to the given cores and gets SIGTERM when the parent dies
# (Linux only). A function between fork and exec could do this too, but not safely with threads.
BIND = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
if hasattr(libc, "prctl"):
  libc.prctl(1, 15)
if os.getppid() != int(sys.argv[1]):
  sys.exit(143)
if sys.argv[2]:
  os.sched_setaffinity(0, map(int, sys.argv[2].split(",")))
os.execv(sys.argv[3], sys.argv[3:])
"""


def commands(run: Run, paths: Paths) -> list[list[str]]:
  """Returns the commands of a run: train or derive, then evaluate each split; or estimate."""
  workdir = str(paths.workdir(run))
  changes = [f"--config.{change}" for change in overrides(run)]
  if isinstance(run, Estimate):
    plan = ["train.plan", "--config", paths.config(run), *changes, "--topology", run.topology]
    plan += ["--as_it_is", "--json", f"{workdir}/{PLAN}", *["--table"] * run.table]
    return [["python", "-m", *plan]]
  if isinstance(run, Derived):
    made = [word.replace("{root}", str(paths.root)) for word in run.made]
    several, folder = [[*made, "--out", f"{workdir}/{run.out}"]], f"{workdir}/{run.out}"
    for split in run.splits:
      evaluate = ["train.evaluate", "--workdir", folder, "--out", workdir, "--split", split]
      several.append([*evaluate, "--checkpoint", run.checkpoint])
    return [["python", "-m", *command] for command in several]
  several = [["train.main", "--config", paths.config(run), "--workdir", workdir, *changes]]
  evaluate = ["train.evaluate", "--workdir", workdir, "--split"]
  several += [[*evaluate, split, "--checkpoint", run.checkpoint] for split in run.splits]
  return [["python", "-m", *command] for command in several]


def bind_to_parent(command: Sequence[str], cores: Sequence[int] = ()) -> list[str]:
  """Returns a command that gets SIGTERM when this process dies, on `cores` (none: on all)."""
  python = [sys.executable, "-I", "-S", "-c", BIND, str(os.getpid())]
  return [*python, ",".join(map(str, cores)), *command]


def start(command: Sequence[str], log: pathlib.Path, cores: Sequence[int] = (), **how):
  """Starts `python ...`, bound to this process; the command and its output are added to `log`."""
  with open(log, "a", encoding="utf-8") as file:
    print(f"$ {shlex.join(command)}", file=file, flush=True)
    bound = bind_to_parent([sys.executable, *command[1:]], cores)
    return subprocess.Popen(bound, stdout=file, stderr=file, **how)


def read_tail(log: pathlib.Path) -> str:
  """Returns the last lines of a log, indented."""
  text = log.read_text(encoding="utf-8", errors="replace")
  return "\n".join(f"  {line}" for line in text.splitlines()[-LAST_LINES:])


class Slot:
  """A share of the machine's cores and GPUs."""

  def __init__(self, number: int, of: int):
    cores, gpus = sorted(os.sched_getaffinity(0)), _gpus()
    self.cores = cores[number::of] or [cores[number % len(cores)]]
    self.environment = dict(os.environ)
    if gpus:
      mine = gpus[number::of] or [gpus[number % len(gpus)]]
      self.environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
      sharing = -(-of // len(gpus))  # runs on one GPU
      if sharing > 1:
        self.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharing:.2f}"


def _gpus() -> list[str]:
  if "CUDA_VISIBLE_DEVICES" in os.environ:
    return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
  if shutil.which("nvidia-smi") is None:
    return []
  listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
  return [str(index) for index, _ in enumerate(listed.stdout.splitlines())]


class Job:
  """A run in progress on a share of the machine; `poll` returns how it ended."""

  def __init__(self, run: Run, paths: Paths, slot: Slot):
    self.run, self.slot, self.workdir = run, slot, paths.workdir(run)
    self.commands = commands(run, paths)
    # the seconds of a resumed run are unknown, as those before the interruption were not kept
    self.began = None if self.workdir.exists() else time.monotonic()
    self.workdir.mkdir(parents=True, exist_ok=True)
    if isinstance(run, Derived) and (self.workdir / run.out).is_dir():
      shutil.rmtree(self.workdir / run.out)  # made again: of an interrupted start
    self.results, self.stopped = {}, False
    self._next()

  def poll(self) -> str | None:
    """Returns None while the run is in progress, then "finished", "interrupted" or the failure."""
    if (status := self.process.poll()) is None:
      return None
    if self.stopped:
      return "interrupted"
    if status:
      log = read_tail(self.workdir / LOG)
      return f"exit status {status} of {shlex.join(self.command)}\n{log}"
    if "train.plan" in self.command:
      self.results["plan"] = json_files.read(self.workdir / PLAN)
    if "train.evaluate" in self.command:
      split = self.command[self.command.index("--split") + 1]
      self.results[split] = json_files.read(self.workdir / "results.json")
    if self.commands:
      self._next()
      return None
    seconds = None if self.began is None else round(time.monotonic() - self.began, 1)
    results.write_record(self.run, self.workdir, self.results, seconds)
    return "finished"

  def stop(self, number: int = signal.SIGTERM) -> None:
    """Sends a signal, on which training saves and ends."""
    self.stopped = True
    self.process.send_signal(number)  # none where it has ended

  def _next(self):
    self.command = self.commands.pop(0)
    # in a session of its own, so that Ctrl-C reaches the session once, through `stop`
    how = dict(stdin=subprocess.DEVNULL, env=self.slot.environment, start_new_session=True)
    self.process = start(self.command, self.workdir / LOG, self.slot.cores, **how)


class Local:
  """Runs at most `jobs` runs at once, in the order of the file. A run that starts from another's
  weights waits for that run, and is skipped if that run fails."""

  def __init__(self, runs: Sequence[Run], done: set[str], paths: Paths, jobs: int):
    if jobs < 1:
      raise UserError(f"--jobs {jobs}: must be at least 1")
    self.paths, self.waiting, self.done = paths, list(runs), set(done)
    self.free = [Slot(number, jobs) for number in range(jobs)]
    self.running: dict[str, Job] = {}
    self.ended: dict[str, str] = {}  # name -> how

  def update(self) -> bool:
    """Notes which runs ended and starts the next; returns False when no run is left."""
    for name, job in list(self.running.items()):
      if (how := job.poll()) is not None:
        del self.running[name]
        self.free.append(job.slot)
        self.ended[name] = how
        if how == "finished":
          self.done.add(name)
    for run in list(self.waiting):
      missing = run.dependencies() - self.done
      if not missing:
        if self.free:
          self.waiting.remove(run)
          self.running[run.name] = Job(run, self.paths, self.free.pop(0))
      elif not missing & {*self.running, *(other.name for other in self.waiting)}:
        self.waiting.remove(run)
        self.ended[run.name] = f"skipped, as {min(missing)} is not finished"
    return bool(self.running or self.waiting)

  def stop(self, number: int = signal.SIGTERM) -> None:
    """Drops the runs that wait; those in progress save and end."""
    self.ended |= {run.name: results.NOT_BEGUN for run in self.waiting}
    self.waiting.clear()
    for job in self.running.values():
      job.stop(number)


class SlurmTask:
  """The function that SLURM calls for a run; when the time is up, the run saves and is queued
  again."""

  def __init__(self, run: Run, paths: Paths):
    self.run, self.paths, self.job = run, paths, None

  def __call__(self) -> None:
    self.job = Job(self.run, self.paths, Slot(0, 1))
    while (how := self.job.poll()) is None:
      time.sleep(1)
    if how != "finished":
      raise RuntimeError(f"{self.run.name}: {how}")

  def checkpoint(self):
    """Saves and returns the task to queue; submitit calls it before SLURM ends the job."""
    from submitit.helpers import DelayedSubmission

    if self.job is not None:
      self.job.stop()
      self.job.process.wait()
    return DelayedSubmission(SlurmTask(self.run, self.paths))


# What submitit raises for bad settings, and where SLURM refuses a job.
SUBMIT_ERRORS = RuntimeError, ValueError, TypeError, NameError, OSError


def submit(runs: Sequence[Run], done: set[str], paths: Paths, jobs: int, settings: str, name: str):
  """Submits an array of jobs to SLURM, and a later array for runs that start from these jobs'
  weights. `settings` are submitit's: timeout_min=600,gpus_per_node=1,..."""
  needed = "--launcher slurm needs pip install -r requirements-experiments.txt"
  with as_user_error(needed, ImportError):
    import submitit
  paths = Paths(paths.data, pathlib.Path(os.path.abspath(paths.root)))
  pairs = [part.partition("=") for part in settings.split(",") if part]
  if missing := [key for key, equals, _ in pairs if not equals]:
    raise UserError(f"--slurm {missing[0]}: has no value; write --slurm KEY=VALUE,KEY=VALUE")
  options = {key: int(value) if value.isdigit() else value for key, _, value in pairs}
  done, waiting, before = set(done), list(runs), []
  while waiting:
    ready = [run for run in waiting if run.dependencies() <= done]
    if not ready:
      raise UserError(f"{waiting[0].name} starts from a run that is neither finished nor submitted")
    with as_user_error("--launcher slurm", *SUBMIT_ERRORS):
      executor = submitit.AutoExecutor(folder=paths.root / "slurm", cluster="slurm")
      if before:
        ids = ":".join(sorted({job.job_id.split("_")[0] for job in before}))
        options["slurm_additional_parameters"] = {"dependency": f"afterok:{ids}"}
      executor.update_parameters(name=name, slurm_array_parallelism=jobs, **options)
      with executor.batch():  # one array
        before = [executor.submit(SlurmTask(run, paths)) for run in ready]
    for job, run in zip(before, ready):
      print(f"{job.job_id}  {run.name}")
    done |= {run.name for run in ready}
    waiting = [run for run in waiting if run.name not in done]
