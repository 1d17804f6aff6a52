"""What tasks share when they predict: rows of tokens to predict from, and settings."""

import dataclasses
import types
from collections.abc import Sequence

import numpy as np

from train.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of tokens to predict from, as items."""

  ids: Sequence[Sequence[int]]

  fingerprint = ""  # nothing is kept of them
  extras = types.MappingProxyType({})

  def lengths(self):
    return np.asarray([[len(row), 0] for row in self.ids], np.int32).reshape(-1, 2)

  def read(self, numbers, places):
    del places
    return [{"source": self.ids[number]} for number in numbers]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to predict, where there is nothing to choose."""

  def tag(self) -> list[str]:
    """What to name a file of outputs by."""
    return []


def changed(default, task: str, changes):
  """`default` with `changes`; UserError for one that it has no field for."""
  known = [field.name for field in dataclasses.fields(default)]
  for key in changes:
    if key not in known:
      there = f"it has {', '.join(known)}" if known else "it has none"
      raise UserError(f"--{key}: {task} has no such setting of prediction ({there})")
  return dataclasses.replace(default, **changes)
