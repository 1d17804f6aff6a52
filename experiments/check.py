"""Our numbers beside a paper's: is each within its tolerance, does each order hold?"""

import dataclasses
import re
import statistics
from collections.abc import Sequence

from experiments.results import Found
from experiments.runs import Order, Value

HEADS = ["what", "paper", "tolerance", "ours", "lowest to highest", "seeds", "", "source", "runs"]


@dataclasses.dataclass(frozen=True)
class Side:
  """A metric of the runs whose names fit a pattern."""

  values: Sequence[float]
  unfinished: Sequence[str]  # names and how far they are
  where: str

  @property
  def mean(self) -> float | None:
    return statistics.fmean(self.values) if self.values else None

  @property
  def ends(self) -> str:
    return f"{min(self.values):.2f} to {max(self.values):.2f}" if len(self.values) > 1 else ""


@dataclasses.dataclass(frozen=True)
class Verdict:
  """`missed`: outside of the tolerance, or not all of its runs are finished."""

  expected: Value | Order
  sides: Sequence[Side]  # one; of an order the greater first
  missed: bool
  words: str

  @property
  def name(self) -> str:
    return self.expected.name


def side(pattern: str, metric: str, found: Sequence[Found]) -> Side:
  fitting = [one for one in found if re.fullmatch(pattern, one.run.name)]
  values = [x for one in fitting if (x := one.value(metric)) is not None]
  unfinished = [f"{one.run.name} ({one.state})" for one in fitting if not one.finished]
  names = sorted({re.sub(r"-seed\d+$", "-seed*", one.where) for one in fitting})
  return Side(values, unfinished, ", ".join(names[:2]) + (" ..." if len(names) > 2 else ""))


def verdicts(expected: Sequence[Value | Order], found: Sequence[Found]) -> list[Verdict]:
  return [_value(one, found) if isinstance(one, Value) else _order(one, found) for one in expected]


def _value(one, found):
  ours = side(one.runs, one.metric, found)
  checked = one.tolerance is not None and one.paper is not None
  if trouble := _trouble([ours], one.metric):
    return Verdict(one, [ours], checked, trouble)
  if not checked:
    return Verdict(one, [ours], False, "not checked")
  missed = abs(ours.mean - one.paper) > one.tolerance
  return Verdict(one, [ours], missed, _words(missed, f"{ours.mean - one.paper:+.2f}", one.why))


def _order(one, found):
  more, less = (side(pattern, one.metric, found) for pattern in (one.more, one.less))
  if trouble := _trouble([more, less], one.metric):
    return Verdict(one, [more, less], True, trouble)
  gap = more.mean - less.mean
  missed = gap <= one.by
  return Verdict(one, [more, less], missed, _words(missed, f"{gap:+.2f}", one.why))


def _trouble(sides, metric):
  """Why there is no verdict."""
  if left := [name for one in sides for name in one.unfinished]:
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return f"UNFINISHED: {left[0]}{more}"
  if not all(one.values for one in sides):
    return f"UNKNOWN: no run tells {metric}"
  return None


def _words(missed, gap, why):
  return f"MISSED by {gap}" + (f": {why}" if why else "") if missed else f"holds, {gap}"


def rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
  """A heading and a line for each value, then for each order."""
  table = [HEADS]
  for one in verdicts:
    expected, ours = one.expected, one.sides[0]
    if isinstance(expected, Value):
      paper = "" if expected.paper is None else f"{expected.paper:g}"
      tolerance = "" if expected.tolerance is None else f"± {expected.tolerance:g}"
      mean = "" if ours.mean is None else f"{ours.mean:.2f}"
      cells = [paper, tolerance, mean, ours.ends, str(len(ours.values))]
    else:
      means = ["?" if one.mean is None else f"{one.mean:.2f}" for one in one.sides]
      tolerance = f"by {expected.by:g}" if expected.by else ""
      counts = {str(len(one.values)) for one in one.sides}
      ends = ", ".join(filter(None, (one.ends for one in one.sides)))
      cells = ["more than", tolerance, " over ".join(means), ends, "/".join(sorted(counts))]
    where = ", ".join(dict.fromkeys(side.where for side in one.sides))
    table.append([expected.name, *cells, one.words, expected.source, where])
  return table
