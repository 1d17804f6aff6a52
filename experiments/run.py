"""python -m experiments.run experiments/NAME.py --data DIR [--root runs] [--only PATTERN]

Runs what an experiment file lists. Each run is trained and evaluated by commands that can be pasted
into a shell. Finished runs are skipped and interrupted ones resumed, so the same command continues
after any interruption. A run that starts from another's weights waits for it.

--dry_run prints the commands. --report writes report.md and copies of the results under
experiments/results, experiments/RESULTS.md, and report.html into the folder of the runs; of an
experiment that README.md does not list, the reports alone, into the folder of the runs; without an
experiment file RESULTS.md alone. --check compares with the paper's numbers and exits 1
where one is outside its tolerance. These three flags start no run.
"""

import pathlib
import re
import shlex
import sys
import time

from experiments.tools import runs
from experiments.tools.launch import launchers, live, results
from experiments.tools.report import check, report, tables
from train import resolve, tasks
from train.cluster.signals import StopSignal
from train.common import entry
from train.common.errors import UserError


def main(argv):
  parser = entry.make_parser(__doc__)
  parser.add_argument("experiment", nargs="?", help="an experiment file; --report may omit it")
  parser.add_argument("--data", help="the folder with the data sets")
  parser.add_argument("--root", default="runs", type=runs.folder, help="the folder of all runs")
  parser.add_argument("--scale", default="small", choices=runs.SCALES, help=runs.SCALE_HELP)
  parser.add_argument("--only", default="", help="a pattern for the names of runs")
  parser.add_argument(
    "--launcher", default="local", choices=("local", "slurm"), help="what starts the runs"
  )
  parser.add_argument("--jobs", type=int, default=1, help="how many runs at once")
  parser.add_argument("--slurm", default="", help="submitit's settings: timeout_min=600,...")
  parser.add_argument("--dry_run", action="store_true", help="print the commands")
  parser.add_argument("--report", action="store_true", help="write the reports")
  parser.add_argument("--check", action="store_true", help="compare with the paper's numbers")
  args = parser.parse_args(argv)
  if args.experiment is None:
    if not args.report:
      parser.error("an experiment file is missing, such as experiments/lake2018_scan.py")
    print(report.write_overview(pathlib.Path(__file__).parent))
    return 0
  experiment = runs.load(args.experiment, args.scale)
  chosen = [run for run in experiment.runs if re.search(args.only, run.name)]
  if not chosen:
    raise UserError(f"--only {args.only!r}: no run of {args.experiment} has such a name")
  paths = results.Paths(args.data or "DATA", args.root / experiment.name / experiment.scale)
  if args.report or args.check:
    return _report(experiment, paths, args)
  if args.data is None and any("{data}" in run.config for run in chosen):
    raise UserError("--data is missing: the folder with the data sets")
  check_configs(chosen, paths)
  if args.dry_run:
    for run in chosen:
      for command in launchers.commands(run, paths):
        print(shlex.join(command))
    return 0
  done = {run.name for run in experiment.runs if results.read_record(run, paths.workdir(run))}
  left = [run for run in chosen if run.name not in done]
  if args.launcher == "slurm":
    launchers.submit(left, done, paths, args.jobs, args.slurm, experiment.name)
    return 0
  local = launchers.Local(left, done, paths, args.jobs)
  # on Ctrl-C and SIGTERM the runs in progress save and end; a second Ctrl-C ends them at once
  with StopSignal(local.stop), live.Screen(local, chosen, paths) as screen:
    while local.update():
      screen.show()
      time.sleep(0.5)
    screen.show()
  outcomes = [outcome for outcome in results.collect(experiment, paths) if outcome.run in chosen]
  tables.show(tables.markdown(tables.rows(outcomes)))
  stopped = [name for name, how in local.ended.items() if how in ("interrupted", results.NOT_BEGUN)]
  if stopped:
    print(f"{', '.join(stopped)}: the same command resumes")
    return entry.INTERRUPTED
  if failed := [f"{name}: {how}" for name, how in local.ended.items() if how != "finished"]:
    raise UserError("\n".join([f"{len(failed)} of {len(chosen)} runs failed:", *failed]))
  return 0


def check_configs(chosen, paths) -> None:
  """Raises UserError where an override has an unknown key or a wrong type, before any run starts.
  A config that reads an unfinished run is checked when that run is finished."""
  for run in chosen:
    if isinstance(run, runs.Derived):
      continue
    if all((paths.root / name / "config.json").is_file() for name in run.dependencies()):
      try:
        cfg = resolve.load(paths.config(run), runs.overrides(run))
        runs.check_metrics(run, tasks.metric_names(cfg.task.to_dict()))
      except UserError as error:
        raise UserError(f"{run.name}: {error}") from error


def _report(experiment, paths, args):
  outcomes = results.collect(experiment, paths)
  if args.report:
    if experiment.listed:
      outcomes = results.save_copies(experiment, outcomes)
    for path in report.write(experiment, outcomes, paths.root):
      print(path)
  verdicts = check.verdicts(experiment.expected, outcomes)
  tabulated, notes = check.tabulate(verdicts)
  for table in tabulated:
    tables.show(tables.markdown(table) + "\n")
  for number, note in enumerate(notes, 1):
    print(f"[{number}] {note}")
  outside = [verdict.name for verdict in verdicts if verdict.missed]
  if args.check and outside:
    print(f"outside the tolerance, or not run: {', '.join(outside)}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  entry.run(main)
