"""experiments/README.md: its commands parse, its example runs, its table is complete."""

import argparse
import importlib
import pathlib
import re
import shlex

import pytest

from experiments import run
from experiments.tools import runs

FOLDER = pathlib.Path(run.__file__).parent
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?:^|`)python -m ([^`\n]*)", TEXT, re.MULTILINE)


class ParsedError(Exception):
  """Stops a command where its arguments are parsed."""


def test_it_is_short_and_has_a_command_of_each_kind():
  prose = [line for line in TEXT.splitlines() if not line.startswith("| [")]  # a row an experiment
  assert len(prose) <= 106
  modules = {command.split()[0] for command in COMMANDS}
  assert {f"experiments.{name}" for name in ("run", "search", "compare", "benchmark")} < modules
  assert "experiments.analysis.attention" in modules


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_parse(command, monkeypatch, tmp_path, capsys):
  module, *words = shlex.split(command, comments=True)
  for word in words:
    assert not word.startswith("experiments/") or (FOLDER.parent / word).parent.is_dir()
    assert not word.endswith(".py") or (FOLDER.parent / word).is_file()
  package = (FOLDER.parent / module.replace(".", "/")).is_dir()
  main = importlib.import_module(f"{module}.__main__" if package else module).main
  if "--dry_run" in words:
    monkeypatch.chdir(FOLDER.parent)
    assert main([*words, "--root", str(tmp_path)]) == 0
    assert "python -m train.main" in capsys.readouterr().out
    return
  parse = argparse.ArgumentParser.parse_known_args

  def stop(*given, **named):
    _, unknown = parse(*given, **named)
    assert not unknown
    raise ParsedError

  monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
  with pytest.raises(ParsedError):
    main(words)


def test_its_example_is_an_experiment(tmp_path):
  (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
  (tmp_path / "heads.py").write_text(code, encoding="utf-8")
  experiment = runs.load(str(tmp_path / "heads.py"))
  assert len(experiment.runs) == 12
  assert experiment.runs[0].name == "h4-lr0.001-seed0"
  (order,) = experiment.expected
  assert re.fullmatch(order.more, "h8-lr0.003-seed2")


def test_its_table_lists_every_experiment():
  files = {file.name for file in FOLDER.glob("*.py") if "def runs(" in file.read_text()}
  assert set(re.findall(r"^\| \[(\w+\.py)\]", TEXT, re.MULTILINE)) == files
