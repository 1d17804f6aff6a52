"""Turns steps that a config gives as shares of a run, and a run's epochs, into numbers of steps."""

import math
from collections.abc import Sequence

from absl import logging
from ml_collections import ConfigDict

from train import tasks
from train.common.errors import UserError
from train.data import packing
from train.data.items import is_streamed, order
from train.record import config, workdir

# Settings of which a number above 0 and below 1 is a share of `steps`.
SHARES = ("schedule.warmup_steps", "schedule.decay_steps", "log_every", "checkpoint.every")
SHARES += ("evaluate.every", "evaluate.decode_every")
SCHEDULE = ("schedule.warmup_steps", "schedule.decay_steps")


def is_share(key: str, value) -> bool:
  """Returns whether the value of a setting is a share of a run's steps."""
  return key in SHARES and isinstance(value, float) and 0 < value < 1


def settle(cfg: ConfigDict, steps: int) -> ConfigDict:
  """Returns a locked config of so many steps without shares: each is rounded down, to 1 or more."""
  values = config.flat(cfg)
  numbers = {
    key: max(math.floor(round(values[key] * steps, 6)), 1)
    for key in SHARES
    if is_share(key, values.get(key))
  }
  return changed(cfg, numbers | dict(steps=steps))


def changed(cfg: ConfigDict, values: dict) -> ConfigDict:
  """Returns a locked copy of the config with values by dotted key, of any type."""
  plain = cfg.to_dict()
  for key, value in values.items():
    section, _, last = key.rpartition(".")
    (plain[section] if section else plain)[last] = value
  return config.frozen(plain)


def fit(cfg: ConfigDict, planned: int, overrides: Sequence[str]) -> ConfigDict:
  """Returns the config with a shorter warm-up and decay where these are longer than its `steps`.

  `planned` steps were what the config was written for: the same share of the steps is kept. A
  number in `overrides` stays as it is.
  """
  given = {item.partition("=")[0] for item in overrides}
  warmup, decay = (cfg.schedule[key.rpartition(".")[2]] or 0 for key in SCHEDULE)
  if not 0 < cfg.steps < planned or cfg.steps >= warmup + decay:
    return cfg
  shorter = {key: value for key, value in zip(SCHEDULE, (warmup, decay)) if value}
  shorter = {
    key: value * cfg.steps // planned for key, value in shorter.items() if key not in given
  }
  for key, value in shorter.items():
    logging.info("%s is %d, the same share of steps=%d as planned", key, value, cfg.steps)
  return changed(cfg, shorter)


def count_with_epochs(cfg: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """Returns the config with either `steps` or `epochs`: steps=0 until the data of the epochs are
  read. Raises UserError where `overrides` give both."""
  given = {item.partition("=")[0] for item in overrides} & {"steps", "epochs"}
  if len(given) == 2:
    raise UserError("--config.epochs and --config.steps both say how long a run is: give one")
  if "steps" in given and cfg.epochs:
    return changed(cfg, dict(epochs=0.0))
  return changed(cfg, dict(steps=0)) if cfg.epochs else cfg


def resume(cfg: ConfigDict, path) -> ConfigDict:
  """Returns the config with the steps that the run in the folder `path` found for its epochs."""
  if not cfg.epochs or cfg.steps or not path or not (path / "config.json").exists():
    return cfg
  before = workdir.load_config(path)
  same = before.get("epochs") == cfg.epochs and before.get("steps")
  return settle(cfg, before.steps) if same else cfg


def steps_of_epochs(epochs: float, task, layout, seed: int) -> int:
  """Returns the steps of so many passes over the training data: `epochs` times the batches in which
  the packed stream has passed each item once."""
  items = task.items("train")
  if is_streamed(items):
    raise UserError(
      f"epochs={epochs:g}: how many steps streamed data are is not known before they are read: set"
      " steps, or task.data.stream=False to list the data first"
    )
  lengths = items.lengths()
  index_at = order(items, len(lengths), seed)
  state, count = packing.START, 0
  while state["position"] < len(lengths):
    _, state = packing.plan(lambda i: lengths[index_at(i)].tolist(), state, **layout.row_limits)
    count += 1
  return math.ceil(round(epochs * count, 6))


def find_steps(cfg: ConfigDict, task, run: workdir.Workdir) -> ConfigDict:
  """Returns the config with the steps of its epochs, if it has epochs, which config.json and
  run.json record then."""
  if not cfg.epochs:
    return cfg
  steps = steps_of_epochs(cfg.epochs, task, tasks.layout(task, cfg.batch_size), cfg.seed)
  if run.last_step > steps:
    raise UserError(
      f"{run.path}: epochs={cfg.epochs:g} is {steps} steps, and {run.last_step} are done"
    )
  logging.info("epochs=%g is %d steps", cfg.epochs, steps)
  whole = settle(cfg, steps)
  run.record_config(whole)
  return whole
