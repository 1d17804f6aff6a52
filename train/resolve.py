"""Joins a config file, the defaults and `--config.KEY=VALUE` to one checked config."""

import os
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from train import pretrained, schema, tasks
from train.common.errors import UserError
from train.record import config, older, workdir


def load(text: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Returns the locked config of `text` ("FILE.py:arg=value,...") after `overrides` ("a.b=value").

  The file is completed first, so an override can set every key of the config. Lists become tuples,
  so the config equals itself read back from JSON. Raises UserError for an unknown file, argument or
  key, for a value of the wrong type and for a missing key, and Help for the argument `help`.
  """
  written = config.read(text)
  try:
    cfg = config.override(complete(written), overrides)
    schema.check(cfg)
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
  _fill(cfg, dict(task=schema.task_defaults(cfg.task)))
  cfg = _replaced(cfg, pretrained.resolve)
  _fill(cfg, schema.defaults(cfg))
  values = config.flat(cfg)
  if missing := [key for key in schema.REQUIRED if key not in values]:
    schema.check_keys(cfg)  # it may be there with a typing mistake
    raise UserError(f"{missing[0]} is missing: it has no default")
  return cfg


def load_again(path: str | os.PathLike) -> ConfigDict:
  """Returns the config of the run in `path`, to be run again; the log names what differs now.

  Raises UserError as `schema.load_run` does.
  """
  schema.load_run(path)
  return workdir.again(path)


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
