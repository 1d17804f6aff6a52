"""python -m experiments.search experiments/scan_search.py [--scale small] [--trials 20] [--jobs 2]

Searches for the settings with the best validation metric, as SEARCH of an experiment file
(space.Search) defines. Optuna proposes them (TPE). Each trial is a run of train.main in
ROOT/NAME/SCALE/search/trials/N, and trials that fall behind others are stopped early.

The same command on several machines with one --storage joins the study, until it has --trials
finished or pruned trials altogether. Interrupted trials are resumed: after kill -9 of a worker
another one continues its trial in the same folder, --grace seconds later. --storage is a SQLite
file beside the trials by default, or any Optuna storage URL, or journal:FILE for a file system
that several machines share. --report prints the results so far and starts no trial.
"""

import argparse
import importlib.util
import subprocess
import sys
import time

import jax

from experiments.tools import runs, space
from experiments.tools.launch import launchers, results
from train import resolve
from train.cluster.signals import StopSignal
from train.common import entry
from train.common.entry import INTERRUPTED, TERMINATED
from train.common.errors import UserError


def main(argv, start=launchers.start) -> int:
  """Returns the exit status. `start` starts a training, as launchers.start does."""
  parser = entry.make_parser(__doc__)
  parser.add_argument("experiment", help="an experiment file that defines SEARCH")
  parser.add_argument("--data", default="", help="the folder with the data sets")
  parser.add_argument("--root", default="runs", type=runs.folder, help="the folder of all runs")
  parser.add_argument("--scale", default="small", choices=runs.SCALES, help=runs.SCALE_HELP)
  parser.add_argument("--storage", help="an Optuna storage URL, or journal:FILE")
  parser.add_argument("--trials", type=int, help="finished or pruned, of all workers together")
  parser.add_argument("--jobs", type=int, default=1, help="workers of this command")
  parser.add_argument("--grace", type=float, default=120, help="seconds a worker may be silent")
  parser.add_argument("--report", action="store_true", help="print results, start no trial")
  parser.add_argument("--one_of_jobs", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if importlib.util.find_spec("optuna") is None:
    raise UserError("a search needs Optuna: pip install -r requirements-experiments.txt")
  from experiments.tools.search import findings, study, worker

  jax.config.update("jax_platforms", "cpu")  # the trials need the accelerators
  experiment = runs.load(args.experiment, args.scale)
  search = experiment.search
  if not isinstance(search, space.Search):
    raise UserError(f"{args.experiment}: has no SEARCH, a space.Search, nor such a search(scale)")
  if not args.data and "{data}" in search.run.config:
    raise UserError("--data is missing: the folder with the data sets")
  paths = results.Paths(args.data, args.root / experiment.name / experiment.scale)
  text, folder = paths.config(search.run), paths.root / "search"
  most = search.trials if args.trials is None else args.trials
  if min(most, args.jobs) < 1 or args.grace <= 0:
    raise UserError("--trials and --jobs must be at least 1, and --grace above 0")
  url = args.storage or f"sqlite:///{folder.absolute()}/study.db"
  if args.report and not args.storage and not (folder / "study.db").exists():
    raise UserError(f"{folder}: holds no study; start the search first")
  if args.report or args.one_of_jobs:
    cfg = resolve.load(text, runs.overrides(search.run))
  else:
    cfg = space.check(search, text)
    folder.mkdir(parents=True, exist_ok=True)
  steps = (cfg.evaluate.decode_every or cfg.evaluate.every, cfg.steps)
  with study.storage_errors(url):
    name, storage = f"{experiment.name}-{experiment.scale}", study.open_storage(url)
    known = study.open_study(name, search, storage, steps, make=not args.report)
    status = 0
    if args.jobs > 1 and not args.report:
      command = [sys.executable, "-m", "experiments.search", *argv, "--jobs", "1", "--one_of_jobs"]
      status = run_workers(command, args.jobs)
    elif not args.report:
      heartbeats = study.Heartbeats(args.grace)
      status = worker.Worker(known, search, paths, cfg, most, heartbeats, start).work()
    if not args.one_of_jobs and status not in (INTERRUPTED, TERMINATED):
      findings.report(known, search, paths)
  return status


def run_workers(command, jobs: int) -> int:
  """Runs the command in `jobs` processes, each with its share of cores and GPUs; returns the
  highest exit status, or that of a signal."""
  with StopSignal(lambda _: None) as stop:
    processes = []
    for number in range(jobs):
      slot = launchers.Slot(number, jobs)
      bound = launchers.bind_to_parent(command, slot.cores)
      processes.append(subprocess.Popen(bound, env=slot.environment))
    while not stop.status and any(process.poll() is None for process in processes):
      time.sleep(0.2)
    if stop.status:
      for process in processes:
        process.terminate()  # Ctrl-C has reached them already, and this changes nothing then
    statuses = [abs(process.wait()) for process in processes]
  return stop.status or max(statuses)


if __name__ == "__main__":
  from train.common.entry import run

  run(main)
