"""Joins a config file, the defaults and `--config.KEY=VALUE` to one checked config."""

import inspect
import os
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from train import inheriting, schema, shares, tasks
from train.common import buckets
from train.common.errors import UserError
from train.data import samples
from train.data.sources import SOURCES
from train.record import config, older, workdir

TOKENIZER = ("vocab_size", "special", "sentinels", "path", *samples.KEYS)  # keys of some tokenizers
WORKDIR = "init_from.workdir="
LAYERS = ("init_from.encoder_layers", "init_from.decoder_layers")
NO_LAYERS = ("", "()", "[]")
NO_START = "has no effect: there is no model to start from (init=)"


def load(text: str, overrides: Sequence[str] = (), check=schema.check) -> ConfigDict:
  """Returns the locked config of `text` ("FILE.py:arg=value,...") after `overrides` ("a.b=value")
  and the `check` of the whole.

  The file is completed first, so an override can set every key of the config. Lists become tuples,
  so the config equals itself read back from JSON. Raises UserError for an unknown file, argument or
  key, for a value of the wrong type and for a missing key, and Help for the argument `help`.
  """
  buckets.register(text)  # as a config file may look for files in one
  written = config.read(text)
  try:
    written, overrides = _with_layers(written, overrides)
    cfg = _override(complete(written), overrides)
    check(cfg)
  except UserError as error:
    at = "" if str(error).startswith("--config.") else f"{text}: "
    raise UserError(f"{at}{error}") from error
  return cfg


def complete(written: ConfigDict) -> ConfigDict:
  """Returns a config with the keys that `written` leaves out, and the model it inherits."""
  cfg = _replaced(ConfigDict(written).unlock(), older.upgrade)
  schema.fill(cfg, dict(task={}, model={}))
  if "name" not in cfg.task:
    raise UserError(f"task.name is missing; known: {', '.join(tasks.NAMES)}")
  schema.fill(cfg, dict(task=schema.task_defaults(cfg.task)))
  cfg = _replaced(cfg, inheriting.resolve)
  schema.fill(cfg, schema.defaults(cfg))
  values = config.flat(cfg)
  if written.get("epochs"):
    if "steps" in written:
      raise UserError("epochs and steps both say how long a run is: leave one out")
    values["steps"] = cfg.steps = 0  # until the data are read
  if missing := [key for key in schema.REQUIRED if key not in values]:
    schema.check_keys(cfg)  # it may be there with a typing mistake
    raise UserError(f"{missing[0]} is missing: it has no default")
  return cfg


def load_again(path: str | os.PathLike, overrides: Sequence[str] = ()) -> ConfigDict:
  """Returns the config of the run in `path` after `overrides`, to be run again or to go on with.

  The log names what differs now. Raises UserError as `schema.load_run` does, and for an override
  that cannot be.
  """
  schema.load_run(path)
  cfg = schema.complete(workdir.again(path))
  before = config.flat(cfg)
  cfg = _override(cfg, overrides)
  after = config.flat(cfg)
  wrong = [key for key in LAYERS if after[key] != before[key]]
  if wrong and not cfg.init_from.workdir:
    raise UserError(f"--config.{wrong[0]} {NO_START}")
  if wrong:
    raise UserError(
      f"--config.{wrong[0]}: settings of the model depend on the layers that it has from another:"
      f" start anew from the config file of {path}"
    )
  schema.check(cfg)
  return cfg


def _with_layers(written: ConfigDict, overrides: Sequence[str]) -> tuple[ConfigDict, list[str]]:
  """Returns the config as if its file had named the layers to start from that `overrides` name, as
  settings of an inherited model depend on them, and the other overrides."""
  early = [text for text in overrides if text.partition("=")[0] in LAYERS]
  if not early or "inherit" not in written.get("model", {}):
    start = [written.get("init_from", {}).get("workdir")]
    start += [text.removeprefix(WORKDIR) for text in overrides if text.startswith(WORKDIR)]
    named = [text for text in early if text.partition("=")[2] not in NO_LAYERS]
    if named and not start[-1]:
      raise UserError(f"--config.{named[0]} {NO_START}")
    return written, list(overrides)
  written = ConfigDict(written).unlock()
  usual = {key.partition(".")[2]: () for key in LAYERS}
  start = usual | {key: written.init_from[key] for key in usual if key in written.init_from}
  named = config.override(ConfigDict(dict(init_from=start)), early)
  written.init_from.update(named.init_from.to_dict())
  return written, [text for text in overrides if text not in early]


def _override(whole: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """Returns the config after `overrides`, with numbers of steps for shares of steps."""
  whole, planned = ConfigDict(whole).unlock(), whole.steps
  overrides = [older.override(text) for text in overrides]
  for item in overrides:
    key = item.partition("=")[0]
    section, _, last = key.rpartition(".")
    if key in shares.SHARES and "=" in item:  # an int may become a share, and a share an int
      (whole[section] if section else whole)[last] = None
  cfg = shares.count_with_epochs(config.override(whole, overrides, _accepts), overrides)
  return shares.fit(shares.settle(cfg, cfg.steps), planned, overrides) if cfg.steps else cfg


def _accepts(key: str, section: Mapping) -> bool:
  """Returns whether a tokenizer, or the data's source, takes a key that its section lacks."""
  *_, kind, last = f"..{key}".split(".")
  source = SOURCES.get(section.get("name")) if kind == "data" else None
  taken = inspect.signature(source).parameters if source else ()
  return last in (TOKENIZER if kind == "tokenizer" else taken)


def _replaced(cfg: ConfigDict, change) -> ConfigDict:
  """Returns `cfg` after a change of its plain dict; as it is, with its references, if unchanged."""
  plain = cfg.to_dict()
  changed = change(plain)
  return cfg if changed == plain else ConfigDict(changed)
