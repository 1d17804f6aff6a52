"""Compares plans with the best figures that the same commands have had."""

import json
import pathlib

import pytest

from train import resolve
from train.planning import chips, estimate
from train.record import config

FIGURES = pathlib.Path(__file__).with_name("figures.json")
COMMANDS = json.loads(FIGURES.read_text())


def commands(kind: str) -> list[str]:
  """Returns the recorded commands of `train.plan` whose topology is of that kind of chip."""
  return [command for command in COMMANDS if f"--topology {kind}:" in command]


def check(command: str, version: str) -> None:
  """Asserts that the command's plan has its recorded figures, within 2%.

  Skips where there are none of that version of the compiler. A better plan fails too, until
  figures.json has its figures.
  """
  recorded = COMMANDS[command].get(version)
  if recorded is None:
    pytest.skip(f"figures.json has none of compiler {version}: record those of the command")
  texts, overrides, rest = config.split(command.split()[3:])
  topology = chips.parse(rest[rest.index("--topology") + 1])
  plan = estimate.make_plan(resolve.load(config.only(texts), overrides), topology)
  figures = dict(milliseconds=1e3 * plan.seconds, temporaries_gb=plan.temporaries / 1e9)
  assert figures == pytest.approx(recorded, rel=0.02)
