"""Formats tables of results as Markdown and prints Markdown on a terminal."""

import statistics
import sys
from collections.abc import Sequence

from experiments.tools.launch.results import Outcome
from experiments.tools.runs import group_name


def markdown(rows: Sequence[Sequence[str]]) -> str:
  """Formats a table, whose first row is the heading, as Markdown."""

  def line(cells):
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

  return "\n".join([line(rows[0]), "|" + "---|" * len(rows[0]), *map(line, rows[1:])])


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
