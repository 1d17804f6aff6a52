"""Tells whether the other models that a run reads are what they were when it was trained: the one
that it adapts, and its teacher. A start in run.json has a checksum of their weights."""

from train.common import paths
from train.common.errors import UserError
from train.record import workdir

WHAT = {"base": "adapts", "teacher": "learns from"}  # keys of a start


def noted(path: paths.Path, key: str) -> int | None:
  """Returns the checksum under `key` of the run's last start that has one, if any."""
  return next((start[key] for start in reversed(workdir.starts(path)) if key in start), None)


def check(path: paths.Path, key: str, name: str, now: int) -> None:
  """Raises UserError where the weights of the model `name`, of the checksum `now`, are not those
  that the run in `path` noted."""
  if noted(path, key) not in (None, now):
    raise UserError(
      f"{path} {WHAT[key]} {name}, whose weights are no longer those that it was trained with:"
      " restore them"
    )
