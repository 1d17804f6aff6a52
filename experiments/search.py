"""python -m experiments.search experiments/scan_search.py [--scale small] [--trials 20] [--jobs 2]

Searches for the settings that are best by a metric of validation, as SEARCH of an experiment file
(space.Search) says: Optuna proposes (TPE), each trial is a plain run of train.main in
ROOT/NAME/SCALE/search/trials/N, and one that is worse than others were by then is stopped early.

Start the same command on as many machines as there are, with one --storage: they share the study
until it has --trials finished or pruned trials altogether. What is interrupted, however, goes on:
after kill -9 of a worker another one takes its trial up in the same folder, --grace seconds later.
--storage is a SQLite file beside the trials by default, any Optuna storage URL, or journal:FILE for
a file system of several machines. --report tells what is known so far and starts nothing.
"""

import argparse
import importlib.util
import os
import pathlib
import subprocess
import sys
import time

from experiments.tools import runs, space
from experiments.tools.launch import launchers, results
from train.cluster.signals import StopSignal
from train.common.entry import INTERRUPTED, TERMINATED
from train.common.errors import UserError

REQUIREMENTS = "requirements-experiments.txt"
GRACE_SECONDS = 120


def search_of(experiment: runs.Experiment) -> space.Search:
  """SEARCH of the file, or what its search(scale) says."""
  module = experiment.module
  found = module.search(experiment.scale) if hasattr(module, "search") else None
  found = found or getattr(module, "SEARCH", None)
  if not isinstance(found, space.Search):
    raise UserError(
      f"{module.__file__}: has no SEARCH, a space.Search, and no search(scale) that gives one"
    )
  return found


def main(argv, start=None) -> int:
  """The exit status. `start` begins a training, as worker.start does."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  parser.add_argument("experiment")
  parser.add_argument("--data", default="", help="the folder with the data sets")
  parser.add_argument("--root", default="runs", type=pathlib.Path, help="where workdirs go")
  parser.add_argument("--scale", default="small", choices=runs.SCALES)
  parser.add_argument("--storage", help="an Optuna storage URL, or journal:FILE")
  parser.add_argument("--trials", type=int, help="finished or pruned, of all workers together")
  parser.add_argument("--jobs", type=int, default=1, help="workers of this command")
  parser.add_argument(
    "--grace", type=float, default=GRACE_SECONDS, help="seconds until a silent worker is dead"
  )
  parser.add_argument("--report", action="store_true", help="tell, and start nothing")
  parser.add_argument("--one_of_jobs", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if importlib.util.find_spec("optuna") is None:
    raise UserError(f"a search needs Optuna: pip install -r {REQUIREMENTS}")
  from experiments.tools.search import findings, study, worker

  space.without_accelerator()
  experiment = runs.load(args.experiment, args.scale)
  search = search_of(experiment)
  root = args.root / experiment.name / experiment.scale
  if not args.data and "{data}" in search.run.config:
    raise UserError("--data is missing: the folder with the data sets")
  place, folder = results.Place(args.data, root), root / "search"
  text = place.config(search.run)
  most = search.trials if args.trials is None else args.trials
  if min(most, args.jobs) < 1 or args.grace <= 0:
    raise UserError("--trials and --jobs are at least 1, --grace is above 0")
  url = args.storage or study.default_storage(folder)
  if args.report and not args.storage and not (folder / "study.db").exists():
    raise UserError(f"{folder}: nothing was searched so far")
  cfg = None
  if not args.report and not args.one_of_jobs:
    cfg = space.check(search, text)
    folder.mkdir(parents=True, exist_ok=True)
  cfg = cfg or resolve.load(text, space.overrides(search, {}))
  steps = (cfg.evaluate.decode_every or cfg.evaluate.every, cfg.steps)
  with study.told_of_storage(url):
    storage = study.open_storage(url)
    name = f"{experiment.name}-{experiment.scale}"
    known = study.open_study(name, search, storage, steps, make=not args.report)
    status = 0
    if args.jobs > 1 and not args.report:
      words = [sys.executable, "-m", "experiments.search", *argv, "--jobs", "1", "--one_of_jobs"]
      status = several(launchers.leashed(words), args.jobs)
    elif not args.report:
      plan = worker.Plan(search, place, cfg, most, args.grace, start or worker.start)
      status = worker.work(known, plan)
    if not args.one_of_jobs and status not in (INTERRUPTED, TERMINATED):
      findings.report(known, search, place)
  return status


def several(command, jobs: int) -> int:
  """Waits for `jobs` processes of the command, each with its share of cores and GPUs; the highest
  exit status."""
  with StopSignal(lambda _: None) as stop:
    processes = []
    for slot in [launchers.Slot(number, jobs) for number in range(jobs)]:
      with slot.taken():
        processes.append(subprocess.Popen(command, env={**os.environ, **slot.environment}))
    told = False
    while any(process.poll() is None for process in processes):
      if stop.status and not told:
        told = True
        for process in processes:
          process.terminate()  # Ctrl-C has reached them already, and this changes nothing then
      time.sleep(0.2)
  return stop.status or max(abs(process.returncode) for process in processes)


if __name__ == "__main__":
  from train.common.entry import run

  run(main)
