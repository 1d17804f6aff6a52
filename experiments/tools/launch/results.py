"""Reads the outcomes of an experiment's runs, from their folders or from committed copies.

The record of a finished run holds the request, the evaluations, seconds, code and versions, and
names no folder of this machine, so its copy is valid wherever the repository is.
"""

import dataclasses
import itertools
import json
import pathlib
import statistics
from collections.abc import Sequence

from experiments.tools.launch import sizes
from experiments.tools.runs import Derived, Estimate, Experiment, Run
from train.common import json_files
from train.common.files import write_atomically
from train.record import older, provenance, workdir
from train.record.writer import read_metrics, started_between

RECORD = "experiment.json"  # in a run's folder
NOT_BEGUN = "not begun"


@dataclasses.dataclass(frozen=True)
class Paths:
  """The folder of the data sets, and the folder of this experiment's runs."""

  data: str
  root: pathlib.Path  # ROOT/EXPERIMENT/SCALE

  def workdir(self, run: Run) -> pathlib.Path:
    """Returns the folder of a run."""
    return self.root / run.name

  def config(self, run: Run) -> str:
    """Returns the run's config with {data} and {root} replaced by the folders."""
    return run.config.replace("{data}", self.data).replace("{root}", str(self.root))


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The state and the results of a run."""

  run: Run
  record: dict | None  # of a finished run
  metrics: Sequence[dict]  # lines of metrics.jsonl
  state: str  # finished, step 40 of 100, trained, not begun

  @property
  def finished(self) -> bool:
    """Returns whether the run is trained and evaluated."""
    return self.record is not None

  def value(self, metric: str) -> float | None:
    """Returns a number of the run by its name in runs.Value; None where it is not known."""
    if self.record is None:
      return None
    split, slash, name = metric.partition("/")
    if not slash:
      return self.record.get(metric)
    if split in self.record["results"]:
      return self.record["results"][split].get(name)
    if metric == "train/milliseconds":
      return step_milliseconds(self.metrics)
    lines = [line[name] for line in self.metrics if line["split"] == split and name in line]
    return statistics.median(lines[1:] or lines) if lines else None


def step_milliseconds(metrics: Sequence[dict]) -> float | None:
  """Returns the wall time of a training step, the median over pairs of log lines without an
  evaluation or a restart between them; None where there is no such pair."""
  times = [
    1000 * (line["time"] - before["time"]) / (line["step"] - before["step"])
    for before, line in itertools.pairwise(metrics)
    if before["split"] == line["split"] == "train"
    and before["step"] < line["step"]
    and not started_between(before, line)
  ]
  return statistics.median(times) if times else None


def request(run: Run) -> dict:
  """Returns the fields that distinguish a run from others, as JSON holds them."""
  names = ["config", "changes", "splits", "checkpoint"]
  names += ["topology", "table"] if isinstance(run, Estimate) else []
  names += ["made", "out"] if isinstance(run, Derived) else []
  return json.loads(json.dumps({name: getattr(run, name) for name in names}))


def read_record(run: Run, folder: pathlib.Path) -> dict | None:
  """Returns the record of exactly this run; None where it is unfinished or another run's."""
  file = folder / RECORD
  record = json_files.read(file) if file.is_file() else {}
  return _present(record) if record.get("asked") == request(run) else None


def _present(record: dict) -> dict:
  """Returns a record whose results have the present names and units of metrics."""
  results = {split: older.metrics(values) for split, values in record["results"].items()}
  return record | dict(results=results)


def write_record(run: Run, folder: pathlib.Path, results: dict, seconds: float | None) -> None:
  """Writes the record of a finished run; `results` maps splits to what train.evaluate wrote."""
  if isinstance(run, Estimate):
    start = provenance.describe_start([], "", [run.topology])
    steps, starts = 0, [start | {"parameters": results["plan"]["parameters"]}]
  elif isinstance(run, Derived):
    steps, starts = 0, workdir.starts(folder / run.out) if (folder / run.out).is_dir() else []
    starts = starts or [provenance.describe_start([], "", [])]
  else:
    starts = workdir.starts(folder)
    steps = max((line["step"] for line in read_metrics(folder)), default=0)
  last = starts[-1]
  record = dict(
    asked=request(run),
    results={split: _plain(values) for split, values in results.items()},
    **_sizes(run, folder),
    seconds=seconds,
    steps=steps,
    parameters=next((start["parameters"] for start in starts if "parameters" in start), None),
    starts=len(starts),
    date=last["time"][:10],
    commit=(last["git"] or {}).get("commit"),
    versions=last["versions"],
    devices=last["devices"],
  )
  write_atomically(folder / RECORD, json.dumps(record) + "\n")


def _plain(values):
  """Returns the values without folders and tables of classes."""
  kept = {key: x for key, x in values.items() if isinstance(x, (int, float, str, list))}
  return {key: x for key, x in kept.items() if key not in ("workdir", "split")}


def _sizes(run: Run, folder: pathlib.Path) -> dict[str, int]:
  out = folder / run.out if isinstance(run, Derived) else folder
  return {} if isinstance(run, Estimate) else sizes.sizes(out)


def read_folder(run: Run, folder: pathlib.Path) -> Outcome:
  """Returns the outcome of a run from its folder, finished or not."""
  record = read_record(run, folder)
  metrics = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
  state = NOT_BEGUN if record is None else "finished"
  if metrics and record is None:
    step = max(line["step"] for line in metrics)
    total = json_files.read(folder / "config.json").get("steps", 0)
    state = "trained" if step == total else f"step {step:,} of {total:,}"
  return Outcome(run, record, metrics, state)


def read_copy(run: Run, folder: pathlib.Path) -> Outcome | None:
  """Returns the outcome of a run from its committed copy; None where there is none."""
  file = folder / "records.json"
  record = (json_files.read(file) if file.is_file() else {}).get(run.name, {})
  if record.get("asked") != request(run):
    return None
  return Outcome(run, _present(record), read_metrics(folder / f"{run.name}.jsonl"), "finished")


def collect(experiment: Experiment, paths: Paths | None) -> list[Outcome]:
  """Returns the outcome of each run, from its folder or, if that is unfinished, from its copy."""
  outcomes = []
  for run in experiment.runs:
    outcome = read_folder(run, paths.workdir(run)) if paths else Outcome(run, None, [], NOT_BEGUN)
    outcomes.append(outcome if outcome.finished else read_copy(run, experiment.copies) or outcome)
  return outcomes


def save_copies(experiment: Experiment, outcomes: Sequence[Outcome]) -> list[Outcome]:
  """Writes records.json and NAME.jsonl, the metrics, of finished runs beside the experiment file.

  Removes those of runs that the file no longer lists; returns the outcomes as the copies hold them.
  """
  outcomes = [dataclasses.replace(x, metrics=[*map(_round, x.metrics)]) for x in outcomes]
  folder = experiment.copies
  folder.mkdir(parents=True, exist_ok=True)
  done = {outcome.run.name: outcome for outcome in outcomes if outcome.finished}
  for old in folder.glob("*.jsonl"):
    if old.stem not in done:
      old.unlink()
  for name, outcome in done.items():
    lines = [json.dumps(line) + "\n" for line in outcome.metrics]
    write_atomically(folder / f"{name}.jsonl", "".join(lines))
  text = ",\n".join(f"{json.dumps(name)}: {json.dumps(x.record)}" for name, x in done.items())
  write_atomically(folder / "records.json", f"{{\n{text}\n}}\n")
  return outcomes


def _round(line):
  """Rounds to six digits, which are enough for a curve."""
  digits = {key: float(f"{x:.6g}") if isinstance(x, float) else x for key, x in line.items()}
  return digits | {"time": round(line["time"], 2)}
