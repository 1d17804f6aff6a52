"""Fills in the defaults that a config file leaves out, and checks the result."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from train import optimizer, pretrained, tasks
from train.build import MODELS, check_names
from train.common.errors import UserError, choose
from train.record import config, older, workdir

# The defaults of the run itself.
RUN = dict(
  seed=0,
  parallelism="jit",  # or "pmap": data parallelism by hand
  microbatches=1,
  workers=0,  # processes that make batches; 0: a thread
  ema=0.0,  # decay of the weights' moving average, which is then evaluated and exported; 0: none
  spike=3.0,  # counts a loss above this multiple of the median of the last 100; 0: none
  skip_spikes=False,  # skips the update of such a loss
  max_skipped=10,  # skipped updates in a row, after which the run stops; 0: never
  watchdog_seconds=600.0,  # without the end of a step, after which stacks are logged; 0: never
  patience=0,  # evaluations without a better checkpoint.best_metric, after which it stops; 0: never
  tensorboard=True,
  # -1: the devices that are left. sequence: splits the residual stream along a row's tokens over
  # the axis tensor (sequence parallelism).
  mesh=dict(data=-1, fsdp=1, tensor=1, sequence=False),
  evaluate=dict(split="validation", decode_every=0, decode_examples=0),
  checkpoint=dict(keep_latest=1, keep_best=1, best_metric="loss", best_mode="min"),
  init_from=dict(workdir="", which="latest", skip=()),
)
# Keys without a default.
REQUIRED = ("steps", "batch_size", "log_every", "evaluate.every", "checkpoint.every")
# A record that cannot be read is an "error", or "skip" leaves it out and counts it.
DATA = dict(on_bad_record="error")
# Sections whose other keys are checked where they are used: by the data's source and the tokenizer.
OPEN = ("data", "tokenizer")


def load(text: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Returns the locked config of `text` ("FILE.py:arg=value,...") after `overrides` ("a.b=value").

  The file is completed first, so an override can set every key of the config. Lists become tuples,
  so the config equals itself read back from JSON. Raises UserError for an unknown file, argument or
  key, for a value of the wrong type and for a missing key, and Help for the argument `help`.
  """
  written = config.read(text)
  try:
    cfg = config.override(complete(written), overrides)
    check(cfg)
  except UserError as error:
    at = "" if str(error).startswith("--config.") else f"{text}: "
    raise UserError(f"{at}{error}") from error
  return cfg


def complete(written: ConfigDict) -> ConfigDict:
  """Returns a config with the keys that `written` leaves out, and the model it inherits."""
  cfg = _replaced(ConfigDict(written).unlock(), older.upgrade)
  _fill(cfg, dict(task={}, model={}))
  if "name" not in cfg.task:
    raise UserError(f"task.name is missing; known: {', '.join(tasks.NAMES)}")
  _fill(cfg, dict(task=_task_defaults(cfg.task)))
  cfg = _replaced(cfg, pretrained.resolve)
  _fill(cfg, defaults(cfg))
  values = config.flat(cfg)
  if missing := [key for key in REQUIRED if key not in values]:
    check(cfg)  # it may be there with a typing mistake
    raise UserError(f"{missing[0]} is missing: it has no default")
  return cfg


def load_again(path: str | os.PathLike) -> ConfigDict:
  """Returns the config of the run in `path`, to be run again.

  Raises UserError where `path` holds no run, and where its config.json was changed so that a key is
  unknown, missing or of the wrong type.
  """
  cfg = workdir.again(path)
  try:
    for section in ("task", "model"):
      if section not in cfg:
        raise UserError(f"the section {section} is missing")
    check(cfg)
    known = {*config.flat(defaults(cfg)), *REQUIRED}
    later = older.defaults(known)
    for key in sorted(known - config.flat(cfg).keys() - later.keys()):
      if not any(section in OPEN for section in key.split(".")):
        raise UserError(f"{key} is missing")
  except UserError as error:
    raise UserError(f"{path}/config.json: {error}; restore the file") from error
  return cfg


def defaults(cfg: Mapping) -> dict:
  """Returns the defaults of all sections, for the task and the model that `cfg` names."""
  name = cfg["model"].get("name", "transformer")  # older runs and Hugging Face's models have none
  settings, _ = choose(MODELS, name, "model.name")
  model = {field.name: field.default for field in dataclasses.fields(settings)}
  return RUN | dict(
    task=_task_defaults(cfg["task"]),
    model=dict(name=name) | model | dict(vocab_size=None),  # None: the tokenizer's
    optimizer=optimizer.OPTIMIZER,
    schedule=optimizer.SCHEDULE,
  )


def check(cfg: ConfigDict) -> None:
  """Raises UserError for an unknown key, naming the nearest, or for a value of the wrong type."""
  model = cfg.model.to_dict()
  check_names(model.pop("name"), model)
  values, known = config.flat(cfg), config.flat(defaults(cfg))
  for key, value in values.items():
    if key in known:
      if not _fits(value, known[key]):
        kind = type(known[key]).__name__
        raise UserError(f"{key} is {value!r}: expects {kind}, as its default {known[key]!r}")
    elif not _is_known(key):
      names = {name: values.get(name) for name in (*known, *REQUIRED)}
      raise UserError(f"{key}: {config.unknown_key(key, names)}")


def _task_defaults(task: Mapping) -> dict:
  """Returns the defaults of a task's section, and of those of the parts of a mixture."""
  if task["name"] != "mixture":
    return tasks.defaults(task["name"]) | dict(data=DATA)
  shared = {field.name: field.default for field in dataclasses.fields(tasks.Mixture)}
  usual = {key: value for key, value in shared.items() if value is not dataclasses.MISSING}
  if not isinstance(task.get("parts"), (Mapping, ConfigDict)):
    raise UserError("task.parts is missing: a mixture's tasks by name, each with its share")
  parts = {
    name: {key: value for key, value in _task_defaults(part).items() if key not in shared}
    for name, part in task["parts"].items()
  }
  return dict(name="mixture") | usual | dict(parts=parts)


def _is_known(key: str) -> bool:
  """Returns whether a key without a default may be in a config."""
  *sections, last = key.split(".")
  if sections == ["optimizer"]:
    return any(last in names for names in optimizer.accepted(optimizer.OPTIMIZERS).values())
  mixture = key == "task.main" or (sections[:2] == ["task", "parts"] and last == "share")
  return key in REQUIRED or mixture or any(section in OPEN for section in sections)


def _fill(section: ConfigDict, usual: Mapping, prefix: str = "") -> None:
  """Adds the keys that `section` lacks. A tokenizer with a name is complete."""
  for key, default in usual.items():
    if key not in section:
      section[key] = default
    elif isinstance(default, Mapping):
      if not isinstance(section[key], ConfigDict):
        raise UserError(f"{prefix}{key} is {section[key]!r}: expects a section, {key}=dict(...)")
      if key != "tokenizer" or "name" not in section[key]:
        _fill(section[key], default, f"{prefix}{key}.")


def _replaced(cfg: ConfigDict, change) -> ConfigDict:
  """Returns `cfg` after a change of its plain dict; as it is, with its references, if unchanged."""
  plain = cfg.to_dict()
  changed = change(plain)
  return cfg if changed == plain else ConfigDict(changed)


def _fits(value, default) -> bool:
  """Returns whether a value has the type of its default: any for None; float takes an int."""
  if default is None or type(value) is type(default):
    return True
  return type(default) is float and type(value) is int
