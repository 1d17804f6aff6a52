"""Formats tables of results as Markdown and prints Markdown on a terminal."""

import re
import statistics
import sys
from collections.abc import Sequence

from experiments.tools.launch.results import Outcome
from experiments.tools.report import blocks
from experiments.tools.runs import group_name

NUMBER = r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?%?"
NUMERIC = re.compile(rf"({NUMBER}( (±|to) {NUMBER})?|nan)?")


def markdown(rows: Sequence[Sequence[str]]) -> str:
  """Formats a table, whose first row is the heading, as Markdown; columns of numbers, with their
  headings, are aligned to the right."""

  def line(cells):
    cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(map(blocks.escape, cells)) + " |"

  columns = list(zip(*rows[1:])) or [()] * len(rows[0])
  numeric = [any(cells) and all(map(NUMERIC.fullmatch, cells)) for cells in columns]
  rule = "".join("---:|" if right else "---|" for right in numeric)
  return "\n".join([line(rows[0]), f"|{rule}", *map(line, rows[1:])])


def show(text: str) -> None:
  """Prints Markdown, rendered on a terminal and unchanged elsewhere."""
  if not sys.stdout.isatty():
    print(text)
    return
  from rich.console import Console
  from rich.markdown import Markdown

  Console().print(Markdown(text))


def number(value: float | None) -> str:
  """Formats a number with two digits after the point, or none from 1,000 on."""
  if value is None:
    return ""
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def mean(values: Sequence[float]) -> float | None:
  """Returns the mean, or None if there are no values."""
  return statistics.fmean(values) if values else None


def span(values: Sequence[float]) -> str:
  """Formats the lowest and the highest value; returns "" for fewer than two values."""
  return f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""


def known(outcomes: Sequence[Outcome], metric: str) -> list[float]:
  """Returns the numbers of those runs that have the metric."""
  return [x for outcome in outcomes if (x := outcome.value(metric)) is not None]


def groups(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
  """Collects runs that differ in their seed alone."""
  together = {}
  for outcome in outcomes:
    together.setdefault(group_name(outcome.run.name), []).append(outcome)
  return together


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
  """Tabulates the mean and span over seeds of each group and metric, and each unfinished run; the
  seconds are the mean of training and evaluation together, start and compilation included."""
  table = [["run", "metric", "mean", "lowest to highest", "seeds", "seconds", "parameters"]]
  for name, several in groups(outcomes).items():
    seconds, sizes = known(several, "seconds"), known(several, "parameters")
    cost = [f"{mean(seconds):,.0f}" if seconds else "", f"{sizes[0]:,}" if sizes else ""]
    unfinished = [outcome for outcome in several if not outcome.finished]
    splits = several[0].run.splits if len(unfinished) < len(several) else ()
    for metric in [f"{split}/{metric}" for split in splits for metric in several[0].run.metrics]:
      values = known(several, metric)
      table.append([name, metric, number(mean(values)), span(values), str(len(values)), *cost])
    for outcome in unfinished:
      table.append([outcome.run.name, f"UNFINISHED: {outcome.state}", "", "", "", "", ""])
  return table
