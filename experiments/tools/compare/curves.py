"""Draws the curves of several runs: a colour for each run, a panel for each metric."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from experiments.tools.compare import trained
from experiments.tools.compare.trained import TrainedRun
from experiments.tools.report.plots import COLOURS
from train.record.curves import MOST_PANELS, finish, make_panels

OF_TOKENS = ("loss", "perplexity", "token_accuracy")  # compare runs of one vocabulary alone
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
  returns False, and writes no file, where there is nothing to draw. Metrics of OF_TOKENS have a
  panel for each vocabulary."""
  if not any(_points(run, split, "loss", x).size for run in runs for split in ("train", run.split)):
    return False
  groups, panels = trained.by_vocabulary(runs), {}
  for name in dict.fromkeys(("loss", *shared(runs))):
    for index, group in enumerate(groups if name in OF_TOKENS else [runs]):
      panels[f"{name} {index + 1}" if index else name] = name, [run.name for run in group]
  names = [panel for panel in panels if panel != "loss"][:MOST_PANELS]
  legend = 0.25 * len(runs)  # inches: a line for each run
  figure, drawn = make_panels(names, x=x, extra=0.3 + legend)
  lines = {}
  for panel, axes in drawn.items():
    name, group = panels[panel]
    lines = _panel(axes, runs, group, name, x) | lines
    if len(group) < len(runs):
      title = f"{axes.get_title(loc='left')} of {', '.join(group)}"
      axes.set_title(title, fontsize=10, loc="left", parse_math=False)
  labels = [f"{run.name} ({run.state})" if run.unfinished else run.name for run in runs]
  where = dict(loc="outside upper left", alignment="left", frameon=False)
  figure.legend(
    [lines[run.name] for run in runs], labels, title="validation; thin: training", **where
  )
  figure.savefig(path)
  return True


def _points(run, split, name, x):
  """Returns x and the values of a metric, [2, points], where both are finite."""
  lines = [(at, line) for at, line in zip(X[x](run), run.lines) if line["split"] == split]
  points = np.reshape([(at, line[name]) for at, line in lines if name in line], (-1, 2))
  return points[np.isfinite(points).all(axis=1)].T


def _panel(axes, runs, group, name, x):
  """Draws a metric of the runs named in `group`; returns the line of each, for the legend."""
  from matplotlib.ticker import EngFormatter, MaxNLocator

  curves = {run.name: _points(run, run.split, name, x) for run in runs if run.name in group}
  most = max(points.shape[1] for points in curves.values())
  dots = dict(marker="o" if most < 30 else "", markersize=4)
  lines, values = {}, []
  for index, run in enumerate(runs):
    if run.name not in curves:
      continue
    points = curves[run.name]
    style = dict(color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index // len(COLOURS) % 4])
    if name == "loss":
      thin = _points(run, "train", name, x)
      dot = dict(marker="." if thin.shape[1] == 1 else "")  # a line of one point is invisible
      axes.plot(*thin, linewidth=0.7, alpha=0.7, **dot, **style)
      values += thin[1].tolist()
    (lines[run.name],) = axes.plot(*points, linewidth=1.8, **dots, **style)
    values += points[1].tolist()
  finish(axes, name, values)
  axes.set_xlim(left=0)
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k
  return lines
