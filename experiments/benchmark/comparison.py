"""Tabulates what was measured: medians of ours and of a peer, and their ratio."""

import math
import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from experiments.benchmark.sides import Times

HEADING = ["", "ours", "peer", "peer's", "ours / peer", "of cores' seconds", "to reach", "remark"]


class Row(NamedTuple):
  """A measurement of ours, and of a peer or a reference, in turns. The `ratio` to reach is at least
  that of rates ("2,430 tokens/s"), and at most that of seconds ("s")."""

  what: str
  unit: str
  ours: Sequence[Times]
  peer: str = ""
  theirs: Sequence[Times] = ()
  ratio: float | None = None
  remark: str = ""
  most: float | None = None  # of ours, where there is no peer

  def cells(self) -> list[str]:
    """Returns the row as text: medians, with the lowest and highest value in brackets."""
    cells = [self.what, _cell(self.ours, self.unit), self.peer]
    if self.theirs:
      ratios = [_median(self.ours, part) / _median(self.theirs, part) for part in (0, 1)]
      texts = ["" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios]
      cells += [_cell(self.theirs, self.unit), *texts]
    else:
      cells += ["", "", ""]
    goal = "" if self.ratio is None else f"{'<=' if self.unit == 's' else '>='} {self.ratio:g}"
    if self.most is not None:
      goal = f"<= {self.most:g} {self.unit}"
    return [*cells, goal, self.remark]


def beside(
  what: str,
  unit: str,
  results: Mapping[str, Sequence[Times]],
  ratios: Mapping[str, float] = MappingProxyType({}),
  remarks: Mapping[str, str] = MappingProxyType({}),
) -> list[Row]:
  """Returns a row of ours beside each peer, or one of ours alone where there is none.

  The first of `results` is ours; `ratios` and `remarks` are those of peers.
  """
  (_, ours), *peers = results.items()
  if not peers:
    return [Row(what, unit, ours)]
  return [
    Row(what, unit, ours, peer, theirs, ratios.get(peer), remarks.get(peer, ""))
    for peer, theirs in peers
  ]


def _median(values, part) -> float:
  return statistics.median(value[part] for value in values)


def _cell(values: Sequence[Times], unit: str) -> str:
  middle, numbers = _median(values, 0), [value.seconds for value in values]
  text = f"{_number(middle)} {unit}"
  if len(numbers) > 1:
    text += f" ({_number(min(numbers))} to {_number(max(numbers))})"
  return text


def _number(value: float) -> str:
  return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> list[list[str]]:
  """Returns the rows below their heading, without columns that are empty."""
  cells = [HEADING, *(row.cells() for row in rows)]
  kept = [i for i in range(len(HEADING)) if i < 2 or any(row[i] for row in cells[1:])]
  return [[row[i] for i in kept] for row in cells]
