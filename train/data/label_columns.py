"""Reads tables with a column for each label, in which 1 means that a text has it."""

import dataclasses
import json

from train.common.errors import UserError
from train.data.source import Changed, digest

YES, NO = ("1", "1.0", "true", "True", "yes"), ("0", "0.0", "false", "False", "no", "")


@dataclasses.dataclass(frozen=True)
class LabelColumns(Changed):
  """The examples of another source with `labels`, a JSON list of the names whose fields `label_0`,
  `label_1`, ... are one of YES. Raises UserError for a cell that is none of YES and NO."""

  names: tuple[str, ...]

  @property
  def fingerprint(self) -> str:
    return digest(self.of.fingerprint, "label columns", *self.names)

  def change(self, example):
    labels, joined = [], dict(example)
    for number, name in enumerate(self.names):
      cell = joined.pop(f"label_{number}").strip()
      if cell not in (*YES, *NO):
        raise UserError(
          f"the column {name!r} has {cell!r} for {str(joined)[:200]}: expects 1 where a text has"
          " this label, else 0"
        )
      if cell in YES:
        labels.append(name)
    return joined | {"labels": json.dumps(labels, ensure_ascii=False)}
