"""Plots of an experiment, as SVG: curves with bands over seeds, and our values beside a paper's."""

import collections
import io
import math
from collections.abc import Mapping, Sequence

from experiments.tools.launch.results import Found
from experiments.tools.report.check import Verdict
from experiments.tools.report.tables import groups
from experiments.tools.runs import Value
from train.record.curves import plain

# Okabe and Ito's, to be told apart by colour-blind eyes; black last
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
INK = "#52514e"
PANEL = (4.6, 3.2)  # inches
MOST_METRICS = 2
UNFINISHED = " (unfinished)"


def curves(found: Sequence[Found]) -> bytes | None:
  """Evaluations while training: loss and the first score, of each group a line through the mean of
  its seeds and a band from lowest to highest. Groups whose names begin alike share a panel; what
  was evaluated once has no curve."""
  together = groups(found)
  lines = {name: _evaluations(several) for name, several in together.items()}
  lines = {name: metrics for name, metrics in lines.items() if metrics}
  if not lines:
    return None
  panels = _panels(list(lines))
  told = collections.Counter(metric for metrics in lines.values() for metric in metrics)
  metrics = sorted(told, key=lambda name: (name != "loss", -told[name]))[:MOST_METRICS]
  figure, grid = _figure(len(panels), len(metrics))
  for row, (title, names) in enumerate(panels.items()):
    for column, metric in enumerate(metrics):
      axes = grid[row][column]
      drawn = False
      for name, colour in zip(names, _cycle(len(names))):
        points = lines[name].get(metric, {})
        if not points:
          continue
        drawn = True
        steps = sorted(points)
        mean = [sum(points[step]) / len(points[step]) for step in steps]
        unfinished = not all(one.finished for one in together[name])
        label = name.removeprefix(f"{title}-") + UNFINISHED * unfinished
        axes.plot(steps, mean, color=colour, label=label, linewidth=1.6)
        low, high = ([end(points[step]) for step in steps] for end in (min, max))
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
      if not drawn:
        axes.set_visible(False)
        continue
      _styled(axes, f"{title}: {metric}" if title else metric.replace("_", " "))
      axes.set_xlabel("step", fontsize=8)
      axes.legend(frameon=False, fontsize=7, ncols=2 if len(names) > 5 else 1)
  return _svg(figure)


def beside_paper(verdicts: Sequence[Verdict]) -> bytes | None:
  """Of each value of the paper a bar with its tolerance, and ours: mean, lowest and highest."""
  shown = [
    one
    for one in verdicts
    if isinstance(one.expected, Value) and one.expected.paper is not None and one.sides[0].values
  ]
  if not shown:
    return None
  by_metric = collections.defaultdict(list)
  for one in shown:
    by_metric[one.expected.metric.rpartition("/")[2]].append(one)
  heights = [0.34 * len(several) + 0.7 for several in by_metric.values()]
  figure, grid = _figure(len(by_metric), 1, (8.0, 0), heights)
  for (metric, several), (axes,) in zip(by_metric.items(), grid):
    for at, one in enumerate(reversed(several)):
      expected, ours = one.expected, one.sides[0]
      axes.barh(at, expected.paper, height=0.62, color="#d9d8d4", label="paper" if not at else None)
      if expected.tolerance is not None:
        axes.fill_betweenx(
          [at - 0.31, at + 0.31],
          expected.paper - expected.tolerance,
          expected.paper + expected.tolerance,
          color="#56b4e9",
          alpha=0.45,
          linewidth=0,
          label=None if at else "its tolerance",
        )
      axes.plot([min(ours.values), max(ours.values)], [at, at], color="#d55e00", linewidth=2)
      axes.plot(ours.mean, at, "o", color="#d55e00", markersize=5, label=None if at else "ours")
    names = [one.name + UNFINISHED * bool(one.sides[0].unfinished) for one in reversed(several)]
    axes.set_yticks(range(len(several)), names, parse_math=False)
    _styled(axes, metric.replace("_", " "))
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
  return _svg(figure)


def _evaluations(several: Sequence[Found]) -> Mapping[str, Mapping[int, list[float]]]:
  """{metric: {step: [a value of each seed]}} of lines that are not training's, of several steps."""
  found: dict = {}
  for one in several:
    for line in one.metrics:
      for name, value in line.items():
        if line["split"] == "train" or name in ("step", "split", "time", "seconds", "perplexity"):
          continue
        if math.isfinite(value):
          found.setdefault(name, {}).setdefault(line["step"], []).append(value)
  return {name: points for name, points in found.items() if len(points) > 1}


def _panels(names: Sequence[str]) -> dict[str, list[str]]:
  """All in one, or where those are more than there are colours, by the beginning of the name; what
  nobody shares a beginning with is together."""
  if len(names) <= len(COLOURS):
    return {"": list(names)}
  found = collections.defaultdict(list)
  for name in names:
    found[name.partition("-")[0]].append(name)
  alone = [name for several in found.values() if len(several) == 1 for name in several]
  several = {title: names for title, names in found.items() if len(names) > 1}
  return ({"": alone} if alone else {}) | several


def _cycle(count):
  return [COLOURS[at % len(COLOURS)] for at in range(count)]


def _figure(rows, columns, size=PANEL, heights=None):
  from matplotlib.backends.backend_agg import FigureCanvasAgg  # 1.2 s
  from matplotlib.figure import Figure

  high = sum(heights) if heights else size[1] * rows
  figure = Figure((size[0] * columns, high), layout="constrained")
  FigureCanvasAgg(figure)
  return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights)


def _styled(axes, title):
  axes.set_title(title, fontsize=9, loc="left", parse_math=False)
  plain(axes)
  axes.tick_params(colors=INK)


def _svg(figure) -> bytes:
  """The same bytes for the same numbers."""
  import matplotlib

  with matplotlib.rc_context({"svg.hashsalt": "scriptorium", "svg.fonttype": "none"}):
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
  return file.getvalue()
