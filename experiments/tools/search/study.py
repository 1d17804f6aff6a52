"""The Optuna study that workers on any number of machines share through its storage.

Each running trial carries a sign of life, renewed by its worker. A trial whose sign is no longer
renewed is put back: told as failed and queued again under the number it first had (`of`), which
names its workdir, so that its training goes on there. Signs are compared with themselves, by the
clock of whoever looks: the clocks of machines need not agree, and any storage will do.
"""

import collections
import contextlib
import dataclasses
import math
import os
import pathlib
import re
import socket
import time
import warnings
from collections.abc import Mapping, Sequence

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from experiments.tools.space import MODES, Search
from train.common.errors import UserError

JOURNAL = "journal:"
OF, ALIVE, WORKER, WHY = "of", "alive", "worker", "why"  # user attributes of a trial
DESCRIBED = "search"  # that of a study
SURPLUS = "one too many"  # why a trial was not begun
TRIES, SQLITE_SECONDS = 5, 60
STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, OSError)


def open_storage(url: str):
  """Any Optuna storage URL, or journal:FILE. UserError of one line where there is none."""
  try:
    if url.startswith(JOURNAL):
      try:
        return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
      except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"is no journal of Optuna ({reason(error)})") from error
    sqlite = sqlalchemy.engine.make_url(url).get_backend_name() == "sqlite"
    kind = dict(connect_args={"timeout": SQLITE_SECONDS}) if sqlite else dict(pool_pre_ping=True)
    for last in [False] * (TRIES - 1) + [True]:
      try:
        return RDBStorage(url, engine_kwargs=kind)
      except sqlalchemy.exc.DatabaseError as error:
        # another worker is just making the tables: they exist, or their version does
        if last or not re.search("exist|unique|duplicate|locked", str(error), re.IGNORECASE):
          raise
        time.sleep(0.5)
  except (*STORAGE_ERRORS, ImportError, ValueError) as error:
    raise UserError(f"--storage {shown(url)}: {reason(error)}") from error


def shown(url: str) -> str:
  """The URL without its password."""
  try:
    return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
  except (sqlalchemy.exc.ArgumentError, ValueError):
    return url


def reason(error: BaseException) -> str:
  """One line: what the storage, or what is below it, said first."""
  if isinstance(error, ImportError):
    missing = getattr(error.__cause__, "name", None) or str(error.__cause__ or error)
    return f"needs the Python package {missing}, which is not installed (pip install it)"
  while isinstance(error, StorageInternalError) and error.__cause__:
    error = error.__cause__
  return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def told_of_storage(url: str):
  """Makes what a storage raises a UserError of one line."""
  journal = url.removeprefix(JOURNAL) if url.startswith(JOURNAL) else None
  try:
    yield
  except STORAGE_ERRORS as error:
    if isinstance(error, OSError) and not (journal and journal in str(error.filename)):
      raise
    raise UserError(
      f"--storage {shown(url)}: {reason(error)}. The same command goes on where it was"
    ) from error


def open_study(name: str, search: Search, storage, steps: tuple[int, int], make: bool = True):
  """The study called `name`, made where it is not there (or UserError, without `make`); UserError
  where it is one of another search. `steps`: to the first evaluation and of the whole run."""
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  warnings.simplefilter("ignore", ExperimentalWarning)
  known = dict(study_name=name, storage=storage, pruner=make_pruner(search, steps))
  try:
    if not make:
      study = optuna.load_study(**known)
    else:
      study = optuna.create_study(direction=MODES[search.mode], load_if_exists=True, **known)
  except KeyError:
    raise UserError(f"the storage has no study {name}: nothing was searched so far") from None
  here, there = search.described(), study.user_attrs.get(DESCRIBED)
  if there is None and not study.get_trials(deepcopy=False):
    study.set_user_attr(DESCRIBED, here)
  elif there != here:
    raise UserError(_another(name, here, there or {}))
  return study


def _another(name, here, there):
  rows = [("", "here", "there")]
  for key in sorted(here.keys() | there.keys()):
    if here.get(key) != there.get(key):
      rows.append((key, here.get(key, "(absent)"), there.get(key, "(absent)")))
  wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
  table = "\n".join(f"  {a:<{wide[0]}}  {b:<{wide[1]}}  {c}" for a, b, c in rows)
  return (
    f"the study {name} in the storage is another search (here: this file, there: the storage):\n"
    f"{table}\nUse another --storage or --root, or the same settings"
  )


def make_pruner(search: Search, steps: tuple[int, int]):
  """The pruner by its name; resources of hyperband are steps."""
  first, last = steps
  if search.pruner == "hyperband":
    return optuna.pruners.HyperbandPruner(min(max(first, search.warmup_steps), last), last)
  if search.pruner == "median":
    return optuna.pruners.MedianPruner(n_warmup_steps=search.warmup_steps)
  return optuna.pruners.NopPruner()


def attempts(trials: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
  """Number -> Optuna's trials of it: one, and one more for each time it was put back. What was one
  too many is left out."""
  found = collections.defaultdict(list)
  for trial in trials:
    if trial.user_attrs.get(WHY) != SURPLUS:
      found[original(trial)].append(trial)
  return dict(found)


def original(trial) -> int:
  """The number that names the trial's workdir."""
  return trial.user_attrs.get(OF, trial.number)


def result(several: Sequence[FrozenTrial]) -> FrozenTrial:
  """The attempt that finished, else the last."""
  finished = (TrialState.COMPLETE, TrialState.PRUNED)
  return next((one for one in several if one.state in finished), several[-1])


def state(several: Sequence[FrozenTrial]) -> str:
  """complete, pruned, failed, running, waiting or lost: failed with no reason, as a trial is in the
  moment of being put back."""
  last = result(several)
  if last.state == TrialState.FAIL:
    return "failed" if WHY in last.user_attrs else "lost"
  return last.state.name.lower()


def tally(trials: Sequence[FrozenTrial]) -> collections.Counter:
  return collections.Counter(state(several) for several in attempts(trials).values())


@dataclasses.dataclass
class Signs:
  """Signs of life as they were last seen, each with when it was first seen so."""

  grace: float  # seconds without a new sign until a worker counts as dead
  seen: dict = dataclasses.field(default_factory=dict)

  def stale(self, number: int, sign) -> bool:
    now = time.monotonic()
    if self.seen.get(number, (None,))[0] != sign:
      self.seen[number] = (sign, now)
    return now - self.seen[number][1] > self.grace


def put_back_stale(study, signs: Signs) -> list[int]:
  """Puts back the trials of workers that show no sign of life; their numbers."""
  found = []
  for number, several in attempts(study.get_trials(deepcopy=False)).items():
    last, now = several[-1], state(several)
    if now not in ("running", "lost"):
      continue
    sign = (last.number, now, last.user_attrs.get(ALIVE))
    if signs.stale(number, sign) and put_back(study, last):
      found.append(number)
  return found


def put_back(study, trial) -> bool:
  """Queues the trial again, for any worker, under its number; False where another was first."""
  if getattr(trial, "state", TrialState.RUNNING) == TrialState.RUNNING:
    try:
      study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
      return False
  study.enqueue_trial(dict(trial.params), user_attrs={OF: original(trial)})
  return True


def ask(study, search: Search, most: int):
  """The next trial, running and with its parameters; None where others have the last `most` in
  hand or finished. A trial that was put back comes first."""
  if not _room(tally(study.get_trials(deepcopy=False)), most):
    return None
  trial = study.ask()
  show_life(trial)
  trials = study.get_trials(deepcopy=False)
  counts = tally(trials)
  before = [
    several
    for number, several in attempts(trials).items()
    if state(several) in ("running", "lost", "waiting") and number < original(trial)
  ]
  if counts["complete"] + counts["pruned"] + len(before) >= most:  # two asked for the last one
    trial.set_user_attr(WHY, SURPLUS)
    study.tell(trial, state=TrialState.FAIL)
    return None
  # by the number: a search by one worker repeats itself, and no two workers draw the same
  seed = search.seed + trial.number
  study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.random)
  for key, one in search.space.items():
    one.suggest(trial, key)
  return trial


def _room(counts: Mapping[str, int], most: int) -> bool:
  finished = counts["complete"] + counts["pruned"]
  return finished < most and (
    counts["waiting"] > 0 or finished + counts["running"] + counts["lost"] < most
  )


def show_life(trial) -> None:
  """Raises UpdateFinishedTrialError where another worker took the trial for dead."""
  trial.set_user_attr(WORKER, f"{socket.gethostname()} {os.getpid()}")
  trial.set_user_attr(ALIVE, round(time.time(), 3))


def fail(study, trial, why: str) -> None:
  trial.set_user_attr(WHY, why)
  study.tell(trial, state=TrialState.FAIL)


def best_of(values: Sequence[float], search: Search) -> float | None:
  """The value of a trial: its best evaluation, or its last; None where that is not finite."""
  if search.run.checkpoint != "latest":
    values = [value for value in values if math.isfinite(value)]
    values = values and [max(values) if search.mode == "max" else min(values)]
  return values[-1] if len(values) and math.isfinite(values[-1]) else None


def default_storage(folder: pathlib.Path) -> str:
  return f"sqlite:///{folder.absolute() / 'study.db'}"
