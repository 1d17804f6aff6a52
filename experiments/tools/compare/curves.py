"""Draws the curves of several runs: a colour for each run, a panel for each metric."""

import math
import pathlib
from collections.abc import Callable, Sequence

from experiments.tools.compare.trained import TrainedRun
from experiments.tools.report.plots import COLOURS
from train.record.curves import MOST_PANELS, plain

DASHES = ("-", "--", ":", "-.")  # when all colours are used up
X: dict[str, Callable[[TrainedRun], Sequence[float]]] = {
  "step": lambda run: [line["step"] for line in run.lines],
  "tokens": lambda run: run.tokens,
  "seconds": lambda run: run.seconds,
}


def shared(runs: Sequence[TrainedRun]) -> list[str]:
  """Returns the validation metrics of all runs that have been validated."""
  metrics = [run.metrics() for run in runs if run.metrics()]
  return [name for name in (metrics[0] if metrics else ()) if all(name in x for x in metrics)]


def draw(runs: Sequence[TrainedRun], path: pathlib.Path, x: str = "step") -> bool:
  """Draws the loss (validation; training's is a thin line) and below it the other shared metrics.

  Returns False, and writes no file, where there is nothing to draw.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg  # 1.2 s
  from matplotlib.figure import Figure

  names = [name for name in shared(runs) if name != "loss"][:MOST_PANELS]
  if not any(_points(run, split, "loss", x) for run in runs for split in ("train", run.split)):
    return False
  rows = -(-len(names) // 3)
  legend = 0.25 * len(runs)  # inches: a line for each run
  size = (10, legend + 4.3 + 2.4 * rows)
  figure = Figure(figsize=size, dpi=120, layout="constrained")
  grid = figure.add_gridspec(1 + rows, 3, height_ratios=[1.7] + [1] * rows)
  axes = figure.add_subplot(grid[0, :])
  lines = _panel(axes, runs, "loss", x)
  axes.set_xlabel(x)
  for index, name in enumerate(names):
    axes = figure.add_subplot(grid[1 + index // 3, index % 3])
    _panel(axes, runs, name, x)
    if index + 3 >= len(names):  # the lowest of its column
      axes.set_xlabel(x, fontsize=9)
  labels = [f"{run.name} ({run.state})" if run.unfinished else run.name for run in runs]
  title = "validation; thin: training"
  where = dict(loc="outside upper left", alignment="left", frameon=False)
  figure.legend(lines, labels, title=title, **where)
  FigureCanvasAgg(figure).print_png(path)
  return True


def _points(run, split, name, x):
  """Returns (x, value) of a metric where both are finite."""
  points = [
    (place, line[name])
    for place, line in zip(X[x](run), run.lines)
    if line["split"] == split and name in line
  ]
  return [point for point in points if all(map(math.isfinite, point))]


def _panel(axes, runs, name, x):
  """Draws a metric of all runs; returns the line of each, for the legend."""
  from matplotlib.ticker import EngFormatter, MaxNLocator

  curves = [_points(run, run.split, name, x) for run in runs]
  dots = dict(marker="o" if max(map(len, curves)) < 30 else "", markersize=4)
  lines, values = [], [value for points in curves for _, value in points]
  for index, (run, points) in enumerate(zip(runs, curves)):
    style = dict(color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index // len(COLOURS) % 4])
    if name == "loss":
      thin = _points(run, "train", name, x)
      dot = dict(marker="." if len(thin) == 1 else "")  # a line of one point is invisible
      axes.plot(*_columns(thin), linewidth=0.7, alpha=0.7, **dot, **style)
      values += [value for _, value in thin]
    lines += axes.plot(*_columns(points), linewidth=1.8, **dots, **style)
  title = name.replace("_", " ")
  if name == "loss" and values and min(values) > 0 and max(values) > 30 * min(values):
    axes.set_yscale("log")
    title += " (log scale)"
  axes.set_title(title, fontsize=10, loc="left")
  axes.set_xlim(left=0)
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k
  plain(axes)
  return lines


def _columns(points):
  return ([x for x, _ in points], [y for _, y in points])
