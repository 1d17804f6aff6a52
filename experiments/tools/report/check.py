"""Compares our numbers with a paper's: each value by its tolerance, and each claimed order."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from experiments.tools.launch.results import Outcome
from experiments.tools.report import tables
from experiments.tools.runs import Order, Value, group_name

SPAN = "lowest to highest"
VALUES = ("what", "verdict", "reference", "ours", SPAN, "seeds", "runs")
ORDERS = ("claim", "verdict", "greater", SPAN, "smaller", SPAN, "seeds", "runs")


class Sample(NamedTuple):
  """The values of a metric in all runs whose names match a pattern."""

  values: Sequence[float]
  unfinished: Sequence[str]  # names and states
  names: str


class Verdict(NamedTuple):
  """A comparison, missed outside of the tolerance or while one of its runs is unfinished."""

  expected: Value | Order
  samples: Sequence[Sample]  # one; of an order the greater first
  checked: bool  # an order and a value with a tolerance are, and can be missed
  missed: bool
  text: str

  @property
  def name(self) -> str:
    return self.expected.name


def verdicts(expected: Sequence[Value | Order], outcomes: Sequence[Outcome]) -> list[Verdict]:
  """Compares each expected number with the runs."""
  return [_judge(claim, outcomes) for claim in expected]


def _judge(expected, outcomes):
  order = isinstance(expected, Order)
  patterns = (expected.more, expected.less) if order else (expected.runs,)
  samples = [_sample(pattern, expected.metric, outcomes) for pattern in patterns]
  checked = order or None not in (expected.tolerance, expected.paper)
  missed, left = checked, [name for sample in samples for name in sample.unfinished]
  if left:
    text = f"UNFINISHED: {left[0]}" + (f" and {len(left) - 1} more" if len(left) > 1 else "")
  elif not all(sample.values for sample in samples):
    text = f"UNKNOWN: no run reports {expected.metric}"
  elif not checked:
    text = "not checked"
  else:
    first, *others = [tables.mean(sample.values) for sample in samples]
    gap = first - (expected.times * others[0] if order else expected.paper)
    # NaN is a miss
    missed = not (gap > _least(expected, samples) if order else abs(gap) <= expected.tolerance)
    is_ratio = order and expected.times != 1
    found = f"{first / (others[0] or math.nan):.3g} times" if is_ratio else f"{gap:+.2f}"
    text = f"{'MISSED' if missed else 'holds'}, {found}"
  return Verdict(expected, samples, checked, missed, text)


def _least(order: Order, samples: Sequence[Sample]) -> float:
  """Returns what the gap between two groups must exceed."""
  spreads = (max(sample.values) - min(sample.values) for sample in samples)
  return max(order.by, *spreads) if order.spread else order.by


def _sample(pattern, metric, outcomes):
  matching = [outcome for outcome in outcomes if re.fullmatch(pattern, outcome.run.name)]
  values = tables.known(matching, metric)
  unfinished = [f"{x.run.name} ({x.state})" for x in matching if not x.finished]
  names = sorted({group_name(outcome.run.name, "-seed*") for outcome in matching})
  return Sample(values, unfinished, ", ".join(names[:2]) + (" ..." if len(names) > 2 else ""))


def count(verdicts: Sequence[Verdict]) -> str:
  """Formats the number of checks that hold, as "6 of 7 hold"; returns "none" without checks."""
  checked = [verdict for verdict in verdicts if verdict.checked]
  hold = sum(not verdict.missed for verdict in checked)
  return f"{hold} of {len(checked)} hold" if checked else "none"


def tabulate(verdicts: Sequence[Verdict]) -> tuple[list[list[list[str]]], list[str]]:
  """Returns the tables of values and of orders that have rows, and the notes that cells refer to by
  number: sources, and reasons of misses."""
  notes: list[str] = []

  def note(text):
    if text and text not in notes:
      notes.append(text)
    return f" [{notes.index(text) + 1}]" if text else ""

  values, orders = [list(VALUES)], [list(ORDERS)]
  for verdict in verdicts:
    expected, samples = verdict.expected, verdict.samples
    order = isinstance(expected, Order)
    sign = "by" if order and expected.by > 0 else "minus"
    by = f" {sign} {abs(expected.by):g}" if order and expected.by else ""
    by += f", above {expected.times:.3g} times" if order and expected.times != 1 else ""
    by += " by more than the spread of seeds" if order and expected.spread else ""
    cells = [expected.name + by + note(expected.source)]
    cells.append(verdict.text + note(expected.why if verdict.missed else ""))
    if not order:
      paper = "" if expected.paper is None else f"{expected.paper:g}"
      cells.append(paper + ("" if expected.tolerance is None else f" ± {expected.tolerance:g}"))
    for sample in samples:
      cells += [tables.number(tables.mean(sample.values)), tables.span(sample.values)]
    cells.append(", ".join(dict.fromkeys(str(len(sample.values)) for sample in samples)))
    cells.append(", ".join(sample.names for sample in samples))
    (orders if order else values).append(cells)
  return [table for table in (values, orders) if len(table) > 1], notes
