"""Defines the space of a search, ranges and choices for the KEY of `--config.KEY=VALUE`, and checks
that all of it can run."""

import dataclasses
import functools
import math
import pathlib
import tempfile
import types
from collections.abc import Mapping

from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from experiments.tools import runs
from experiments.tools.runs import Run
from train import optimizer, pretrained, resolve, schema, sharding
from train.build import build_model
from train.common.errors import UserError, choose
from train.record import config
from train.record.workdir import CHANGEABLE
from train.tasks.base import require_score

MODES = {"min": "minimize", "max": "maximize"}
PRUNERS = dict.fromkeys(("median", "hyperband", "none"))


@dataclasses.dataclass(frozen=True)
class Float:
  """Numbers from `low` to `high`, both included; with log, each power of ten is as likely."""

  low: float
  high: float
  log: bool = False
  kind, adjective = float, "finite"

  def ends(self) -> tuple:
    """Returns the values that are checked before the search."""
    return (self.kind(self.low), self.kind(self.high))

  def problem(self) -> str | None:
    """Returns why this is no range; None where it is one."""
    if not all(type(x) in (int, self.kind) and math.isfinite(x) for x in (self.low, self.high)):
      return f"{self}: low and high must be {self.adjective} numbers"
    if self.low > self.high:
      return f"{self}: low is more than high"
    return f"{self}: with log=True low must be above 0" if self.log and self.low <= 0 else None

  def __contains__(self, value) -> bool:
    return type(value) in (int, float) and self.low <= value <= self.high

  def suggest(self, trial, key: str):
    """Returns a value that Optuna proposes."""
    return trial.suggest_float(key, *self.ends(), log=self.log)


class Int(Float):
  """Whole numbers from `low` to `high`, both included."""

  kind, adjective = int, "whole"

  def suggest(self, trial, key: str):
    return trial.suggest_int(key, *self.ends(), log=self.log)


@dataclasses.dataclass(frozen=True, init=False)
class Choice:
  """Chooses one of several values, in no order."""

  values: tuple

  def __init__(self, *values):
    object.__setattr__(self, "values", values)

  def ends(self) -> tuple:
    """Returns all values; sequences as text for `--config.KEY=`, as Optuna stores plain values."""
    plain = (bool, int, float, str, types.NoneType)
    return tuple(value if isinstance(value, plain) else str(value) for value in self.values)

  def problem(self) -> str | None:
    texts = [str(value) for value in self.ends()]
    if not texts:
      return "Choice() has nothing to choose from"
    twice = [text for text in texts if texts.count(text) > 1]
    return f"Choice has {twice[0]} twice" if twice else None

  def __contains__(self, value) -> bool:
    return value in self.values

  def suggest(self, trial, key: str):
    return trial.suggest_categorical(key, self.ends())


@dataclasses.dataclass(frozen=True)
class Search:
  """The search for the setting of `run` with the best `metric` on its validation split. The value
  of a trial is its best evaluation, or with run.checkpoint "latest" its last."""

  run: Run
  space: Mapping[str, Float | Int | Choice]  # by key of the config
  metric: str  # a metric of validation in metrics.jsonl
  mode: str = "max"  # or min
  trials: int = 20  # finished or pruned
  random: int = 10  # random trials before TPE's first
  pruner: str = "median"  # PRUNERS
  warmup_steps: int = 0  # before which no trial is pruned
  seed: int = 0

  def identity(self) -> dict[str, str]:
    """Returns what must not change when a search is resumed."""
    run = self.run
    fixed = dict(config=run.config, metric=self.metric, mode=self.mode, checkpoint=run.checkpoint)
    for key, value in run.changes.items():
      if not any(f"{key}.".startswith(f"{free}.") for free in CHANGEABLE):
        fixed[f"changes[{key}]"] = value
    fixed |= {f"space[{key}]": choices for key, choices in self.space.items()}
    return {key: str(value) for key, value in fixed.items()}


def with_values(search: Search, params: Mapping, name: str = "search") -> Run:
  """Returns the run with a trial's values, which override its changes."""
  return dataclasses.replace(search.run, name=name, changes={**search.run.changes, **params})


def check(search: Search, text: str) -> ConfigDict:
  """Returns the config of the run, after building what each end of each range would build. Raises
  UserError where the run, a key or an end of a range cannot run, with key, value and reason."""
  choose(MODES, search.mode, "SEARCH: mode")
  choose(PRUNERS, search.pruner, "SEARCH: pruner")
  if type(search.run) is not Run:
    raise UserError(f"SEARCH: run is a {type(search.run).__name__}; known: runs.Run")
  if not search.space:
    raise UserError("SEARCH: the space is empty: name the settings to search")
  for key, choices in search.space.items():
    if not isinstance(choices, (Float, Choice)):
      raise UserError(f"SEARCH: space[{key!r}] is {choices!r}; known: Float, Int, Choice")
    if problem := choices.problem():
      raise UserError(f"SEARCH: space[{key!r}]: {problem}")

  def load(params, check=schema.check):
    return resolve.load(text, runs.overrides(with_values(search, params)), check)

  def load_keys(params):  # of values that may fit together only with those of other keys
    return load(params, schema.check_keys)

  def check_ends(load, build, others):
    for key, choices in search.space.items():
      rest = ", ".join(f"{name}={value}" for name, value in others.items() if name != key)
      rest = f" (with {rest})" if rest else ""
      for value in choices.ends():
        try:
          build(load(others | {key: value}))
        except (UserError, ValueError) as error:
          raise UserError(f"SEARCH: space[{key!r}] may be {value!r}{rest}, but {error}") from error

  known = config.flat(load_keys({}))
  check_ends(load_keys, lambda cfg: None, {})  # each alone, before it is combined with a wrong one
  # the others as the run has them, where the space allows that
  usual = {
    key: known[key] if known[key] in choices else choices.ends()[0]
    for key, choices in search.space.items()
  }
  with tempfile.TemporaryDirectory() as folder:
    build, cfg = make_builder(pathlib.Path(folder)), load(usual)
    build(cfg)
    check_ends(load, build, usual)
  return cfg


def make_builder(folder: pathlib.Path):
  """Returns a function that builds what a run builds before its first batch, without weights, and
  raises the UserError or ValueError that the run would raise. Tokenizers are saved in `folder`."""

  @functools.cache
  def build_task(section):
    # tasks with the same data share a tokenizer, which is trained once
    origin = [section[key] for key in ("tokenizer", "data", "parts") if key in section]
    shared = folder / str(abs(hash(tuple(origin))))
    shared.mkdir(exist_ok=True)
    return pretrained.build_task(section, shared)

  def build(cfg):
    if cfg.batch_size < 1:
      raise UserError(f"batch_size is {cfg.batch_size}; it must be at least 1")
    rate = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)[1]
    if not math.isfinite(float(rate(0))):
      raise UserError(f"schedule: the learning rate of step 0 is {float(rate(0))}")
    task = build_task(FrozenConfigDict(cfg.task))  # hashable
    if cfg.evaluate.decode_every:
      require_score(task)
    # the run's devices are unknown here; what one device cannot share, several cannot
    sharding.check(cfg, task, types.SimpleNamespace(shape=dict(data=1, fsdp=1, tensor=1)))
    nnx.eval_shape(lambda: build_model(cfg.model, task, seed=0, platform="cpu"))

  return build
