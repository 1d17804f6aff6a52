"""Defines requests that are rows of tokens."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of tokens to predict from, as items."""

  ids: Sequence[Sequence[int]]
  prompts: Sequence[Sequence[int]] = ()  # a row's `prompt`, where they differ

  fingerprint = ""  # nothing is cached

  @property
  def extras(self):
    return {"prompt": "int32"} if self.prompts else {}

  def lengths(self):
    return np.asarray([[len(row), 0] for row in self.ids], np.int32).reshape(-1, 2)

  def read(self, indices, positions):
    rows = [{"source": self.ids[index]} for index in indices]
    for row, index in zip(rows, indices if self.prompts else ()):
      prompt = self.prompts[index]
      row["prompt"] = [*prompt, *[0] * (len(row["source"]) - len(prompt))]
    return rows
