"""python -m experiments.run experiments/NAME.py --data DIR [--root runs] [--only PATTERN]

Runs what an experiment file lists: each is trained and evaluated by commands that could be pasted.
What is finished is skipped and what was interrupted goes on, so the same command is started again
after anything. A run that starts from another's weights waits for it.

--dry_run prints the commands, --report writes the report of what there is (report.md and .html
beside copies of the results under experiments/results, and RESULTS.md), --check compares with the
paper's numbers and exits 1 where one is outside its tolerance. Neither starts anything.
"""

import argparse
import pathlib
import re
import sys
import time

from experiments.tools import runs
from experiments.tools.launch import launchers, live, results
from experiments.tools.report import check, markdown, report, tables
from train import resolve
from train.cluster.signals import StopSignal
from train.common import entry
from train.common.errors import UserError

LAUNCHERS = ("local", "slurm", "print")


def main(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("experiment")
  parser.add_argument("--data", help="the folder with the data sets")
  parser.add_argument("--root", default="runs", type=pathlib.Path, help="where workdirs go")
  parser.add_argument("--scale", default="small", choices=runs.SCALES)
  parser.add_argument("--only", default="", help="a pattern for the names of runs")
  parser.add_argument("--launcher", default="local", choices=LAUNCHERS)
  parser.add_argument("--jobs", type=int, default=1, help="how many runs at once")
  parser.add_argument("--slurm", default="", help="submitit's settings: timeout_min=600,...")
  parser.add_argument("--dry_run", action="store_true")
  parser.add_argument("--report", action="store_true")
  parser.add_argument("--check", action="store_true")
  args = parser.parse_args(argv)
  experiment = runs.load(args.experiment, args.scale)
  wanted = [run for run in experiment.runs if re.search(args.only, run.name)]
  if not wanted:
    raise UserError(f"--only {args.only!r}: no run of {args.experiment} has such a name")
  place = results.Place(args.data or "DATA", args.root / experiment.name / experiment.scale)
  if args.report or args.check:
    return _told(experiment, place, args)
  if args.data is None and any("{data}" in run.config for run in wanted):
    raise UserError("--data is missing: the folder with the data sets")
  check_configs(wanted, place)
  if args.dry_run or args.launcher == "print":
    for run in wanted:
      for command in launchers.commands(run, place):
        print(launchers.pasted(command))
    return 0
  done = {
    run.name for run in experiment.runs if results.record_of(run, place.workdir(run)) is not None
  }
  left = [run for run in wanted if run.name not in done]
  if args.launcher == "slurm":
    launchers.slurm(left, done, place, args.jobs, args.slurm, experiment.name)
    return 0
  ended = _here(launchers.Local(left, done, place, args.jobs), experiment, wanted, place)
  markdown.show(
    tables.of_runs([one for one in results.collect(experiment, place) if one.run in wanted])
  )
  if interrupted := [
    name for name, how in ended.items() if how in ("interrupted", results.NOT_BEGUN)
  ]:
    print(f"{', '.join(interrupted)}: the same command goes on")
    return entry.INTERRUPTED
  if failed := {name: how for name, how in ended.items() if how != "finished"}:
    told = "\n".join(f"{name}: {how}" for name, how in failed.items())
    raise UserError(f"{len(failed)} of {len(wanted)} runs failed:\n{told}")
  return 0


def check_configs(wanted, place) -> None:
  """UserError where an override names no key or has another type, before anything is started. A
  config that reads a run which is not there yet is checked when that run is finished."""
  for run in wanted:
    if all((place.root / name / "config.json").is_file() for name in run.needs()):
      try:
        resolve.load(place.config(run), runs.overrides(run))
      except UserError as error:
        raise UserError(f"{run.name}: {error}") from error


def _here(local, experiment, wanted, place):
  """Runs on this machine, with a table that lives; how each ended. Ctrl-C and SIGTERM let what goes
  on save; a second Ctrl-C ends it at once."""
  with StopSignal(local.stop), live.Screen(local, wanted, place) as screen:
    while local.turn():
      screen.show()
      time.sleep(0.5)
    screen.show()
  return local.ended


def _told(experiment, place, args):
  found = results.collect(experiment, place)
  if args.report:
    found = results.keep(experiment, found)
    for path in report.write(experiment, found):
      print(path)
  verdicts = check.verdicts(experiment.expected, found)
  tabled = check.Tables(verdicts)
  for table in tabled.lists():
    markdown.show(tables.text(table) + "\n")
  for number, note in enumerate(tabled.notes, 1):
    print(f"[{number}] {note}")
  outside = [one.name for one in verdicts if one.missed]
  if args.check and outside:
    print(f"outside its tolerance, or not run: {', '.join(outside)}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  entry.run(main)
