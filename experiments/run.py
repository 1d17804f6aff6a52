"""python -m experiments.run experiments/transfer.py --data DIR [--root runs] [--only PATTERN]

Runs what an experiment file lists, one after another: each is trained, then evaluated on its split.
What is finished is skipped and what was interrupted goes on, so the same command is started again
after anything. A run that starts from another's weights waits for it. --dry_run prints the
commands, --table the results so far.

An experiment file has `runs(data, root)`, which yields `Run`s, and may have `EXPECTED`, a text:
what the paper says and which of our numbers to hold against it.
"""

import argparse
import collections
import dataclasses
import importlib.util
import json
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from train.errors import UserError
from train.paths import write_atomically

RECORD = "experiment.json"  # in a run's folder: what was asked and what came of it


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run and its evaluation; `name` ends in `-seedN` where seeds are compared."""

  name: str
  config: str  # configs/NAME.py:arg=value
  changes: Mapping[str, object] = dataclasses.field(default_factory=dict)  # --config.KEY=VALUE
  split: str = "test"
  checkpoint: str = "best"
  metrics: Sequence[str] = ("accuracy",)  # of results.json, for the table


def every(steps: int) -> dict[str, int]:
  """Changes: loss, score and checkpoint after so many steps each."""
  keys = ("evaluate.every", "evaluate.decode_every", "checkpoint.every")
  return dict.fromkeys(keys, steps)


def commands(run: Run, workdir: pathlib.Path) -> list[list[str]]:
  """Train, then evaluate."""
  python = [sys.executable, "-m"]
  changes = [f"--config.{key}={value}" for key, value in run.changes.items()]
  train = [*python, "train.main", "--config", run.config, "--workdir", str(workdir), *changes]
  evaluate = [*python, "train.evaluate", "--workdir", str(workdir), "--split", run.split]
  return [train, [*evaluate, "--checkpoint", run.checkpoint]]


def record_of(run: Run, workdir: pathlib.Path) -> dict | None:
  """`results` and `seconds` of exactly this run; None where it has not come so far."""
  try:
    kept = json.loads((workdir / RECORD).read_text(encoding="utf-8"))
  except OSError:
    return None
  return kept if kept["asked"] == asked(run) else None


def asked(run: Run) -> dict:
  """What makes a run another one, as JSON has it."""
  names = ("config", "changes", "split", "checkpoint")
  return json.loads(json.dumps({name: getattr(run, name) for name in names}))


def execute(run: Run, workdir: pathlib.Path) -> bool:
  """Trains and evaluates, and keeps the results beside what was asked; False if that failed. The
  seconds of a run that goes on are not told: nobody knows those of its beginning."""
  began = None if workdir.exists() else time.monotonic()
  for command in commands(run, workdir):
    print("$ " + pasted(command), flush=True)
    process = subprocess.Popen(command)
    try:
      process.wait()
    except KeyboardInterrupt:
      process.wait()  # it saves
      raise
    if process.returncode:
      return False
  results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
  seconds = None if began is None else round(time.monotonic() - began, 1)
  record = dict(asked=asked(run), results=results, seconds=seconds)
  write_atomically(workdir / RECORD, json.dumps(record) + "\n")
  return True


def pasted(command: Sequence[str]) -> str:
  """The command as a person would type it."""
  return shlex.join(["python", *command[1:]])


def table(runs: Sequence[Run], root: pathlib.Path) -> str:
  """Mean and spread (lowest to highest) over seeds of each run's metrics, and mean seconds of
  training and evaluation together, start and compilation included, in Markdown."""
  groups = collections.defaultdict(list)
  for run in runs:
    if (found := record_of(run, root / run.name)) is not None:
      groups[re.sub(r"-seed\d+$", "", run.name), tuple(run.metrics)].append(found)
  lines = [
    "| run | metric | mean | lowest to highest | seeds | seconds |",
    "|---|---|---|---|---|---|",
  ]
  for (name, metrics), found in groups.items():
    known = [one["seconds"] for one in found if one.get("seconds") is not None]
    seconds = f"{statistics.fmean(known):.0f}" if known else ""
    for metric in metrics:
      values = [one["results"][metric] for one in found]
      ends = f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
      mean = statistics.fmean(values)
      lines.append(f"| {name} | {metric} | {mean:.2f} | {ends} | {len(values)} | {seconds} |")
  return "\n".join(lines)


def load(path: str):
  """The experiment file as a module; UserError if it is none."""
  file = pathlib.Path(path)
  if not file.is_file():
    raise UserError(f"{path}: no such experiment file")
  spec = importlib.util.spec_from_file_location(file.stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "runs"):
    raise UserError(f"{path}: an experiment file defines runs(data, root), this one does not")
  return module


def main(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("experiment")
  parser.add_argument("--data", required=True, help="the folder with the data sets")
  parser.add_argument("--root", default="runs", type=pathlib.Path, help="where workdirs go")
  parser.add_argument("--only", default="", help="a pattern for the names of runs")
  parser.add_argument("--dry_run", action="store_true")
  parser.add_argument("--table", action="store_true")
  args = parser.parse_args(argv)
  module, root = load(args.experiment), args.root / pathlib.Path(args.experiment).stem
  everything = list(module.runs(args.data, root))
  runs = [run for run in everything if re.search(args.only, run.name)]
  if not runs:
    raise UserError(f"--only {args.only!r}: no run of {args.experiment} has such a name")
  if args.dry_run:
    for run in runs:
      for command in commands(run, root / run.name):
        print("$ " + pasted(command))
    return
  failed = []
  for run in [] if args.table else runs:
    if record_of(run, root / run.name) is not None:
      continue
    # a run that starts from another waits for its end: half of it would give other numbers
    waits = [
      one.name
      for one in everything
      if {f"{word}={root / one.name}" for word in ("init", "tokenizer")}
      & set(re.split("[:,]", run.config))
      and record_of(one, root / one.name) is None
    ]
    if waits:
      print(f"{run.name}: left out, as {waits[0]} is not finished", flush=True)
    if waits or not execute(run, root / run.name):
      failed.append(run.name)
  print(table(runs, root))
  print(getattr(module, "EXPECTED", ""))
  if failed:
    raise UserError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")


if __name__ == "__main__":
  from train.cli import run

  run(main)
