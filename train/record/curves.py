"""Draws the metrics of a run over its steps: curves.png."""

import pathlib
from collections.abc import Mapping

PANELS = ("accuracy", "exact_match", "bleu", "chrf", "learning_rate", "grad_norm")
MOST_PANELS = 9
# Each split has its own colour; colour-blind eyes can tell the three apart.
COLOURS = {"train": "#2a78d6", "validation": "#eb6834", "test": "#1baf7a"}


def draw(path: pathlib.Path, curves: Mapping[str, Mapping]) -> pathlib.Path | None:
  """Draws curves.png in the run's folder `path` and returns it, or None if there are no curves.

  `curves` is {metric: {split: ([steps], [values])}}. The losses of all splits share one axis; below
  it, each other metric has a small panel.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes 1.2 s, needed at the end
  from matplotlib.figure import Figure

  names = [name for name in PANELS if name in curves]
  names += [name for name in curves if name not in names and name != "loss"]
  names = names[:MOST_PANELS]
  if not curves:
    return None
  last = max(max(steps) for splits in curves.values() for steps, _ in splits.values())
  rows = -(-len(names) // 3)
  tall = ["loss"] * ("loss" in curves)
  figure = Figure(figsize=(10, 4 * len(tall) + 2.4 * rows), dpi=120, layout="constrained")
  grid = figure.add_gridspec(len(tall) + rows, 3, height_ratios=[1.7] * len(tall) + [1] * rows)
  figure.suptitle(path.resolve().name, fontsize=12)
  for name in tall:
    axes = figure.add_subplot(grid[0, :])
    _draw(axes, name, curves[name], last)
    axes.set_xlabel("step")
    axes.legend(frameon=False)
  for at, name in enumerate(names):
    axes = figure.add_subplot(grid[len(tall) + at // 3, at % 3])
    _draw(axes, name, curves[name], last)
    if at + 3 >= len(names):  # the lowest panel of its column
      axes.set_xlabel("step", fontsize=9)
  FigureCanvasAgg(figure).print_png(path / "curves.png")
  return path / "curves.png"


def _draw(axes, name, splits, last):
  for split, (steps, values) in splits.items():
    dots = "o" if len(steps) < 30 else ""
    width = 1.0 if len(steps) > 200 else 1.8
    colour = COLOURS.get(split, "#52514e")
    axes.plot(steps, values, color=colour, label=split, marker=dots, markersize=3, linewidth=width)
  everything = [value for _, values in splits.values() for value in values]
  title = name.replace("_", " ")
  if name == "loss" and min(everything) > 0 and max(everything) > 30 * min(everything):
    axes.set_yscale("log")
    title += " (log scale)"
  axes.set_title(title, fontsize=10, loc="left")
  axes.set_xlim(0, last * 1.02 or 1)
  plain(axes)


def plain(axes) -> None:
  """Gives a plot the project's style: a grid, no frame above and on the right, small numbers."""
  axes.grid(True, color="#e6e5e1", linewidth=0.6)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=8)
