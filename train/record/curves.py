"""Draws the metrics of a run over its steps: curves.png."""

import pathlib
from collections.abc import Mapping, Sequence

PANELS = ("accuracy", "token_accuracy", "exact_match", "bleu", "chrf")
PANELS += ("learning_rate", "grad_norm")
MOST_PANELS = 9
# Each split has its own colour; colour-blind eyes can tell the three apart.
COLOURS = {"train": "#2a78d6", "validation": "#eb6834", "test": "#1baf7a"}


def draw(path: pathlib.Path, curves: Mapping[str, Mapping]) -> pathlib.Path | None:
  """Draws curves.png in the run's folder `path` and returns it, or None if there are no curves.

  `curves` is {metric: {split: ([steps], [values])}}. The losses of all splits share one axis; below
  it, each other metric has a small panel.
  """
  if not curves:
    return None
  names = [name for name in PANELS if name in curves]
  names += [name for name in curves if name not in names and name != "loss"]
  last = max(max(steps) for splits in curves.values() for steps, _ in splits.values())
  figure, panels = make_panels(names[:MOST_PANELS], loss="loss" in curves)
  figure.suptitle(path.resolve().name, fontsize=12)
  for name, axes in panels.items():
    _draw(axes, name, curves[name], last)
  if "loss" in panels:
    panels["loss"].legend(frameon=False)
  figure.savefig(path / "curves.png")
  return path / "curves.png"


def _draw(axes, name, splits, last):
  for split, (steps, values) in splits.items():
    dots = "o" if len(steps) < 30 else ""
    width = 1.0 if len(steps) > 200 else 1.8
    colour = COLOURS.get(split, "#52514e")
    axes.plot(steps, values, color=colour, label=split, marker=dots, markersize=3, linewidth=width)
  finish(axes, name, [value for _, values in splits.values() for value in values])
  axes.set_xlim(0, last * 1.02 or 1)


def make_panels(names: Sequence[str], loss: bool = True, x: str = "step", extra: float = 0.0):
  """Returns a figure, and by name the axes of the loss's wide panel and the small panels below.

  `extra` inches of height are left for a legend.
  """
  from matplotlib.figure import Figure  # takes 1.2 s, needed at the end

  top = [["loss"] * 3] * loss
  rows = [[*names[at : at + 3], ".", "."][:3] for at in range(0, len(names), 3)]
  size = (10, 4 * loss + 2.4 * len(rows) + extra)
  figure = Figure(figsize=size, dpi=120, layout="constrained")
  panels = figure.subplot_mosaic(top + rows, height_ratios=[1.7] * loss + [1] * len(rows))
  for name in names[-3:]:  # the lowest panel of each column
    panels[name].set_xlabel(x, fontsize=9)
  if loss:
    panels["loss"].set_xlabel(x)
  return figure, panels


def finish(axes, name: str, values: Sequence[float]) -> None:
  """Gives the panel of a metric its title and style; a loss of a wide range has a log scale."""
  title = name.replace("_", " ")
  if name == "loss" and values and min(values) > 0 and max(values) > 30 * min(values):
    axes.set_yscale("log")
    title += " (log scale)"
  axes.set_title(title, fontsize=10, loc="left")
  plain(axes)


def plain(axes) -> None:
  """Gives a plot the project's style: a grid, no frame above and on the right, small numbers."""
  axes.grid(True, color="#e6e5e1", linewidth=0.6)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=8)
