"""Draws the curves of an experiment as SVG, with bands over seeds."""

import collections
import io
from collections.abc import Mapping, Sequence

from experiments.tools.launch.results import Outcome
from experiments.tools.report.tables import groups
from train.record.curves import plain
from train.record.writer import by_metric

# Okabe and Ito's colours, which colour-blind eyes can tell apart; black last
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
PANEL = (4.6, 3.2)  # inches
MOST_METRICS = 2


def draw_curves(outcomes: Sequence[Outcome]) -> bytes | None:
  """Draws the evaluations during training, the loss and the first score.

  The line of a group is the mean over seeds, its band spans lowest to highest. Groups whose names
  begin alike share a panel. Returns None where no metric was evaluated more than once.
  """
  import matplotlib  # imported late: 1.2 s
  from matplotlib.figure import Figure

  together = groups(outcomes)
  lines = {name: curves for name, runs in together.items() if (curves := _evaluations(runs))}
  if not lines:
    return None
  panels = _panels(list(lines))
  counts = collections.Counter(metric for curves in lines.values() for metric in curves)
  metrics = sorted(counts, key=lambda name: (name != "loss", -counts[name]))[:MOST_METRICS]
  figure = Figure((PANEL[0] * len(metrics), PANEL[1] * len(panels)), layout="constrained")
  grid = figure.subplots(len(panels), len(metrics), squeeze=False)
  for row, (title, names) in zip(grid, panels.items()):
    for axes, metric in zip(row, metrics):
      for index, name in enumerate(names):
        if points := lines[name].get(metric):
          unfinished = not all(outcome.finished for outcome in together[name])
          label = name.removeprefix(f"{title}-") + " (unfinished)" * unfinished
          _band(axes, points, label, COLOURS[index % len(COLOURS)])
      if not axes.lines:
        axes.set_visible(False)
        continue
      heading = f"{title}: {metric}" if title else metric
      axes.set_title(heading.replace("_", " "), fontsize=9, loc="left", parse_math=False)
      plain(axes)
      axes.set_xlabel("step", fontsize=8)
      axes.legend(frameon=False, fontsize=7, ncols=2 if len(names) > 5 else 1)
  # the same bytes for the same numbers
  with matplotlib.rc_context({"svg.hashsalt": "scriptorium", "svg.fonttype": "none"}):
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
  return file.getvalue()


def _band(axes, points, label, colour):
  steps = sorted(points)
  mean = [sum(points[step]) / len(points[step]) for step in steps]
  low, high = ([end(points[step]) for step in steps] for end in (min, max))
  axes.plot(steps, mean, color=colour, label=label, linewidth=1.6)
  axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)


def _evaluations(outcomes: Sequence[Outcome]) -> Mapping[str, Mapping[int, list[float]]]:
  """Returns {metric: {step: [a value of each seed]}} of metrics evaluated at several steps."""
  curves = collections.defaultdict(lambda: collections.defaultdict(list))
  for outcome in outcomes:
    for name, splits in by_metric(outcome.metrics).items():
      for split, points in splits.items():
        if split != "train" and name not in ("seconds", "perplexity"):
          for step, value in zip(*points):
            curves[name][step].append(value)
  return {name: points for name, points in curves.items() if len(points) > 1}


def _panels(names: Sequence[str]) -> dict[str, list[str]]:
  """Puts all names into one panel, or if they exceed the colours, divides them by their beginning;
  names whose beginning no other name shares are in a panel together."""
  starts = [name.partition("-")[0] for name in names]
  panels = {"": []}
  for name, start in zip(names, starts):
    alone = len(names) <= len(COLOURS) or starts.count(start) == 1
    panels.setdefault("" if alone else start, []).append(name)
  return {title: several for title, several in panels.items() if several}
