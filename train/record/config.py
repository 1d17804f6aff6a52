"""Reads config files, changes their values by command-line overrides, and locks the result."""

import argparse
import ast
import difflib
import importlib.machinery
import importlib.util
import inspect
import pathlib
import re
import traceback
from collections.abc import Callable, Iterable, Sequence

from ml_collections import ConfigDict

from train.common.errors import Help, UserError, did_you_mean, nearest
from train.record import rendering

BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
ALIKE = 0.65  # the least likeness of a key that a message names in place of an unknown one
# Names that other programs give settings; "" stands for an argument of config files, and no key.
MEANT = dict.fromkeys(("lr", "learning_rate", "max_lr", "peak_lr"), "schedule.peak")
MEANT |= dict.fromkeys(("warmup", "warmup_ratio", "warm_up"), "schedule.warmup_steps")
MEANT |= dict.fromkeys(("layers", "num_layers", "n_layers"), "model.encoder_layers")
MEANT |= dict(max_steps="steps", num_epochs="epochs", metric="checkpoint.best_metric")
MEANT |= dict.fromkeys(("init", "data", "columns", "dev", "test", "labels"), "")
USAGE = "--config configs/NAME.py[:ARG=VALUE,...] [--config.KEY=VALUE ...]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the config's arguments to the help of `parser`; `split` takes them out of argv first."""
  group = parser.add_argument_group("config")
  group.add_argument(
    "--config",
    metavar="FILE.py[:ARG=VALUE,...]",
    help="the config file and its arguments; FILE.py:help lists the arguments",
  )
  group.add_argument(
    "--config.KEY",
    metavar="VALUE",
    help="sets one value of the config, as in --config.model.dropout=0.2; may be repeated",
  )


def split(argv: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
  """Returns the values of `--config`, the overrides ("a.b=value"), and the other arguments."""
  texts, overrides, rest = [], [], []
  words = iter(enumerate(argv))
  for index, word in words:
    name, equals, value = word.partition("=")
    if name != "--config" and not name.startswith("--config."):
      rest.append(word)
      continue
    # `--config.key value`: the next word is the value unless it is a flag; a bare key means true
    if not equals and index + 1 < len(argv) and not argv[index + 1].startswith("--"):
      equals, value = "=", next(words)[1]
    if name == "--config":
      texts.append(value)
    else:
      overrides.append(name.removeprefix("--config.") + equals + value)
  return texts, overrides, rest


def only(texts: Sequence[str]) -> str:
  """Returns the value of `--config`; raises UserError where there is none, or are several."""
  if len(texts) > 1:
    raise UserError(
      f"--config is given twice, {' and '.join(texts)}: give one, and changes as --config.KEY=VALUE"
    )
  if not texts or not texts[0]:
    raise UserError(f"--config is missing. Usage: {USAGE}")
  return texts[0]


def read(text: str) -> ConfigDict:
  """Returns the config that `text` ("FILE.py:arg=value,...") describes, as its file wrote it.

  Raises UserError for an unknown file or argument, and Help for the argument `help`.
  """
  name, _, arg = text.partition(":")
  path = pathlib.Path(name)
  return _call(_module(path), path, arg)


def override(
  config: ConfigDict,
  overrides: Sequence[str],
  accepts: Callable[[str, ConfigDict], bool] = lambda key, section: False,
) -> ConfigDict:
  """Returns a locked copy of `config` with `overrides` ("a.b=value") applied; the last one wins.

  `accepts(dotted key, its section)` returns whether a key may be set that is not there. Raises
  UserError for an unknown key and for a value of the wrong type.
  """
  config = ConfigDict(config).unlock()  # keeps references between fields: they follow an override
  for item in overrides:
    key, equals, text = item.partition("=")
    *sections, last = key.split(".")
    section = config
    for part in sections:
      section = section[part] if isinstance(section, ConfigDict) and part in section else None
    is_section = isinstance(section, ConfigDict)
    if is_section and last not in section and accepts(key, section):
      section[last] = None
    if not is_section or last not in section:
      raise UserError(f"--config.{key}: {unknown_key(key, flat(config))}")
    if isinstance(section[last], ConfigDict):
      inside = ", ".join(f"{key}.{name}" for name in sorted(section[last]))
      raise UserError(f"--config.{key}: a section, not a value; set one of {inside}")
    if not equals and not isinstance(section[last], bool):
      raise UserError(f"--config.{key}: no value given; write --config.{key}=VALUE")
    section[last] = _value(key, text if equals else "true", section[last], section.get_type(last))
  return frozen(config)


def frozen(config: ConfigDict | dict) -> ConfigDict:
  """Returns a locked copy with references resolved and every list a tuple.

  JSON has one kind of sequence, so only such a copy equals itself read back from JSON.
  """
  return ConfigDict(_frozen(config.to_dict() if isinstance(config, ConfigDict) else config)).lock()


def flat(config: ConfigDict | dict, prefix: str = "") -> dict[str, object]:
  """Returns dotted key -> value for every value that is not a section."""
  values = {}
  for key, value in config.items():
    if isinstance(value, (ConfigDict, dict)):
      values.update(flat(value, f"{prefix}{key}."))
    else:
      values[prefix + key] = value
  return values


def unknown_key(key: str, values: dict[str, object]) -> str:
  """Returns the message that `key` is none of the dotted keys of `values`, with the nearest key."""
  kind = f"{key.rpartition('.')[0]}.name"
  named = f" ({kind} is {values[kind]!r})" if kind in values else ""
  near = _nearest_key(key, values)
  return f"the config has no such key{named}" + (f"; did you mean {near}?" if near else "")


def _nearest_key(key: str, known: Iterable[str]) -> str | None:
  """Returns the dotted key that `key` stands for, by MEANT or by its last part, or None. A key
  without a section may stand for a whole one: eval_every for evaluate.every."""
  last, known = key.rpartition(".")[2], list(known)
  if last in MEANT:
    return MEANT[last] if MEANT[last] in known else None

  def alike(name):
    whole = 0.0 if "." in key else _ratio(key, name.replace(".", "_"))
    return max(_ratio(last, name.rpartition(".")[2]), whole), _ratio(key, name)

  best = max(known, key=alike, default="")
  return best if best and alike(best)[0] >= ALIKE else None


def _ratio(a: str, b: str) -> float:
  return difflib.SequenceMatcher(None, a, b).ratio()


def _frozen(value):
  if isinstance(value, (list, tuple)):
    return tuple(_frozen(part) for part in value)
  if isinstance(value, dict):
    return {key: _frozen(part) for key, part in value.items()}
  return value


class _Uncached(importlib.machinery.SourceFileLoader):
  """Compiles a file as it is now. Cached bytecode is recognized by length and seconds only, so it
  could be that of another version."""

  def path_stats(self, path):
    raise OSError(f"{path}: bytecode is not cached")


def unread_module(name: str, path: pathlib.Path):
  """Returns (spec, module) of a user's Python file; spec.loader.exec_module(module) runs it."""
  spec = importlib.util.spec_from_file_location(name, path, loader=_Uncached(name, str(path)))
  return spec, importlib.util.module_from_spec(spec)


def _module(path):
  """Returns the config file as a module; raises UserError, with the line, for a mistake inside."""
  if path.suffix != ".py" or not path.is_file():
    raise UserError(_unknown_file(path))
  spec, module = unread_module(f"config_file_{path.stem}", path)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise UserError(inside(path, error)) from error
  if not callable(getattr(module, "get_config", None)):
    raise UserError(f"{path}: a config file must define get_config(arg)")
  return module


def _call(module, path, arg):
  """Returns what the file's get_config returns for `arg`.

  configs/ imports nothing of train/, so what its exceptions carry is recognized by attribute:
  `arguments` (help was requested), `word` and `known` (a word that is none of the known ones).
  """
  takes_arguments = bool(inspect.signature(module.get_config).parameters)
  if arg == "help" and not takes_arguments:
    raise Help(rendering.file_help(path, module.__doc__, ()))
  if arg and not takes_arguments:
    raise UserError(f"{path}: takes no arguments, {arg!r} was given after the colon")
  try:
    config = module.get_config(arg) if takes_arguments else module.get_config()
  except Exception as error:
    if hasattr(error, "arguments"):
      raise Help(rendering.file_help(path, module.__doc__, error.arguments)) from None
    if not isinstance(error, ValueError):
      raise UserError(inside(path, error)) from error
    hint = did_you_mean(error.word, error.known) if hasattr(error, "known") else ""
    raise UserError(f"{path}:{arg}: {error}{hint}") from error
  if arg == "help":
    raise Help(rendering.file_help(path, module.__doc__, ()))
  if not isinstance(config, ConfigDict):
    raise UserError(f"{path}: get_config returns a {type(config).__name__}, not a ConfigDict")
  return config


def inside(path: pathlib.Path, error: Exception) -> str:
  """Returns the place in the file and the error, for a message."""
  if isinstance(error, SyntaxError):
    return f"{error.filename} line {error.lineno}: {error.msg}"
  frames, here = traceback.extract_tb(error.__traceback__), path.resolve()
  lines = [frame.lineno for frame in frames if pathlib.Path(frame.filename).resolve() == here]
  return f"{path} line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}"


def _unknown_file(path):
  for folder in (path, path.parent, pathlib.Path("configs")):
    if known := _config_files(folder):
      break
  names = ", ".join(file.name for file in known.values()) or "none"
  near = nearest(path.stem, known)
  hint = f"; did you mean {known[near]}?" if near else ""
  return f"{path}: no such config file; {folder} has: {names}{hint}"


def _config_files(folder):
  return {
    file.stem: file
    for file in sorted(folder.glob("*.py"))
    if re.search(r"^def get_config\(", file.read_text("utf-8", "replace"), re.MULTILINE)
  }


def _value(key, text, value, kind):
  """Returns `text` as a value of `kind`, the type of the field that holds `value` now."""
  if value is None and text.lower() in ("none", "null"):
    return None
  try:
    if kind is bool:
      return BOOLS[text.lower()]
    if kind in (int, float, str):
      return kind(text)
    if kind in (tuple, list):
      return _sequence(text, value)
  except (KeyError, ValueError):
    inner = {type(part).__name__ for part in value} if kind in (tuple, list) and value else set()
    expected = f"{kind.__name__} of {inner.pop()}" if len(inner) == 1 else kind.__name__
    raise UserError(f"--config.{key}: expects {expected}, got {text!r}") from None
  if kind is not type(None):
    raise UserError(f"--config.{key}: a {kind.__name__} can't be set from the command line")
  return _literal(text)


def _sequence(text, value):
  """Returns a tuple from "(1, 2)", "[1, 2]", "1,2" or "a,b"; its parts have the type of `value`'s.

  Raises ValueError for parts of another type.
  """
  kinds, parts = {type(part) for part in value or ()}, _literal(text)
  if isinstance(parts, str):
    parts = tuple(part.strip() for part in text.strip("()[]").split(",")) if text else ()
    parts = parts if kinds == {str} else tuple(map(_literal, parts))
  parts = tuple(parts) if isinstance(parts, (tuple, list)) else (parts,)
  present = {type(part) for part in parts}
  if kinds == {str}:
    return tuple(map(str, parts))
  if kinds == {float} and present <= {int, float}:
    return tuple(map(float, parts))
  if len(kinds) == 1 and present - kinds:
    raise ValueError(text)
  return parts


def _literal(text):
  """Returns the Python literal in `text` (true, false, none in any case), or the text itself."""
  words = {"true": True, "false": False, "none": None, "null": None}
  if text.lower() in words:
    return words[text.lower()]
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text
