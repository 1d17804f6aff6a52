"""Gives names to labels that are numbers from 0: line N of a file, from 0, names class N, or name N
of a list."""

import dataclasses
from collections.abc import Sequence

from train.common.errors import UserError
from train.data.bad_records import BadRecords, log_once
from train.data.label_columns import LabelColumns
from train.data.reading import find_files, read_lines
from train.data.source import Changed, Source, digest


@dataclasses.dataclass(frozen=True)
class NamedLabels(Changed):
  """The examples of another source with the name of each `label`, which may be a name already.

  Raises UserError for another label if the names are those of a file.
  """

  path: str  # the file; "": the names come from a model
  names: tuple[str, ...]
  fingerprint: str

  def change(self, example):
    label = example["label"]
    if label.isdecimal() and int(label) < len(self.names):
      return example | {"label": self.names[int(label)]}
    if self.path and label not in self.names:
      raise UserError(
        f"an example has the label {label!r}, which is neither a number below {len(self.names)} nor"
        f" a class that {self.path} names ({', '.join(self.names)[:200]}): correct either file"
      )
    return example


def name_labels(source: Source, path: str | Sequence[str]) -> NamedLabels:
  """Returns the source with names from a file, or from a list of them; raises UserError for a blank
  or repeated name in a file."""
  if not isinstance(path, str):
    return NamedLabels(source, "", tuple(path), digest(source.fingerprint, *path))
  (file,) = find_files("data.label_names", path)
  names = [line.strip() for line in read_lines(file, BadRecords("error"))]
  while names and not names[-1]:
    names.pop()
  for number, name in enumerate(names, 1):
    if not name or name in names[: number - 1]:
      problem = f"the name {name!r} is there twice" if name else "a blank line is no name"
      raise UserError(f"{file}, line {number}: {problem}; give a name for each class")
  log_once(f"{file} names the {len(names)} classes", "info")
  return NamedLabels(source, str(file), tuple(names), digest(source.fingerprint, *names))


def name_rows(rows: Source, label_names, label_columns: Sequence[str]) -> Source:
  """Returns the rows with their labels as files.open_files describes the options."""
  if label_columns:
    return LabelColumns(rows, tuple(label_columns))
  return name_labels(rows, label_names) if label_names else rows
