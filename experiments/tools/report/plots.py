"""Draws an experiment as SVG: curves with bands over seeds, and our values beside a paper's."""

import collections
import io
from collections.abc import Mapping, Sequence

from experiments.tools.launch.results import Outcome
from experiments.tools.report.check import Verdict
from experiments.tools.report.tables import groups
from experiments.tools.runs import Value
from train.record.curves import plain
from train.record.writer import by_metric

# Okabe and Ito's colours, which colour-blind eyes can tell apart; black last
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
PANEL = (4.6, 3.2)  # inches
MOST_METRICS = 2
UNFINISHED = " (unfinished)"


def draw_curves(outcomes: Sequence[Outcome]) -> bytes | None:
  """Draws the evaluations during training, the loss and the first score.

  The line of a group is the mean over seeds, its band spans lowest to highest. Groups whose names
  begin alike share a panel. Returns None where no metric was evaluated more than once.
  """
  together = groups(outcomes)
  lines = {name: curves for name, runs in together.items() if (curves := _evaluations(runs))}
  if not lines:
    return None
  panels = _panels(list(lines))
  counts = collections.Counter(metric for curves in lines.values() for metric in curves)
  metrics = sorted(counts, key=lambda name: (name != "loss", -counts[name]))[:MOST_METRICS]
  figure, grid = _figure(len(panels), len(metrics), PANEL[0], [PANEL[1]] * len(panels))
  for row, (title, names) in zip(grid, panels.items()):
    for axes, metric in zip(row, metrics):
      for index, name in enumerate(names):
        if points := lines[name].get(metric):
          unfinished = not all(outcome.finished for outcome in together[name])
          label = name.removeprefix(f"{title}-") + UNFINISHED * unfinished
          _band(axes, points, label, COLOURS[index % len(COLOURS)])
      if not axes.lines:
        axes.set_visible(False)
        continue
      _style(axes, f"{title}: {metric}" if title else metric)
      axes.set_xlabel("step", fontsize=8)
      axes.legend(frameon=False, fontsize=7, ncols=2 if len(names) > 5 else 1)
  return _svg(figure)


def _band(axes, points, label, colour):
  steps = sorted(points)
  mean = [sum(points[step]) / len(points[step]) for step in steps]
  low, high = ([end(points[step]) for step in steps] for end in (min, max))
  axes.plot(steps, mean, color=colour, label=label, linewidth=1.6)
  axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)


def draw_values(verdicts: Sequence[Verdict]) -> bytes | None:
  """Draws each value of the paper as a bar with its tolerance, and ours: mean, lowest, highest."""
  panels = collections.defaultdict(list)
  for verdict in verdicts:
    expected = verdict.expected
    if isinstance(expected, Value) and expected.paper is not None and verdict.samples[0].values:
      panels[expected.metric.rpartition("/")[2]].insert(0, verdict)  # the first is drawn on top
  if not panels:
    return None
  heights = [0.34 * len(several) + 0.7 for several in panels.values()]
  figure, grid = _figure(len(panels), 1, 8.0, heights)
  for (metric, several), (axes,) in zip(panels.items(), grid):
    names = [verdict.name + UNFINISHED * bool(verdict.samples[0].unfinished) for verdict in several]
    for y, verdict in enumerate(several):
      expected, ours, first = verdict.expected, verdict.samples[0], y == 0
      label = "reference" if first else None
      axes.barh(y, expected.paper, height=0.62, color="#d9d8d4", label=label)
      if expected.tolerance is not None:
        low, width = expected.paper - expected.tolerance, 2 * expected.tolerance
        label = "its tolerance" if first else None
        axes.barh(y, width, height=0.62, left=low, color="#56b4e9", alpha=0.45, label=label)
      axes.plot([min(ours.values), max(ours.values)], [y, y], color="#d55e00", linewidth=2)
      label = "ours" if first else None
      axes.plot(ours.mean, y, "o", color="#d55e00", markersize=5, label=label)
    axes.set_yticks(range(len(several)), names, parse_math=False)
    _style(axes, metric)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
  return _svg(figure)


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
  """Puts all names into one panel, or if they exceed the colours, divides them by their beginning.

  Names whose beginning no other name shares are in a panel together.
  """
  if len(names) <= len(COLOURS):
    return {"": list(names)}
  panels = collections.defaultdict(list)
  for name in names:
    panels[name.partition("-")[0]].append(name)
  alone = [name for several in panels.values() if len(several) == 1 for name in several]
  several = {title: names for title, names in panels.items() if len(names) > 1}
  return ({"": alone} if alone else {}) | several


def _figure(rows, columns, width, heights):
  from matplotlib.backends.backend_agg import FigureCanvasAgg  # 1.2 s
  from matplotlib.figure import Figure

  figure = Figure((width * columns, sum(heights)), layout="constrained")
  FigureCanvasAgg(figure)
  return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights)


def _style(axes, title):
  axes.set_title(title.replace("_", " "), fontsize=9, loc="left", parse_math=False)
  plain(axes)


def _svg(figure) -> bytes:
  """Returns the same bytes for the same numbers."""
  import matplotlib

  with matplotlib.rc_context({"svg.hashsalt": "scriptorium", "svg.fonttype": "none"}):
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
  return file.getvalue()
