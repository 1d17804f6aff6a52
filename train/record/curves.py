"""curves.png: what a run's metrics did while it trained."""

import pathlib
from collections.abc import Mapping

PANELS = ("accuracy", "exact_match", "bleu", "chrf", "learning_rate", "grad_norm")
MOST_PANELS = 9
# A colour belongs to a split, whichever others are drawn; the three differ for colour-blind eyes.
COLOURS = {"train": "#2a78d6", "validation": "#eb6834", "test": "#1baf7a"}


def draw(path: pathlib.Path, curves: Mapping[str, Mapping]) -> pathlib.Path | None:
  """The file curves.png drawn in the run's folder `path`; None where there is nothing to draw.
  `curves`: {metric: {split: ([steps], [values])}}.

  The loss of every split on one axis, below it a small panel for each other metric.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg  # 1.2 s, and only needed at the end
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
    if at + 3 >= len(names):  # the lowest of its column
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
  """A grid behind, no frame above and on the right, small numbers: as all of our plots."""
  axes.grid(True, color="#e6e5e1", linewidth=0.6)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=8)
