"""train/README.md: its commands parse, and its tables are those of the code."""

import argparse
import importlib
import pathlib
import re
import shlex

import pytest

import train
from configs import __main__ as configs
from train import resolve, tasks
from train.interop.families.known import FAMILIES
from train.record import config

FOLDER = pathlib.Path(train.__file__).parent
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?:^|`|\| )python -m ([^`\n]*)", TEXT.replace("\\\n", " "), re.MULTILINE)


class ParsedError(Exception):
  """Stops a command where its arguments are parsed."""


def table(first: str) -> list[list[str]]:
  """Returns the cells of each row of the table whose first heading is `first`."""
  (rows,) = re.findall(rf"^\| {first} \|.*\n\|[-|]*\n((?:\|.*\n)*)", TEXT, re.MULTILINE)
  return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()]


def code(cell: str) -> list[str]:
  return re.findall(r"`([^`]*)`", cell)


def words_of(command: str) -> list[str]:
  """Returns a command's words without its comment and its redirections."""
  command = re.sub(r"\$\([^)]*\)", "HOST", command)
  command = re.sub(r"--process_(count|index)=\S+", r"--process_\1=0", command)
  words = shlex.split(command, comments=True)
  return words[: words.index(">")] if ">" in words else words


def test_each_command_of_this_folder_is_used():
  modules = {command.split()[0] for command in COMMANDS}
  assert {f"train.{name.removesuffix('.py')}" for name in rooms("commands")} <= modules


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_parse(command, monkeypatch):
  module, *words = words_of(command)
  room = pathlib.Path(FOLDER.parent, *module.split("."))
  main = importlib.import_module(f"{module}.__main__" if room.is_dir() else module).main
  parse = argparse.ArgumentParser.parse_known_args

  def stop(parser, *given, **named):
    flags = [word.partition("=")[0] for word in words if re.match(r"--\w+(=|$)", word)]
    assert set(flags) <= {*parser._option_string_actions, "--config"}  # not abbreviated
    _, unknown = parse(parser, *given, **named)
    assert not unknown
    raise ParsedError

  monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
  monkeypatch.setattr("sys.argv", [module, *words])
  with pytest.raises(ParsedError):
    main(words) if main.__code__.co_argcount else main()


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--config " in command])
def test_its_configs_have_these_arguments_and_keys(command):
  """A run that a config starts from is left out: there is none."""
  texts, overrides, _ = config.split(words_of(command)[1:])
  file, _, given = config.only(texts).partition(":")
  names = [word.partition("=")[0] for word in given.split(",") if word]
  module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
  known = [re.match(r"\w+", usage)[0] for usage, _ in configs.arguments(module)]
  assert set(names) <= set(known)
  rest = [word for word in given.split(",") if not word.startswith(("init=", "layers="))]
  resolve.load(f"{FOLDER.parent / file}:{','.join(rest)}", overrides)


def rooms(kind: str) -> list[str]:
  """Returns the files and folders of a part of the room map."""
  named, part = [], ""
  for first, cell, _ in table("part"):
    part = first or part
    named += code(cell) * (kind == part)
  return named


def test_its_map_names_every_file_and_folder_once():
  named = [name for kind in ("commands", "main path", "packages") for name in rooms(kind)]
  files = {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}
  folders = {f"{path.parent.name}/" for path in FOLDER.glob("*/__init__.py")}
  assert sorted(named) == sorted(files | folders)


def test_its_map_tells_commands_from_the_main_path():
  ends = {path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text("utf-8")}
  assert set(rooms("commands")) == ends


def test_its_keys_of_devices_and_memory_are_settings():
  overrides = [code(row[0])[0] for row in table("key")]
  assert all("=" in override for override in overrides)
  values = config.flat(resolve.load(str(FOLDER.parent / "configs/wmt14.py"), overrides))
  assert {override.partition("=")[0] for override in overrides} <= values.keys()


def test_its_model_types_are_the_families_with_their_heads():
  rows = {name: set(code(row[2])) for row in table("`model_type`") for name in code(row[0])}
  assert rows == {
    name: set(family.classes.values()) - {"body"} for name, family in FAMILIES.items()
  }
  bodies = {name for row in table("`model_type`") if "none" in row[2] for name in code(row[0])}
  assert bodies == {name for name, family in FAMILIES.items() if "body" in family.classes.values()}


def test_its_tasks_are_all_tasks():
  named = [name for row in table("`task.name`") for name in code(row[0])]
  assert sorted(named) == sorted([*tasks.TASKS, *tasks.STYLES, "mixture"])


def test_its_files_of_a_workdir_are_named_in_the_code():
  source = "".join(path.read_text("utf-8") for path in FOLDER.rglob("*.py"))
  (rows,) = re.findall(r"## The workdir\n\n((?:\|.*\n)*)", TEXT)
  files = [name for row in rows.splitlines() for name in code(row.split("|")[1])]
  assert len(files) > 10
  for name in files:
    assert re.search(rf"""["'/]{name.split("/")[0]}["'/]""", source), name


def test_its_imports_from_python_are_there():
  for module, name in re.findall(r"from (\S+) import (\w+)", TEXT):
    assert hasattr(importlib.import_module(module), name)
