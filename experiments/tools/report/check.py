"""Our numbers beside a paper's: is each within its tolerance, does each order hold?"""

import dataclasses
import re
import statistics
from collections.abc import Sequence

from experiments.tools.launch.results import Found
from experiments.tools.report import tables
from experiments.tools.runs import Order, Value

VALUES = ("what", "verdict", "paper", "ours", "lowest to highest", "seeds", "runs")
ENDS = ("mean", "lowest to highest", "the other", "lowest to highest")
ORDERS = ("more than the other", "verdict", *ENDS, "seeds", "runs")


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
    return tables.ends(self.values)


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

  @property
  def checked(self) -> bool:
    """Whether it can be missed: an order, or a value with a tolerance."""
    one = self.expected
    return isinstance(one, Order) or (one.tolerance is not None and one.paper is not None)


def side(pattern: str, metric: str, found: Sequence[Found]) -> Side:
  fitting = [one for one in found if re.fullmatch(pattern, one.run.name)]
  values = [x for one in fitting if (x := one.value(metric)) is not None]
  unfinished = [f"{one.run.name} ({one.state})" for one in fitting if not one.finished]
  names = sorted({re.sub(r"-seed\d+$", "-seed*", one.run.name) for one in fitting})
  return Side(values, unfinished, ", ".join(names[:2]) + (" ..." if len(names) > 2 else ""))


def verdicts(expected: Sequence[Value | Order], found: Sequence[Found]) -> list[Verdict]:
  return [_value(one, found) if isinstance(one, Value) else _order(one, found) for one in expected]


def _value(one, found):
  ours = side(one.runs, one.metric, found)
  blank = Verdict(one, [ours], False, "not checked")
  if trouble := _trouble([ours], one.metric):
    return Verdict(one, [ours], blank.checked, trouble)
  if not blank.checked:
    return blank
  missed = not abs(ours.mean - one.paper) <= one.tolerance  # NaN is a miss
  return Verdict(one, [ours], missed, _words(missed, f"{ours.mean - one.paper:+.2f}"))


def _order(one, found):
  more, less = (side(pattern, one.metric, found) for pattern in (one.more, one.less))
  if trouble := _trouble([more, less], one.metric):
    return Verdict(one, [more, less], True, trouble)
  gap = more.mean - less.mean
  missed = not gap > one.by
  return Verdict(one, [more, less], missed, _words(missed, f"{gap:+.2f}"))


def _trouble(sides, metric):
  """Why there is no verdict."""
  if left := [name for one in sides for name in one.unfinished]:
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return f"UNFINISHED: {left[0]}{more}"
  if not all(one.values for one in sides):
    return f"UNKNOWN: no run tells {metric}"
  return None


def _words(missed, gap):
  return f"{'MISSED' if missed else 'holds'}, {gap}"


class Tables:
  """The verdicts as tables of values and of orders, each empty where there is none of its kind, and
  the notes that their cells point to by number: sources, and why something is missed."""

  def __init__(self, verdicts: Sequence[Verdict]):
    self.notes: list[str] = []
    self.values: list[list[str]] = []
    self.orders: list[list[str]] = []
    for one in verdicts:
      if isinstance(one.expected, Value):
        self.values.append(self._value(one))
      else:
        self.orders.append(self._order(one))
    for table, heads in ((self.values, VALUES), (self.orders, ORDERS)):
      if table:
        table.insert(0, list(heads))

  def lists(self) -> list[list[list[str]]]:
    return [table for table in (self.values, self.orders) if table]

  def _value(self, one):
    expected, ours = one.expected, one.sides[0]
    paper = "" if expected.paper is None else f"{expected.paper:g}"
    tolerance = "" if expected.tolerance is None else f" ± {expected.tolerance:g}"
    mean = "" if ours.mean is None else tables.number(ours.mean)
    numbers = [paper + tolerance, mean, ours.ends, str(len(ours.values))]
    return [expected.name + self._note(expected.source), self._words(one), *numbers, ours.where]

  def _order(self, one):
    more, less = one.sides
    by = f" by {one.expected.by:g}" if one.expected.by else ""
    means = ["" if side.mean is None else tables.number(side.mean) for side in one.sides]
    seeds = ", ".join(dict.fromkeys(str(len(side.values)) for side in one.sides))
    name = one.name + by + self._note(one.expected.source)
    where = f"{more.where}, {less.where}"
    return [name, self._words(one), means[0], more.ends, means[1], less.ends, seeds, where]

  def _words(self, one):
    return one.words + (self._note(one.expected.why) if one.missed else "")

  def _note(self, text):
    if not text:
      return ""
    if text not in self.notes:
      self.notes.append(text)
    return f" [{self.notes.index(text) + 1}]"
