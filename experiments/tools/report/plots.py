"""Draws the curves of an experiment as SVG, with bands over seeds."""

import collections
import io
import pathlib
from collections.abc import Mapping, Sequence

from experiments.tools.launch.results import Outcome
from experiments.tools.report.tables import groups
from experiments.tools.runs import Run
from train.record.curves import plain
from train.record.writer import by_metric

# Okabe and Ito's colours, which colour-blind eyes can tell apart; black last
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
PANEL = (4.6, 3.2)  # inches
MOST_METRICS = 2
OF_LABELS = ("classify", "glue", "tag")  # config files whose losses know no vocabulary
OF_TOKENS = ("loss", "token_accuracy")  # compare runs of one vocabulary alone
# The settings of a run that decide about its vocabulary, where it has no `init`.
VOCABULARY = ("data", "name", "size", "tokenizer", "vocab", "vocab_size", "special", "path")


def draw_curves(outcomes: Sequence[Outcome]) -> bytes | None:
  """Draws the evaluations during training, the loss and the first score.

  The line of a group is the mean over seeds, its band spans lowest to highest. Groups whose names
  begin alike share a panel; losses of different config files or vocabularies never do. Returns None
  where no metric was evaluated more than once.
  """
  import matplotlib  # imported late: 1.2 s
  from matplotlib.figure import Figure

  together = groups(outcomes)
  lines = {name: curves for name, runs in together.items() if (curves := _evaluations(runs))}
  if not lines:
    return None
  counts = collections.Counter(metric for curves in lines.values() for metric in curves)
  metrics = sorted(counts, key=lambda name: (name != "loss", -counts[name]))[:MOST_METRICS]
  scales = {name: scale(together[name][0].run, outcomes) for name in lines}
  columns = [
    _panels(
      {x: scales[x] if metric in OF_TOKENS else ("", "") for x in lines if metric in lines[x]}
    )
    for metric in metrics
  ]
  rows = max(map(len, columns))
  figure = Figure((PANEL[0] * len(metrics), PANEL[1] * rows), layout="constrained")
  grid = figure.subplots(rows, len(metrics), squeeze=False)
  for axes in grid.flat:
    axes.set_visible(False)
  for metric, panels, column in zip(metrics, columns, grid.T):
    for axes, ((_, group, start), names) in zip(column, panels.items()):
      axes.set_visible(True)
      for index, name in enumerate(names):
        unfinished = not all(outcome.finished for outcome in together[name])
        label = name.removeprefix(f"{start}-") + " (unfinished)" * unfinished
        _band(axes, lines[name][metric], label, COLOURS[index % len(COLOURS)])
      heading = ": ".join(filter(None, (group, start, metric)))
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


def scale(run: Run, outcomes: Sequence[Outcome]) -> tuple[str, str]:
  """Returns what losses of runs on one axis share: the config file, and the vocabulary's settings,
  which are those of the run whose weights or tokenizer this one starts from."""
  runs, origin = {outcome.run.name: outcome.run for outcome in outcomes}, run
  while (names := origin.dependencies()) and (name := min(names)) in runs:
    origin = runs[name]
  words = [word.split("=", 1) for word in origin.config.split(":", 1)[-1].split(",") if "=" in word]
  changes = {key.partition(".tokenizer.")[2]: value for key, value in origin.changes.items()}
  settings = dict(words) | changes
  keys = ("init",) if "init" in settings else VOCABULARY
  vocabulary = ", ".join(f"{key}={settings[key]}" for key in keys if key in settings)
  file = pathlib.Path(run.config.partition(":")[0]).stem
  return file, "" if file in OF_LABELS else vocabulary.replace("{data}/", "")


def _panels(scales: Mapping[str, tuple[str, str]]) -> dict[tuple[int, str, str], list[str]]:
  """Puts names into a panel for each scale, by number, title and beginning. Names that
  exceed the colours are divided by their beginning; those whose beginning no other name shares are
  in a panel together."""
  panels, files = {}, [file for file, _ in dict.fromkeys(scales.values())]
  for index, (file, vocabulary) in enumerate(dict.fromkeys(scales.values())):
    names = [name for name, other in scales.items() if other == (file, vocabulary)]
    starts = [name.partition("-")[0] for name in names]
    title = file if files.count(file) == 1 else f"{file} ({vocabulary or 'default'})"
    title = title if len(files) > 1 else ""
    for name, start in zip(names, starts):
      alone = len(names) <= len(COLOURS) or starts.count(start) == 1
      panels.setdefault((index, title, "" if alone else start), []).append(name)
  return panels
