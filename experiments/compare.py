"""python -m experiments.compare runs/a runs/b [...] [--split test] [--out FOLDER]

Compares runs with the first, the baseline: cost, results, the settings, code, devices and data in
which they differ, whether their scores on a split differ by more than chance, and their curves. A
comparison takes seconds.

The outputs are those that train.evaluate left in each run's folder. --out writes compare.md and
compare.png; without it there are no curves. Nothing is written into the runs' folders.
"""

import json
import pathlib
import re
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from experiments.tools.compare import cost, curves, outputs, trained
from experiments.tools.compare.trained import TrainedRun
from experiments.tools.report import blocks, tables
from experiments.tools.runs import folder
from train.common import entry
from train.common.errors import UserError, choose
from train.common.files import write_atomically
from train.record import older
from train.record.config import flat
from train.record.writer import duration, number

UNKNOWN = "(unknown)"


def numbers(runs: Sequence[TrainedRun], split: str) -> str:
  """Tabulates parameters, cost and results of each run."""
  costs, notes = [], []
  for run in runs:
    try:
      costs.append(cost.cost(run))
    except UserError as error:
      costs.append((None, None))
      notes.append(f"Parameters and FLOPs of {run.name} are unknown: {error}.")
  tokens = [run.tokens[-1] if run.tokens else float("nan") for run in runs]
  rows = {
    "folder": [str(run.path) for run in runs],
    "state": [f"**{run.state}**" if run.unfinished else run.state for run in runs],
    "task": [run.cfg.task.name for run in runs],
    "parameters": _cells((parameters for parameters, _ in costs), "{:,}".format),
    "model FLOPs a step": _cells((flops for _, flops in costs), "{:.3g}".format),
    "steps": [f"{run.steps:,}" for run in runs],
    "tokens seen": [f"{count:,.0f}" if count == count else "" for count in tokens],
    "training": [duration(run.seconds[-1]) if run.seconds else "" for run in runs],
    "tokens a second": _cells(run.median("tokens_per_second") for run in runs),
    "milliseconds a step": _cells(run.median("step_ms") for run in runs),
    "MFU": _cells((run.median("mfu") for run in runs), "{:.1%}".format),
    # older runs call the host's memory peak_memory_gb
    "host memory, GB": _cells(run.highest("host_memory_gb", "peak_memory_gb") for run in runs),
    "device memory, GB": _cells(run.highest("device_memory_gb") for run in runs),
    "recompiles": _cells(run.highest("recompiles") for run in runs),
  }
  watched = [(run.cfg.checkpoint.best_metric, run.split) for run in runs]
  for metric, validation in dict.fromkeys(watched):
    best = (run.best if pair == (metric, validation) else None for run, pair in zip(runs, watched))
    rows[f"best {metric} ({validation})"] = [
      f"{number(pair[0])} at step {pair[1]:,}" if pair else "" for pair in best
    ]
  evaluations = [run.evaluations(split) for run in runs]
  for name in dict.fromkeys(name for several in evaluations for name in several):
    results = [several.get(name, {}) for several in evaluations]
    for metric in dict.fromkeys(key for result in results for key in result):
      rows[f"{split} {metric} ({name})"] = _cells(result.get(metric) for result in results)
  table = [["", *(run.name for run in runs)]]
  table += [[name, *cells] for name, cells in rows.items() if any(cells)]
  return "\n\n".join([tables.markdown(table), *notes])


NUMBERS = """\
FLOPs are three times the matrix products of the traced forward pass, with padding and masked
attention, without recomputation: neither 6 x parameters x tokens nor the compiler's count. Tokens
are those on the side that has a loss, without padding. Training time includes loading, compiling
and evaluation, but not the time between two starts. Tokens a second, milliseconds and MFU are
medians of the log's lines, without evaluation. Memory is the peak of a process and of the fullest
device."""


def _cells(values, style=number):
  """Formats numbers; a value that is unknown or no number has an empty cell."""
  return [style(value) if isinstance(value, (int, float)) else "" for value in values]


def differing_settings(configs: Sequence[ConfigDict]) -> list[tuple[str, ...]]:
  """Returns (key, its value in each config) of the keys that differ.

  A key that is newer than a run is shown as absent, with the value that the run uses.
  """
  configs = [flat(cfg) for cfg in configs]
  keys = sorted(set().union(*configs))
  added = older.defaults(keys)

  def absent(key):
    return f"(absent: as {added[key]!r})" if key in added else "(absent)"

  rows = [(key, *(repr(x[key]) if key in x else absent(key) for x in configs)) for key in keys]
  return [row for row in rows if len(set(row[1:])) > 1]


def differing_facts(runs: Sequence[TrainedRun]) -> list[tuple[str, ...]]:
  """Returns (fact, its value in each run.json) of the code, packages, devices and data that differ.

  A run that was started several times lists all of its values, in order.
  """
  facts = [[_facts(start) for start in run.starts] for run in runs]
  rows = []
  for key in dict.fromkeys(key for starts in facts for start in starts for key in start):
    values = [dict.fromkeys(start[key] for start in starts if key in start) for starts in facts]
    rows.append((key, *(", then ".join(several) or UNKNOWN for several in values)))
  return [row for row in rows if len(set(row[1:])) > 1]


def _facts(start):
  git, devices = start.get("git") or {}, start.get("devices") or []
  facts = {"commit": git.get("commit", "(no git)") + " with changes" * bool(git.get("dirty"))}
  facts |= {name: str(version) for name, version in (start.get("versions") or {}).items()}
  facts["devices"] = f"{len(devices)}: {devices[0]}" if devices else UNKNOWN
  facts |= {f"data, {split}": checksum for split, checksum in (start.get("data") or {}).items()}
  if start.get("left_out"):
    facts["left out"] = json.dumps(start["left_out"])
  return facts


def document(runs: Sequence[TrainedRun], split: str, evaluation: str, samples: int) -> list[str]:
  """Returns blocks of Markdown; long checksums are shortened."""
  names = [run.name for run in runs]
  parts = [f"# {' and '.join(names)}"]
  tasks = dict.fromkeys(run.cfg.task.name for run in runs)
  if len(tasks) > 1:
    common = ", ".join(curves.shared(runs)) or "none"
    parts.append(f"The tasks differ ({', '.join(tasks)}). Validation metrics in common: {common}.")
  if len(trained.by_vocabulary(runs)) > 1:
    parts.append("**Tasks or vocabularies differ**: losses and perplexities cannot be compared.")
  parts += ["## Numbers", numbers(runs, split), NUMBERS, "## Settings that differ"]
  rows = differing_settings([run.cfg for run in runs])
  rows = [[key, *(f"`{value}`" for value in values)] for key, *values in rows]
  table = tables.markdown([["setting", *names], *rows])
  parts += [table if rows else "All settings are the same."]
  parts += ["## Code, packages, devices and data that differ"]
  facts = differing_facts(runs)
  rows = [[re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}", r"\1", cell) for cell in row] for row in facts]
  table = tables.markdown([["what", *names], *rows])
  parts += [table if rows else "Code, packages, devices and data are the same."]
  data = [set(row[1:]) - {UNKNOWN} for row in facts if row[0].startswith("data, ")]
  if any(len(checksums) > 1 for checksums in data):
    parts += ["**The data are not the same**: losses and scores may be of other examples."]
  if split != "none":
    parts += [f"## Scores on {split}", outputs.tests(runs, split, evaluation, samples)]
  return parts


def write(text: str, runs: Sequence[TrainedRun], folder: pathlib.Path, x: str) -> None:
  """Writes compare.md and compare.png into the folder; raises UserError where that fails."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if curves.draw(runs, folder / "compare.png", x):
      text += "\n## Curves\n\n![Loss and metrics of the runs](compare.png)\n"
    write_atomically(folder / "compare.md", text)
  except OSError as error:
    raise UserError(f"--out {folder}: can't be written: {error.strerror}") from error


def main(argv):
  parser = entry.make_parser(__doc__)
  add = parser.add_argument
  add("runs", nargs="+", type=folder, metavar="DIR", help="a run's folder; first the baseline")
  parser.add_argument("--split", default="test", help="of outputs and scores; none: leave them out")
  parser.add_argument("--evaluation", default="", help="such as best-beam4; else the newest")
  parser.add_argument("--samples", type=int, default=1000, help="of each bootstrap")
  parser.add_argument("--out", type=folder, help="a folder for compare.md and compare.png")
  parser.add_argument("--x", help="the curves' horizontal axis: step (else), tokens or seconds")
  args = parser.parse_args(argv)
  if args.x:
    choose(curves.X, args.x, "--x")
    if not args.out:
      raise UserError("--x is of the curves, which are drawn into a folder: give --out DIR too")
  if args.samples < 1:
    raise UserError(f"--samples {args.samples}: must be at least 1")
  jax.config.update("jax_platforms", "cpu")  # models are traced here, not run
  runs = trained.read(args.runs)
  parts = document(runs, args.split, args.evaluation, args.samples)
  text = blocks.join(map(blocks.escape, parts))
  tables.show(text)
  if args.out:
    write(text, runs, args.out, args.x or "step")


if __name__ == "__main__":
  entry.run(main)
