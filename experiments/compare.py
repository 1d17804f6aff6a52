"""python -m experiments.compare runs/a runs/b [...] [--split test] [--out FOLDER]

Runs side by side: what they cost and reached, in which settings, code, devices and data they
differ, whether their scores on a split differ by more than chance, and their curves. The first is
the baseline. It takes seconds.

Outputs are those that train.evaluate left in each run's folder. --out writes compare.md and
compare.png there; without it there are no curves. Nothing is written into the runs' folders.
"""

import argparse
import pathlib
import re
from collections.abc import Sequence

import jax

from experiments.tools.compare import cost, curves, differences, outputs, sides
from experiments.tools.compare.sides import Side
from experiments.tools.report import markdown
from experiments.tools.report.markdown import table
from train.common.errors import UserError, choose
from train.common.files import write_atomically
from train.record.writer import duration, number

NONE = ""  # of a table: nothing is known


def numbers(runs: Sequence[Side], split: str) -> str:
  """What each run is, cost and reached."""
  rows, notes = [], []

  def add(name, cells):
    if any(cells := list(cells)):
      rows.append((name, *cells))

  add("folder", (str(run.path) for run in runs))
  add("state", (f"**{run.state}**" if run.unfinished else run.state for run in runs))
  add("task", (run.cfg.task.name for run in runs))
  costs = []
  for run in runs:
    try:
      costs.append(cost.cost(run))
    except UserError as error:
      costs.append(None)
      notes.append(f"Parameters and FLOPs of {run.name} are not known: {error}.")
  add("parameters", (f"{one[0]:,}" if one else NONE for one in costs))
  add("model FLOPs a step", (f"{one[1]:.3g}" if one else NONE for one in costs))
  add("steps", (f"{run.steps:,}" for run in runs))
  add("tokens seen", (_known(run.tokens[-1:], "{:,.0f}") for run in runs))
  add("training", (duration(run.seconds[-1]) if run.seconds else NONE for run in runs))
  add("tokens a second", (_number(run.median_speed()) for run in runs))
  for where in ("host", "device"):
    add(f"peak memory of the {where}, GB", (_number(run.peak_memory(where)) for run in runs))
  best = "best {} ({})"
  for words in dict.fromkeys(_watched(run) for run in runs):
    found = (run.best if _watched(run) == words else None for run in runs)
    told = (f"{number(one[0])} at step {one[1]:,}" if one else NONE for one in found)
    add(best.format(*words), told)
  found = [run.evaluations(split) for run in runs]
  for name in dict.fromkeys(name for one in found for name in one):
    results = [one.get(name, {}) for one in found]
    for metric in dict.fromkeys(key for one in results for key in one):
      add(f"{split} {metric} ({name})", (_number(one.get(metric)) for one in results))
  return "\n\n".join([table(["", *(run.name for run in runs)], rows), *notes])


NUMBERS = """\
FLOPs are three times the matrix products of a forward pass as it is traced
(train/common/flops.py), with padding and what attention masks out, without what remat computes
again: neither 6 x parameters x tokens nor the compiler's count. Tokens are those of the side that
is learned, without padding. Training is from each start to its last line in metrics.jsonl, with
loading, compiling and evaluation, without what lies between starts. Tokens a second are the median
of the log's lines, evaluation aside. Memory is the host's."""


def _watched(run):
  return run.cfg.checkpoint.best_metric, run.split


def _number(value):
  return number(value) if isinstance(value, (int, float)) else NONE


def _known(values, form):
  return form.format(values[0]) if values and values[0] == values[0] else NONE


def settings(runs: Sequence[Side]) -> str:
  """The settings that differ."""
  rows = differences.differences([run.cfg for run in runs])
  if not rows:
    return "All settings are the same."
  cells = [(key, *(f"`{cell}`" for cell in said)) for key, *said in rows]
  return table(["setting", *(run.name for run in runs)], cells)


def told(runs: Sequence[Side]) -> str:
  """What differs of code, packages, devices and data; digests by their beginnings."""
  rows = differences.provenance(runs)
  if not rows:
    return "Code, packages, devices and data are the same."
  cells = [[re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}", r"\1", cell) for cell in row] for row in rows]
  text = table(["what", *(run.name for run in runs)], cells)
  if any(len({*row[1:]} - {differences.UNTOLD}) > 1 for row in rows if row[0].startswith("data, ")):
    text += "\n\n**The data are not the same**: losses and scores may be of other examples."
  return text


def document(runs: Sequence[Side], split: str, evaluation: str, samples: int) -> list[str]:
  """Blocks of Markdown."""
  blocks = [f"# {' and '.join(run.name for run in runs)}"]
  tasks = dict.fromkeys(run.cfg.task.name for run in runs)
  if len(tasks) > 1:
    what = f"The tasks differ ({', '.join(tasks)}): only what they share is compared"
    blocks.append(f"{what}; of validation that is {', '.join(curves.shared(runs)) or 'nothing'}.")
  blocks += ["## Numbers", numbers(runs, split), NUMBERS]
  blocks += ["## Settings that differ", settings(runs)]
  blocks += ["## What run.json says differs", told(runs)]
  if split != "none":
    blocks += [f"## Scores on {split}", outputs.tests(runs, split, evaluation, samples)]
  return blocks


def write(text: str, runs: Sequence[Side], folder: pathlib.Path, x: str) -> None:
  """compare.md and compare.png in the folder; UserError where it can't be written to."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if curves.draw(runs, folder / "compare.png", x):
      text += "\n## Curves\n\n![Loss and metrics of the runs](compare.png)\n"
    write_atomically(folder / "compare.md", text)
  except OSError as error:
    raise UserError(f"--out {folder}: can't be written: {error.strerror}") from error


def main(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("runs", nargs="+", metavar="DIR", help="a run's folder; first the baseline")
  parser.add_argument("--split", default="test", help="of outputs and scores; none: leave them out")
  parser.add_argument("--evaluation", default="", help="such as best-beam4; else the newest")
  parser.add_argument("--samples", type=int, default=1000, help="of bootstraps")
  parser.add_argument("--out", type=pathlib.Path, help="a folder for compare.md and compare.png")
  parser.add_argument("--x", default="step", help="of the curves: step, tokens or seconds")
  args = parser.parse_args(argv)
  choose(curves.X, args.x, "--x")
  if args.samples < 1:
    raise UserError(f"--samples {args.samples}: 1 or more")
  jax.config.update("jax_platforms", "cpu")  # models are traced here, not run
  runs = sides.read(args.runs)
  text = "\n\n".join(document(runs, args.split, args.evaluation, args.samples)) + "\n"
  markdown.show(text)
  if args.out:
    write(text, runs, args.out, args.x)


if __name__ == "__main__":
  from train.common.entry import run

  run(main)
