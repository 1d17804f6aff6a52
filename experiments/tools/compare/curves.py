"""Several runs' curves in one picture: a colour a run, a panel a metric."""

import math
import pathlib
from collections.abc import Callable, Sequence

from experiments.tools.compare.sides import Side
from experiments.tools.report.plots import COLOURS
from train.record.curves import MOST_PANELS, plain

DASHES = ("-", "--", ":", "-.")  # when all colours are used up
X: dict[str, Callable[[Side], Sequence[float]]] = {
  "step": lambda side: [line["step"] for line in side.lines],
  "tokens": lambda side: side.tokens,
  "seconds": lambda side: side.seconds,
}


def shared(sides: Sequence[Side]) -> list[str]:
  """The metrics that validation tells in all of the runs that have been validated yet."""
  told = [side.metrics() for side in sides if side.metrics()]
  return [name for name in (told[0] if told else ()) if all(name in one for one in told)]


def draw(sides: Sequence[Side], path: pathlib.Path, x: str = "step") -> bool:
  """Loss (validation, and training's as a thin line), below it a panel for each other metric that
  the runs share. False, and no file, where there is nothing to draw."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg  # 1.2 s
  from matplotlib.figure import Figure

  names = [name for name in shared(sides) if name != "loss"][:MOST_PANELS]
  if not any(_points(side, split, "loss", x) for side in sides for split in ("train", side.split)):
    return False
  rows = -(-len(names) // 3)
  legend = 0.25 * len(sides)  # inches: a line a run
  size = (10, legend + 4.3 + 2.4 * rows)
  figure = Figure(figsize=size, dpi=120, layout="constrained")
  grid = figure.add_gridspec(1 + rows, 3, height_ratios=[1.7] + [1] * rows)
  axes = figure.add_subplot(grid[0, :])
  lines = _panel(axes, sides, "loss", x)
  axes.set_xlabel(x)
  for at, name in enumerate(names):
    axes = figure.add_subplot(grid[1 + at // 3, at % 3])
    _panel(axes, sides, name, x)
    if at + 3 >= len(names):  # the lowest of its column
      axes.set_xlabel(x, fontsize=9)
  labels = [f"{side.name} ({side.state})" if side.unfinished else side.name for side in sides]
  title = "validation; thin: training"
  where = dict(loc="outside upper left", alignment="left", frameon=False)
  figure.legend(lines, labels, title=title, **where)
  FigureCanvasAgg(figure).print_png(path)
  return True


def _points(side, split, name, x):
  """(x, value) of a metric where both are finite."""
  places = X[x](side)
  points = [
    (place, line[name])
    for place, line in zip(places, side.lines)
    if line["split"] == split and name in line
  ]
  return [point for point in points if all(map(math.isfinite, point))]


def _panel(axes, sides, name, x):
  """Draws a metric of all runs; the line of each, for the legend."""
  from matplotlib.ticker import EngFormatter, MaxNLocator

  of_runs = [_points(side, side.split, name, x) for side in sides]
  dots = dict(marker="o" if max(map(len, of_runs)) < 30 else "", markersize=4)
  lines, values = [], [value for points in of_runs for _, value in points]
  for at, (side, points) in enumerate(zip(sides, of_runs)):
    look = dict(color=COLOURS[at % len(COLOURS)], linestyle=DASHES[at // len(COLOURS) % 4])
    if name == "loss":
      thin = _points(side, "train", name, x)
      dot = dict(marker="." if len(thin) == 1 else "")  # a line of one point is none
      axes.plot(*_columns(thin), linewidth=0.7, alpha=0.7, **dot, **look)
      values += [value for _, value in thin]
    lines += axes.plot(*_columns(points), linewidth=1.8, **dots, **look)
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
