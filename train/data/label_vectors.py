"""Lays several labels or numbers of a text on its first token (label_layout.Classes)."""

import dataclasses
import json
from collections.abc import Iterable, Mapping

from train.common.errors import UserError
from train.data.label_layout import Classes, parse_number

BITS = 31  # labels in a number, which int32 holds
SEPARATORS = ",;|"  # that people use between labels


def split_labels(cell: str, separator: str) -> tuple[str, ...]:
  """Returns the labels in a cell: a JSON list, or names with the separator between them."""
  if cell.startswith("["):
    try:
      labels = json.loads(cell)
    except (ValueError, RecursionError):  # a name that begins with a bracket
      labels = None
    if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
      return tuple(dict.fromkeys(labels))
  parts = (part.strip() for part in cell.split(separator))
  return tuple(dict.fromkeys(part for part in parts if part))


def check_separator(cells: Iterable[str], separator: str) -> None:
  """Raises UserError where the cells may have another separator than the usual one, a comma."""
  if separator != SEPARATORS[0]:
    return
  for cell in cells:
    others = [mark for mark in SEPARATORS if mark != separator and mark in cell]
    if others and not cell.startswith("["):
      raise UserError(
        f"task.separator is {separator!r}, and the labels {cell!r} have a {others[0]!r}: set"
        f" task.separator={others[0]!r} (in configs/classify.py separator=) if it parts them; if a"
        " label is called so, give the labels as JSON lists in a .jsonl file"
      )


def with_weights(keys: Iterable[str], dtype: str, others: Mapping[str, str]) -> dict[str, str]:
  """Returns the extras with `keys` in place of the single label."""
  return dict.fromkeys(keys, dtype) | {k: kind for k, kind in others.items() if k != "labels"}


@dataclasses.dataclass(frozen=True)
class LabelSets(Classes):
  """Lays out texts with any number of labels: the bits of `labels_0` are the first BITS of them."""

  separator: str

  @property
  def extras(self):
    keys = (f"labels_{number}" for number in range(-(-len(self.labels) // BITS)))
    return with_weights(keys, "int32", super().extras)

  def label_of(self, example):
    cell = example.get("labels")
    return None if cell is None else split_labels(cell, self.separator)

  def item(self, encoded, window):
    rows = self.blank_item(encoded, window)
    if encoded.label is not None:
      rows["weights"][0] = 1
      for label in self.labels:
        if label in encoded.label:
          number, bit = divmod(self.labels.index(label), BITS)
          rows[f"labels_{number}"][0] |= 1 << bit
    return rows


@dataclasses.dataclass(frozen=True)
class Numbers(Classes):
  """Lays out texts with a number in each of the fields `labels`: `labels_0` is the first one."""

  @property
  def extras(self):
    keys = (f"labels_{number}" for number in range(len(self.labels)))
    return with_weights(keys, "float32", super().extras)

  def label_of(self, example):
    cells = [example.get(field) for field in self.labels]
    return None if None in cells else [*map(parse_number, cells)]

  def item(self, encoded, window):
    rows = self.blank_item(encoded, window)
    if encoded.label is not None:
      rows["weights"][0] = 1
      for number, value in enumerate(encoded.label):
        rows[f"labels_{number}"][0] = value
    return rows
