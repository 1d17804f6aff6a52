"""Draws the curves of several runs: a colour for each run, a panel for each metric."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from experiments.tools.compare.trained import TrainedRun
from experiments.tools.report.plots import COLOURS
from train.record.curves import MOST_PANELS, finish, make_panels

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
  """Draws the loss (validation; training's is a thin line) and below it the other shared metrics;
  returns False, and writes no file, where there is nothing to draw."""
  if not any(_points(run, split, "loss", x).size for run in runs for split in ("train", run.split)):
    return False
  names = [name for name in shared(runs) if name != "loss"][:MOST_PANELS]
  legend = 0.25 * len(runs)  # inches: a line for each run
  figure, panels = make_panels(names, x=x, extra=0.3 + legend)
  lines = {name: _panel(axes, runs, name, x) for name, axes in panels.items()}
  labels = [f"{run.name} ({run.state})" if run.unfinished else run.name for run in runs]
  where = dict(loc="outside upper left", alignment="left", frameon=False)
  figure.legend(lines["loss"], labels, title="validation; thin: training", **where)
  figure.savefig(path)
  return True


def _points(run, split, name, x):
  """Returns x and the values of a metric, [2, points], where both are finite."""
  lines = [(at, line) for at, line in zip(X[x](run), run.lines) if line["split"] == split]
  points = np.reshape([(at, line[name]) for at, line in lines if name in line], (-1, 2))
  return points[np.isfinite(points).all(axis=1)].T


def _panel(axes, runs, name, x):
  """Draws a metric of all runs; returns the line of each, for the legend."""
  from matplotlib.ticker import EngFormatter, MaxNLocator

  curves = [_points(run, run.split, name, x) for run in runs]
  dots = dict(marker="o" if max(points.shape[1] for points in curves) < 30 else "", markersize=4)
  lines, values = [], []
  for index, (run, points) in enumerate(zip(runs, curves)):
    style = dict(color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index // len(COLOURS) % 4])
    if name == "loss":
      thin = _points(run, "train", name, x)
      dot = dict(marker="." if thin.shape[1] == 1 else "")  # a line of one point is invisible
      axes.plot(*thin, linewidth=0.7, alpha=0.7, **dot, **style)
      values += thin[1].tolist()
    lines += axes.plot(*points, linewidth=1.8, **dots, **style)
    values += points[1].tolist()
  finish(axes, name, values)
  axes.set_xlim(left=0)
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k
  return lines
