"""From `--config configs/scan.py:split=length --config.model.dim=64` to one locked ConfigDict."""

import ast
import difflib
import importlib.machinery
import importlib.util
import inspect
import pathlib
import traceback
from collections.abc import Sequence

from ml_collections import ConfigDict

from train.common.errors import UserError, nearest

BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
USAGE = "--config configs/NAME.py[:arg=value,...] [--config.key=value ...]"


def parse(argv: Sequence[str]) -> tuple[ConfigDict, list[str]]:
  """The config that `argv` (without the program's name) asks for, and the arguments left over.

  Raises UserError where `--config` is missing or given twice, or as `load` does.
  """
  texts, overrides, rest = [], [], []
  words = iter(enumerate(argv))
  for at, word in words:
    name, equals, value = word.partition("=")
    ours = name == "--config" or name.startswith("--config.")
    if not ours:
      rest.append(word)
      continue
    # `--config.key value`: the next word is the value, unless it is a flag; a bare key says true
    if not equals and at + 1 < len(argv) and not argv[at + 1].startswith("--"):
      equals, value = "=", next(words)[1]
    if name == "--config":
      texts.append(value)
    else:
      overrides.append(name.removeprefix("--config.") + equals + value)
  if len(texts) != 1 or not texts[0]:
    problem = "is given twice" if len(texts) > 1 else "is missing"
    raise UserError(f"--config {problem}. Usage: {USAGE}")
  return load(texts[0], overrides), rest


def load(text: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """The locked config of `text` ("FILE.py:arg=value,...") after `overrides` ("a.b=value").

  Lists are tuples in it, so that it equals itself read back from JSON (`frozen`).
  Raises UserError for an unknown file, argument or key, and for a value of the wrong type.
  """
  name, _, arg = text.partition(":")
  path = pathlib.Path(name)
  config = _call(_module(path), path, arg)
  return override(config, overrides)


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """A locked copy of `config` with each of `overrides` ("a.b=value") put in; the last one wins.

  Raises UserError for an unknown key and for a value of the wrong type.
  """
  config = ConfigDict(config).unlock()  # keeps references between fields: they follow an override
  for item in overrides:
    key, equals, text = item.partition("=")
    *sections, last = key.split(".")
    section = config
    for part in sections:
      section = section[part] if isinstance(section, ConfigDict) and part in section else None
    if not isinstance(section, ConfigDict) or last not in section:
      raise UserError(_unknown_key(key, config))
    if isinstance(section[last], ConfigDict):
      inside = ", ".join(f"{key}.{name}" for name in sorted(section[last]))
      raise UserError(f"--config.{key}: a section, not a value; set one of {inside}")
    if not equals and not isinstance(section[last], bool):
      raise UserError(f"--config.{key}: no value given; write --config.{key}=VALUE")
    section[last] = _typed(key, text if equals else "true", section[last], section.get_type(last))
  return frozen(config)


def frozen(config: ConfigDict | dict) -> ConfigDict:
  """A locked copy with references resolved and every list a tuple (JSON has one sequence)."""
  plain = config.to_dict() if isinstance(config, ConfigDict) else config
  return ConfigDict({key: _frozen(value) for key, value in plain.items()}).lock()


def flat(config: ConfigDict, prefix: str = "") -> dict[str, object]:
  """Dotted key -> value for every value that is not a section."""
  found = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      found.update(flat(value, f"{prefix}{key}."))
    else:
      found[prefix + key] = value
  return found


def _frozen(value):
  if isinstance(value, (list, tuple)):
    return tuple(_frozen(part) for part in value)
  if isinstance(value, dict):
    return {key: _frozen(part) for key, part in value.items()}
  return value


class _Unread(importlib.machinery.SourceFileLoader):
  """Compiles a file as it is now: bytecode kept of it may be of a version as long, and as old to
  the second."""

  def path_stats(self, path):
    raise OSError(f"{path}: no bytecode is kept")


def unread_module(name: str, path: pathlib.Path):
  """A Python file of the user's as (its spec, a module), to be run by spec.loader.exec_module."""
  spec = importlib.util.spec_from_file_location(name, path, loader=_Unread(name, str(path)))
  return spec, importlib.util.module_from_spec(spec)


def _module(path):
  """The config file as a module; a mistake inside it is told with its line."""
  if path.suffix != ".py" or not path.is_file():
    raise UserError(_unknown_file(path))
  spec, module = unread_module(f"config_file_{path.stem}", path)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise UserError(inside(path, error)) from error
  if not callable(getattr(module, "get_config", None)):
    raise UserError(f"{path}: a config file defines get_config(arg), this one does not")
  return module


def _call(module, path, arg):
  takes = inspect.signature(module.get_config).parameters
  if arg and not takes:
    raise UserError(f"{path}: takes no arguments, {arg!r} was given after the colon")
  try:
    config = module.get_config(arg) if takes else module.get_config()
  except ValueError as error:
    raise UserError(f"{path}:{arg}: {error}") from error
  except Exception as error:
    raise UserError(inside(path, error)) from error
  if not isinstance(config, ConfigDict):
    raise UserError(f"{path}: get_config gives a {type(config).__name__}, not a ConfigDict")
  return config


def inside(path: pathlib.Path, error: Exception) -> str:
  """Where in the file, and what; for a message."""
  if isinstance(error, SyntaxError):
    return f"{error.filename} line {error.lineno}: {error.msg}"
  frames = traceback.extract_tb(error.__traceback__)
  own = [frame.lineno for frame in frames if _same(frame.filename, path)]
  return f"{path} line {own[-1] if own else '?'}: {type(error).__name__}: {error}"


def _same(name, path):
  return pathlib.Path(name).resolve() == path.resolve()


def _unknown_file(path):
  folder = path.parent if path.parent.is_dir() else pathlib.Path("configs")
  known = {
    found.stem: found
    for found in sorted(folder.glob("*.py"))
    if "def get_config" in found.read_text(encoding="utf-8", errors="replace")
  }
  there = ", ".join(found.name for found in known.values()) or "none"
  near = nearest(path.stem, known)
  hint = f"; did you mean {known[near]}?" if near else ""
  return f"{path}: no such config file; {folder} has: {there}{hint}"


def _unknown_key(key, config):
  values = flat(config)
  known, name = sorted(values), f"{key.rpartition('.')[0]}.name"

  def likeness(other):
    whole = difflib.SequenceMatcher(None, key, other).ratio()
    last = difflib.SequenceMatcher(None, key.split(".")[-1], other.split(".")[-1]).ratio()
    return max(whole, last), whole

  nearest = max(known, key=likeness, default=None)
  hint = f"; did you mean {nearest}?" if nearest and max(likeness(nearest)) >= 0.6 else ""
  kind = f" ({name} is {values[name]!r})" if name in values else ""
  return f"--config.{key}: the config has no such key{kind}{hint}"


def _typed(key, text, value, kind):
  """`text` as a value of `kind`, the type of the field that holds `value` now."""
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
    raise UserError(f"--config.{key}: expects {_named(kind, value)}, got {text!r}") from None
  if kind is not type(None):
    raise UserError(f"--config.{key}: a {kind.__name__} can't be set from the command line")
  return _literal(text)


def _sequence(text, value):
  """A tuple from "(1, 2)", "[1, 2]", "1,2" or "a,b"; ValueError for parts of another type."""
  parts = _literal(text)
  if isinstance(parts, str):
    parts = tuple(part.strip() for part in text.strip("()[]").split(",")) if text else ()
    parts = parts if {type(part) for part in value or ()} == {str} else tuple(map(_literal, parts))
  elif not isinstance(parts, (tuple, list)):
    parts = (parts,)
  kinds = {type(part) for part in value or ()}
  if len(kinds) != 1:
    return tuple(parts)
  kind = kinds.pop()
  if kind is float and {type(part) for part in parts} <= {int, float}:
    return tuple(map(float, parts))
  if kind is str:
    return tuple(map(str, parts))
  if {type(part) for part in parts} - {kind}:
    raise ValueError(text)
  return tuple(parts)


def _literal(text):
  """Python's reading of a literal (true, false, none in any case); other text as it is."""
  words = {"true": True, "false": False, "none": None, "null": None}
  if text.lower() in words:
    return words[text.lower()]
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text


def _named(kind, value):
  inner = {type(part).__name__ for part in value} if kind in (tuple, list) and value else set()
  return f"{kind.__name__} of {inner.pop()}" if len(inner) == 1 else kind.__name__
