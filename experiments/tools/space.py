"""What a search may try: ranges of settings and choices among them, and whether all of it can run.

The key of a range is what `--config.KEY=VALUE` would set.
"""

import dataclasses
import json
import math
import pathlib
import tempfile
import types
from collections.abc import Mapping

import jax
from flax import nnx
from ml_collections import ConfigDict

from experiments.tools import runs
from experiments.tools.runs import Run
from train import optimizer, pretrained, resolve, sharding
from train.build import build_model
from train.common.errors import UserError, choose
from train.record import config
from train.record.workdir import CHANGEABLE
from train.tasks.protocol import require_score

MODES = {"min": "minimize", "max": "maximize"}
PRUNERS = ("median", "hyperband", "none")


@dataclasses.dataclass(frozen=True)
class Float:
  """Numbers from `low` to `high`, both among them. log: each power of ten is as likely."""

  low: float
  high: float
  log: bool = False

  def ends(self) -> tuple:
    return (float(self.low), float(self.high))

  def has(self, value) -> bool:
    return _is_number(value) and self.low <= value <= self.high

  def problem(self) -> str | None:
    """Why this is no range; None where it is one."""
    if not all(_is_number(end) for end in (self.low, self.high)):
      return f"{self}: low and high are finite numbers"
    if self.low > self.high:
      return f"{self}: low is more than high"
    if self.log and self.low <= 0:
      return f"{self}: with log=True low is above 0"
    return None

  def suggest(self, trial, key: str) -> float:
    """A value from Optuna."""
    return trial.suggest_float(key, float(self.low), float(self.high), log=self.log)


@dataclasses.dataclass(frozen=True)
class Int(Float):
  """Whole numbers from `low` to `high`, both among them."""

  low: int
  high: int

  def ends(self) -> tuple:
    return (self.low, self.high)

  def problem(self) -> str | None:
    if not all(type(end) is int for end in (self.low, self.high)):
      return f"{self}: low and high are whole numbers"
    return super().problem()

  def suggest(self, trial, key: str) -> int:
    return trial.suggest_int(key, self.low, self.high, log=self.log)


@dataclasses.dataclass(frozen=True, init=False)
class Choice:
  """One of several values, in no order."""

  values: tuple

  def __init__(self, *values):
    object.__setattr__(self, "values", values)

  def ends(self) -> tuple:
    """All of them; a sequence as `--config.KEY=` takes it, since Optuna stores plain values."""
    plain = (bool, int, float, str, types.NoneType)
    return tuple(value if isinstance(value, plain) else str(value) for value in self.values)

  def has(self, value) -> bool:
    return value in self.values

  def problem(self) -> str | None:
    texts = [str(value) for value in self.ends()]
    if not texts:
      return "Choice() has nothing to choose from"
    if twice := [text for text in texts if texts.count(text) > 1]:
      return f"Choice has {twice[0]} twice"
    return None

  def suggest(self, trial, key: str):
    return trial.suggest_categorical(key, self.ends())


@dataclasses.dataclass(frozen=True)
class Search:
  """What to look for: the setting of `run` with the best `metric` of its evaluation split. The
  value of a trial is that of its best evaluation, or with run.checkpoint "latest" of its last."""

  run: Run
  space: Mapping[str, Float | Int | Choice]  # by key of the config
  metric: str  # of metrics.jsonl's lines of the evaluation split
  mode: str = "max"  # or min
  trials: int = 20  # finished or pruned
  random: int = 10  # trials at random before TPE has something to go by
  pruner: str = "median"  # PRUNERS
  warmup_steps: int = 0  # before which no trial is pruned
  seed: int = 0

  def described(self) -> dict[str, str]:
    """What must be the same for two searches to be one; the rest may change between starts."""
    told = dict(config=self.run.config, metric=self.metric, mode=self.mode)
    told["checkpoint"] = self.run.checkpoint
    changes = self.run.changes.items()
    told |= {f"changes[{key}]": one for key, one in changes if not _is_free(key)}
    told |= {f"space[{key}]": one for key, one in self.space.items()}
    return {key: str(value) for key, value in told.items()}


def with_values(search: Search, params: Mapping, name: str = "search") -> Run:
  """The run with a trial's values, which win over its changes."""
  changes = {**search.run.changes, **params}
  return dataclasses.replace(search.run, name=name, changes=changes)


def overrides(search: Search, params: Mapping) -> list[str]:
  """KEY=VALUE of that run."""
  return runs.overrides(with_values(search, params))


def check(search: Search, text: str) -> ConfigDict:
  """The config of the run; UserError where the run, a key, or an end of a range cannot be run:
  which key, which value and why. All is built that a run builds before its first batch."""
  choose(MODES, search.mode, "SEARCH: mode")
  choose(dict.fromkeys(PRUNERS), search.pruner, "SEARCH: pruner")
  if not isinstance(search.run, Run):
    raise UserError(f"SEARCH: run is a {type(search.run).__name__}; known: runs.Run")
  if not search.space:
    raise UserError("SEARCH: the space is empty: which settings are to be tried?")
  for key, one in search.space.items():
    if not isinstance(one, (Float, Choice)):
      raise UserError(f"SEARCH: space[{key!r}] is {one!r}; known: Float, Int, Choice")
    if problem := one.problem():
      raise UserError(f"SEARCH: space[{key!r}]: {problem}")
  known = config.flat(resolve.load(text, overrides(search, {})))
  tries = [(key, value) for key, one in search.space.items() for value in one.ends()]
  for key, value in tries:  # by itself, before it stands beside another that is wrong
    try:
      resolve.load(text, overrides(search, {key: value}))
    except UserError as error:
      raise UserError(f"SEARCH: space[{key!r}] may be {value!r}, but {error}") from error
  # the others as the run has them, where that may be tried
  usual = {
    key: known[key] if one.has(known[key]) else one.ends()[0] for key, one in search.space.items()
  }
  with tempfile.TemporaryDirectory() as folder:
    builder = Builder(pathlib.Path(folder))
    cfg = resolve.load(text, overrides(search, usual))
    builder.build(cfg)
    for key, value in tries:
      try:
        builder.build(resolve.load(text, overrides(search, usual | {key: value})))
      except (UserError, ValueError) as error:
        others = ", ".join(f"{name}={other}" for name, other in usual.items() if name != key)
        beside = f" (with {others})" if others else ""
        told = f"SEARCH: space[{key!r}] may be {value!r}{beside}, but {error}"
        raise UserError(told) from error
  return cfg


class Builder:
  """Builds what a run would, without its weights and on no device; equal parts once."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.tasks, self.models = folder, {}, set()

  def build(self, cfg) -> None:
    """UserError or ValueError, as the run would have it."""
    if cfg.batch_size < 1:
      raise UserError(f"batch_size is {cfg.batch_size}; at least 1")
    rate = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)[1]
    if not math.isfinite(float(rate(0))):
      raise UserError(f"schedule: the learning rate of step 0 is {float(rate(0))}")
    task = self._task(cfg.task)
    if cfg.evaluate.decode_every:
      require_score(task)
    # its devices are not known here; what one device cannot share, several cannot
    sharding.check(cfg, task, types.SimpleNamespace(shape=dict(data=1, fsdp=1, tensor=1)))
    known = _json(cfg.model), _json(cfg.task)
    if known not in self.models:
      nnx.eval_shape(lambda: build_model(cfg.model, task, seed=0, platform="cpu"))
      self.models.add(known)

  def _task(self, cfg):
    if _json(cfg) not in self.tasks:
      # a tokenizer is trained once for all that share its data
      made_of = [_json(cfg[key]) for key in ("tokenizer", "data", "parts") if key in cfg]
      folder = self.folder / str(abs(hash(tuple(made_of))))
      folder.mkdir(exist_ok=True)
      self.tasks[_json(cfg)] = pretrained.build_task(cfg, folder)
    return self.tasks[_json(cfg)]


def _is_free(key: str) -> bool:
  """Whether the setting may change in the middle of a run."""
  return any(f"{key}.".startswith(f"{one}.") for one in CHANGEABLE)


def _is_number(value) -> bool:
  return type(value) in (int, float) and math.isfinite(value)


def _json(section) -> str:
  return json.dumps(section.to_dict(), sort_keys=True)


def without_accelerator() -> None:
  """Keeps this process off the accelerators, which its trials need whole."""
  jax.config.update("jax_platforms", "cpu")
