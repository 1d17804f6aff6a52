"""Opens the Optuna study that workers on any number of machines share through its storage.

A worker renews the heartbeat of its trial. A trial whose heartbeat stops is put back: it is marked
as failed and queued again under its first number (`of`), which names its workdir, so that its
training resumes there. Each worker times the heartbeats by its own clock, so clocks need not agree.
Optuna's own heartbeat needs `study.optimize` and a database; this one needs neither.
"""

import collections
import contextlib
import dataclasses
import math
import re
import time
import warnings
from collections.abc import Sequence

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from experiments.tools.space import MODES, Search
from train.common.errors import UserError, indented

JOURNAL = "journal:"
OF, ALIVE, WORKER, WHY = "of", "alive", "worker", "why"  # user attributes of a trial
IDENTITY = "search"  # user attribute of a study
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)  # of a number at most one attempt
STATES = {state: state.name.lower() for state in TrialState} | {TrialState.FAIL: "failed"}
TRIES = 5


def open_storage(url: str):
  """Opens an Optuna storage URL or journal:FILE; raises a UserError of one line on failure."""
  try:
    if url.startswith(JOURNAL):
      return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
    sqlite = sqlalchemy.engine.make_url(url).get_backend_name() == "sqlite"
    options = dict(connect_args={"timeout": 60}) if sqlite else dict(pool_pre_ping=True)
    for more_tries in reversed(range(TRIES)):
      try:
        return RDBStorage(url, engine_kwargs=options)
      except sqlalchemy.exc.DatabaseError as error:
        # another worker is creating the tables: they exist, or their version does
        if not more_tries or not re.search(
          "exist|unique|duplicate|locked", str(error), re.IGNORECASE
        ):
          raise
        time.sleep(0.5)
  except Exception as error:  # drivers and damaged files raise errors of any class
    what = f"--storage {hide_password(url)}: cannot be opened"
    raise UserError(f"{what}: {first_line(error)}") from error


def hide_password(url: str) -> str:
  """Returns the URL without its password."""
  try:
    return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
  except (sqlalchemy.exc.ArgumentError, ValueError):
    return url


def first_line(error: BaseException) -> str:
  """Returns the first line of the error that a storage, or the library below it, raised."""
  if isinstance(error, ImportError):
    missing = getattr(error.__cause__, "name", None) or str(error.__cause__ or error)
    return f"needs the Python package {missing}, which is not installed (pip install it)"
  if isinstance(error, StorageInternalError):
    error = error.__cause__ or error
  return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def storage_errors(url: str):
  """Turns the errors of a storage into a UserError of one line."""
  try:
    yield
  except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, OSError) as error:
    # of OSErrors only those of the journal's file and of its lock
    if isinstance(error, OSError) and url.removeprefix(JOURNAL) not in str(error.filename):
      raise
    raise UserError(
      f"--storage {hide_password(url)}: {first_line(error)}. The same command resumes the search"
    ) from error


def open_study(name: str, search: Search, storage, steps: tuple[int, int], make: bool = True):
  """Opens the study `name`, and creates it where it is missing and `make` is set. `steps` are those
  of the first evaluation and of the whole run. Raises UserError for a missing study or another
  search's."""
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  warnings.simplefilter("ignore", ExperimentalWarning)
  if not make and name not in optuna.get_all_study_names(storage):
    raise UserError(f"the storage has no study {name}; start the search first")
  options = dict(study_name=name, direction=MODES[search.mode], load_if_exists=True)
  study = optuna.create_study(storage=storage, pruner=make_pruner(search, steps), **options)
  here, there = search.identity(), study.user_attrs.get(IDENTITY, {})
  if not there and not study.get_trials(deepcopy=False):
    study.set_user_attr(IDENTITY, here)
  elif there != here:
    different = [key for key in sorted(here | there) if here.get(key) != there.get(key)]
    lines = [f"{x}: {here.get(x, '(absent)')}; {there.get(x, '(absent)')}" for x in different]
    raise UserError(
      f"the study {name} in the storage is another search (this file; the storage):"
      f"{indented(lines, len(lines))}\nUse another --storage or --root, or the same settings"
    )
  return study


def make_pruner(search: Search, steps: tuple[int, int]):
  """Returns the pruner by its name; the resources of hyperband are steps."""
  first, last = steps
  if search.pruner == "hyperband":
    return optuna.pruners.HyperbandPruner(min(max(first, search.warmup_steps), last), last)
  if search.pruner == "median":
    return optuna.pruners.MedianPruner(n_warmup_steps=search.warmup_steps)
  return optuna.pruners.NopPruner()


def attempts(trials: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
  """Groups Optuna's trials by number: a trial, and another for each time it was put back."""
  by_number = {}
  for trial in trials:
    by_number.setdefault(original(trial), []).append(trial)
  return by_number


def original(trial) -> int:
  """Returns the first number of a trial, which names its workdir."""
  return trial.user_attrs.get(OF, trial.number)


def result(several: Sequence[FrozenTrial]) -> FrozenTrial:
  """Returns the attempt that finished, else the last."""
  return next((trial for trial in several if trial.state in FINISHED), several[-1])


def tally(trials: Sequence[FrozenTrial]) -> collections.Counter:
  """Counts numbers by their state: complete, pruned, failed, running or waiting."""
  last = map(result, attempts(trials).values())
  return collections.Counter("running" if half_put_back(x) else STATES[x.state] for x in last)


def half_put_back(last: FrozenTrial) -> bool:
  """Returns whether a number's last attempt was ended by `put_back` and is not queued yet."""
  return last.state == TrialState.FAIL and WHY not in last.user_attrs


@dataclasses.dataclass
class Heartbeats:
  """The heartbeats of all trials, with the time when this worker first read each."""

  grace: float  # seconds without a new heartbeat until a worker counts as dead
  seen: dict = dataclasses.field(default_factory=dict)

  def stopped(self, number: int, beat) -> bool:
    """Returns whether a trial's heartbeat has not changed for `grace` seconds."""
    now = time.monotonic()
    return now - self.seen.setdefault((number, beat), now) > self.grace


def put_back_stale(study, heartbeats: Heartbeats) -> list[int]:
  """Puts back the trials whose heartbeat stopped; returns their numbers.

  A trial that a worker put back by half, and then died, is queued.
  """
  trials = study.get_trials(deepcopy=False)
  running = [trial for trial in trials if trial.state == TrialState.RUNNING]
  stale = [x for x in running if heartbeats.stopped(x.number, x.user_attrs.get(ALIVE))]
  stale = [trial for trial in stale if put_back(study, trial)]
  half = [trial for trial in map(result, attempts(trials).values()) if half_put_back(trial)]
  half = [trial for trial in half if heartbeats.stopped(trial.number, "put back")]
  for trial in half:
    queue(study, trial)
  return [original(trial) for trial in stale + half]


def put_back(study, trial) -> bool:
  """Queues the trial again under its number; False where another worker did so first."""
  try:
    study.tell(trial.number, state=TrialState.FAIL)
  except (ValueError, UpdateFinishedTrialError):
    return False
  queue(study, trial)
  return True


def queue(study, trial) -> None:
  """Queues another attempt of the trial."""
  study.enqueue_trial(dict(trial.params), user_attrs={OF: original(trial)})


def ask(study, search: Search, most: int):
  """Returns the next trial with its parameters, a trial that was put back first; None while other
  workers run, or have finished, the last of `most` trials."""
  counts = tally(study.get_trials(deepcopy=False))
  finished = counts["complete"] + counts["pruned"]
  if finished >= most or (not counts["waiting"] and finished + counts["running"] >= most):
    return None
  trial = study.ask()
  # seeded by the number: a search by one worker is repeatable, and no two workers draw the same
  seed = search.seed + trial.number
  study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.random)
  for key, choices in search.space.items():
    choices.suggest(trial, key)
  return trial


def end(study, trial, state: TrialState, why: str) -> None:
  """Ends a trial that has no value, for the given reason."""
  trial.set_user_attr(WHY, why)
  study.tell(trial, state=state)


def best_value(values: Sequence[float], search: Search) -> float | None:
  """Returns the value of a trial, its best evaluation or its last; None where it is not finite."""
  if search.run.checkpoint == "latest":
    values = values[-1:]
  best = max if search.mode == "max" else min
  return best(filter(math.isfinite, values), default=None)
