"""Starts runs: here (`local`), by SLURM through submitit (`slurm`), or by hand (`print`).

Each run is its commands one after another, train.main and then train.evaluate of each split, which
could be pasted into a shell as they are.
"""

import contextlib
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from experiments.tools.launch import results
from experiments.tools.launch.results import Place
from experiments.tools.runs import Estimate, Run, overrides
from train.common import json_files
from train.common.errors import UserError

PLAN = "plan.json"
LOG = "log.txt"  # in a run's folder: what its commands said
LAST_LINES = 5  # of it, that are told of what failed
# Becomes the command that follows the parent's id, and hears SIGTERM when the parent dies: Linux
# alone knows that. A function between fork and exec could do it too, but not safely with threads.
LEASH = """
import ctypes, os, sys
try:
  ctypes.CDLL(None).prctl(1, 15)
except AttributeError:
  pass
if os.getppid() != int(sys.argv[1]):
  sys.exit(143)
os.execv(sys.argv[2], sys.argv[2:])
"""


def commands(run: Run, place: Place) -> list[list[str]]:
  """Train, then evaluate each split; or estimate."""
  workdir = str(place.workdir(run))
  changes = [f"--config.{change}" for change in overrides(run)]
  if isinstance(run, Estimate):
    plan = ["train.plan", "--config", place.config(run), *changes, "--topology", run.topology]
    plan += ["--as_it_is", "--json", f"{workdir}/{PLAN}", *["--table"] * run.table]
    return [["python", "-m", *plan]]
  train = ["train.main", "--config", place.config(run), "--workdir", workdir, *changes]
  found = [train]
  for split in run.splits:
    found += [["train.evaluate", "--workdir", workdir, "--split", split]]
    found[-1] += ["--checkpoint", run.checkpoint]
  return [["python", "-m", *command] for command in found]


def pasted(command: Sequence[str]) -> str:
  """As a person would type it."""
  return shlex.join(command)


def leashed(command: Sequence[str]) -> list[str]:
  """The command as one that ends, by SIGTERM, when this process does."""
  return [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid()), *command]


def start(command: Sequence[str], log: pathlib.Path, **how) -> subprocess.Popen:
  """Begins `python ...`, leashed; it and what it says go to the end of `log`."""
  with open(log, "a", encoding="utf-8") as file:
    file.write(f"$ {pasted(command)}\n")
    file.flush()
    return subprocess.Popen(
      leashed([sys.executable, *command[1:]]), stdout=file, stderr=file, **how
    )


def log_end(log: pathlib.Path, lines: int) -> str:
  """The last lines of what a command said, indented."""
  text = log.read_text(encoding="utf-8", errors="replace")
  return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


class Job:
  """A run that is going on: `poll` until it says how it ended."""

  def __init__(self, run: Run, place: Place, environment: Mapping[str, str] | None = None):
    self.run, self.workdir = run, place.workdir(run)
    self.waiting = commands(run, place)
    self.environment = {**os.environ, **(environment or {})}
    self.began = None if self.workdir.exists() else time.monotonic()
    self.workdir.mkdir(parents=True, exist_ok=True)
    self.results, self.stopped, self.process = {}, False, None
    self._next()

  def poll(self) -> str | None:
    """None while it goes on; then "finished", "interrupted" or, with the log's end, what failed.
    The seconds of a run that goes on are not told: nobody knows those of its beginning."""
    status = self.process.poll()
    if status is None:
      return None
    if self.stopped:
      return "interrupted"
    if status:
      return (
        f"exit status {status} of {pasted(self.command)}\n{log_end(self.workdir / LOG, LAST_LINES)}"
      )
    if "train.plan" in self.command:
      self.results["plan"] = json_files.read(self.workdir / PLAN)
    if "train.evaluate" in self.command:
      split = self.command[self.command.index("--split") + 1]
      self.results[split] = json_files.read(self.workdir / "results.json")
    if self.waiting:
      self._next()
      return None
    seconds = None if self.began is None else round(time.monotonic() - self.began, 1)
    results.write_record(self.run, self.workdir, self.results, seconds)
    return "finished"

  def stop(self, number: int = signal.SIGTERM) -> None:
    """Lets training save and end."""
    self.stopped = True
    if self.process.poll() is None:
      self.process.send_signal(number)

  def _next(self):
    self.command = self.waiting.pop(0)
    # a session of its own: Ctrl-C reaches it once, through us, and it saves
    how = dict(stdin=subprocess.DEVNULL, env=self.environment, start_new_session=True)
    self.process = start(self.command, self.workdir / LOG, **how)


class Slot:
  """A share of the machine: some of its cores, or of its GPUs."""

  def __init__(self, number: int, of: int):
    cores, gpus = sorted(os.sched_getaffinity(0)), _gpus()
    self.cores = cores[number::of] or [cores[number % len(cores)]]
    self.environment = {}
    if gpus:
      self.environment["CUDA_VISIBLE_DEVICES"] = ",".join(
        gpus[number::of] or [gpus[number % len(gpus)]]
      )
      together = -(-of // len(gpus))  # runs on one GPU
      if together > 1:
        self.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / together:.2f}"

  @contextlib.contextmanager
  def taken(self) -> Iterator[None]:
    """Within, what is started has this share's cores."""
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, self.cores)  # inherited
    try:
      yield
    finally:
      os.sched_setaffinity(0, whole)

  def start(self, run: Run, place: Place) -> Job:
    with self.taken():
      return Job(run, place, self.environment)


def _gpus() -> list[str]:
  if "CUDA_VISIBLE_DEVICES" in os.environ:
    return [one for one in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if one]
  if shutil.which("nvidia-smi") is None:
    return []
  listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
  return [str(at) for at, _ in enumerate(listed.stdout.splitlines())]


class Local:
  """At most `jobs` runs at once, in the order of the file; one that starts from another's weights
  waits for it, and is left out if that fails."""

  def __init__(self, runs: Sequence[Run], done: set[str], place: Place, jobs: int):
    if jobs < 1:
      raise UserError(f"--jobs {jobs}: at least 1")
    self.place, self.waiting, self.done = place, list(runs), set(done)
    self.free = [Slot(number, jobs) for number in range(jobs)]
    self.running: dict[str, tuple[Job, Slot]] = {}
    self.ended: dict[str, str] = {}  # name -> how

  def turn(self) -> bool:
    """Starts what can be started, notes what has ended; False when nothing is left."""
    for name, (job, slot) in list(self.running.items()):
      if (how := job.poll()) is not None:
        del self.running[name]
        self.free.append(slot)
        self.ended[name] = how
        if how == "finished":
          self.done.add(name)
    for run in list(self.waiting):
      missing = run.needs() - self.done
      if not missing:
        if self.free:
          self.waiting.remove(run)
          slot = self.free.pop(0)
          self.running[run.name] = slot.start(run, self.place), slot
      elif not missing & {*self.running, *(one.name for one in self.waiting)}:
        self.waiting.remove(run)
        self.ended[run.name] = f"left out, as {min(missing)} is not finished"
    return bool(self.running or self.waiting)

  def stop(self, number: int = signal.SIGTERM) -> None:
    """Nothing more is started; what goes on saves and ends."""
    for run in self.waiting:
      self.ended[run.name] = results.NOT_BEGUN
    self.waiting.clear()
    for job, _ in self.running.values():
      job.stop(number)


class Work:
  """What SLURM runs: a run's commands. When its time is up it saves and is queued again."""

  def __init__(self, run: Run, place: Place):
    self.run, self.place, self.job = run, place, None

  def __call__(self) -> str:
    self.job = Job(self.run, self.place)
    while (how := self.job.poll()) is None:
      time.sleep(1)
    if how != "finished":
      raise RuntimeError(f"{self.run.name}: {how}")
    return how

  def checkpoint(self):
    """Called by submitit on SLURM's signal, before it asks for the job again."""
    from submitit.helpers import DelayedSubmission

    if self.job is not None:
      self.job.stop()
      self.job.process.wait()
    return DelayedSubmission(Work(self.run, self.place))


def slurm(runs: Sequence[Run], done: set[str], place: Place, jobs: int, settings: str, name: str):
  """Submits an array of jobs for what can start, another that waits for it for what starts from
  its weights, and so on. `settings` is submitit's: timeout_min=600,gpus_per_node=1,..."""
  try:
    import submitit
  except ImportError as error:
    told = "pip install -r requirements-experiments.txt"
    raise UserError(f"--launcher slurm needs submitit: {told}") from error
  place = Place(place.data, pathlib.Path(os.path.abspath(place.root)))
  asked = _settings(settings)
  done, waiting, before = set(done), list(runs), []
  while waiting:
    ready = [run for run in waiting if run.needs() <= done]
    if not ready:
      raise UserError(f"{waiting[0].name} starts from a run that is neither finished nor asked for")
    try:
      executor = submitit.AutoExecutor(folder=place.root / "slurm", cluster="slurm")
      more = dict(asked)
      if before:
        ids = ":".join(sorted({job.job_id.split("_")[0] for job in before}))
        more["slurm_additional_parameters"] = {"dependency": f"afterok:{ids}"}
      executor.update_parameters(name=name, slurm_array_parallelism=jobs, **more)
      with executor.batch():  # one array
        before = [executor.submit(Work(run, place)) for run in ready]
    except (RuntimeError, ValueError, TypeError, NameError, OSError) as error:
      raise UserError(f"--launcher slurm: {error}") from error
    for job, run in zip(before, ready):
      print(f"{job.job_id}  {run.name}")
    done |= {run.name for run in ready}
    waiting = [run for run in waiting if run.name not in done]


def _settings(text):
  found = {}
  for part in filter(None, text.split(",")):
    key, equals, value = part.partition("=")
    if not equals:
      raise UserError(f"--slurm {part}: no value given; write --slurm KEY=VALUE,KEY=VALUE")
    found[key] = int(value) if value.isdigit() else value
  return found
