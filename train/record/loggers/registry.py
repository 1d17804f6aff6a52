"""Opens the loggers that a run's config names, and passes metrics on to them.

The file loggers.json of the workdir holds the run's name at each service and the last step sent,
so that a run that is resumed goes on there and repeats no step.
"""

import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence

from absl import logging

from train.common import json_files
from train.common.errors import UserError, choose
from train.common.files import write_atomically
from train.record.loggers.mlflow import MLflow
from train.record.loggers.tensorboard import TensorBoard
from train.record.loggers.weights_and_biases import WeightsAndBiases

LOGGERS = dict(tensorboard=TensorBoard, wandb=WeightsAndBiases, mlflow=MLflow)
OPTIONAL = ("wandb", "mlflow")  # named as the package that each needs
FILE = "loggers.json"


def check(names: Sequence[str]) -> None:
  """Raises UserError for a logger that is unknown or given twice."""
  for index, name in enumerate(names):
    choose(LOGGERS, str(name), "loggers")
    if name in names[:index]:
      raise UserError(f"loggers is {names}: {name!r} is given twice")


def check_packages(names: Sequence[str]) -> None:
  """Raises UserError for a logger whose package is not installed."""
  for name in names:
    spec = importlib.util.find_spec(name) if name in OPTIONAL else None
    if name in OPTIONAL and (spec is None or spec.origin is None):  # no origin: a folder wandb/
      raise UserError(
        f"loggers: {name!r} needs the Python package {name}, which is not installed; install it"
        " with pip install -r requirements-loggers.txt, or leave it out of --config.loggers"
      )


class Loggers:
  """The open loggers of a run. One that fails later is closed with a warning; the run goes on."""

  def __init__(self, folder, names: Sequence[str], config: Mapping, start_step: int):
    """Opens the loggers `names`; raises UserError where one cannot be opened.

    `config` holds the settings by dotted key. A run that starts at step 0 is a new one everywhere.
    """
    self.file = pathlib.Path(folder) / FILE
    self.sent = read(self.file) if start_step else {}
    self.open = {}
    for name in names:
      run = self.sent.get(name, {}).get("run")
      try:
        logger = LOGGERS[name](self.file.parent, config, run, start_step)
      except Exception as error:  # of any class: the service's, or of its connection
        raise UserError(f"loggers: {name} cannot be opened: {_first_line(error)}") from error
      self.open[name] = logger
      if name in OPTIONAL:
        self.sent[name] = dict(run=logger.run, steps=self.sent.get(name, {}).get("steps", {}))
    self._save()

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Passes the metrics of a step to each logger that has none of that step and split yet."""
    new = [name for name in self.open if step > self._last(name, split)]
    for name in new:
      if name in self.sent:
        self.sent[name]["steps"][split] = step
    self._save()  # before sending: after a kill between the two a point is missing, none is twice
    for name in new:
      self._do(name, "write", step, split, values)

  def close(self, scores: Mapping[str, float], failed: bool = False) -> None:
    """Closes the loggers; `scores` are the last ones of each split, by `split/name`."""
    for name in list(self.open):
      self._do(name, "close", scores, failed)
    self.open = {}

  def _last(self, name, split):
    return self.sent.get(name, {}).get("steps", {}).get(split, -1)

  def _do(self, name, what, *arguments):
    try:
      getattr(self.open[name], what)(*arguments)
    except Exception as error:
      del self.open[name]
      logging.warning(
        "loggers: %s failed and gets nothing more until the next start: %s; metrics.jsonl has all",
        name,
        _first_line(error),
      )

  def _save(self):
    if self.sent:
      write_atomically(self.file, json.dumps(self.sent) + "\n")
    else:
      self.file.unlink(missing_ok=True)


def read(file: pathlib.Path) -> dict[str, dict]:
  """Returns {logger: {"run", "steps": {split: the last step sent}}} of a loggers.json; raises
  UserError for another content."""
  sent = json_files.read(file) if file.exists() else {}
  for name, state in sent.items():
    if not json_files.fits(state, dict) or not (
      json_files.fits(state.get("run"), str) and json_files.fits(state.get("steps"), dict[str, int])
    ):
      raise UserError(f"{file}: {name} has no run and steps; restore the file, or remove it")
  return sent


def _first_line(error):
  return (str(error).strip() or type(error).__name__).splitlines()[0]
