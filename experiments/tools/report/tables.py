"""Tables of what came of runs."""

import collections
import statistics
from collections.abc import Sequence

from experiments.tools.launch.results import Found
from experiments.tools.report import markdown
from experiments.tools.runs import Run


def groups(found: Sequence[Found]) -> dict[str, list[Found]]:
  """Runs that differ in their seed alone, together."""
  together = collections.defaultdict(list)
  for one in found:
    together[one.run.group].append(one)
  return dict(together)


def metrics_of(run: Run) -> list[str]:
  return [f"{split}/{metric}" for split in run.splits for metric in run.metrics]


def number(value: float) -> str:
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def ends(values: Sequence[float]) -> str:
  """The lowest to the highest, where there are several."""
  return f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""


def rows(found: Sequence[Found]) -> list[list[str]]:
  """A heading, then for each group and metric the mean and ends over seeds, and mean seconds of
  training and evaluation together, start and compilation included. What is not finished is said."""
  table = [["run", "metric", "mean", "lowest to highest", "seeds", "seconds", "parameters"]]
  for name, several in groups(found).items():
    done = [one for one in several if one.finished]
    seconds = [x for one in done if (x := one.value("seconds")) is not None]
    size = next((x for one in done if (x := one.value("parameters")) is not None), None)
    last = [f"{statistics.fmean(seconds):,.0f}" if seconds else "", f"{size:,}" if size else ""]
    for metric in metrics_of(several[0].run) if done else []:
      values = [x for one in done if (x := one.value(metric)) is not None]
      mean = number(statistics.fmean(values)) if values else ""
      table.append([name, metric, mean, ends(values), str(len(values)), *last])
    for one in several:
      if not one.finished:
        table.append([one.run.name, f"UNFINISHED: {one.state}", "", "", "", "", ""])
  return table


def of_runs(found: Sequence[Found]) -> str:
  """`rows` in Markdown."""
  return text(rows(found))


def text(table: Sequence[Sequence[str]]) -> str:
  """A table in Markdown; its first row is the heading."""
  return markdown.table(table[0], table[1:])
