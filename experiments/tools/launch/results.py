"""What came of an experiment's runs: in their folders, and small copies beside the experiment file.

A finished run's folder has a record: what was asked, the evaluations, seconds, code, versions. It
names no folder of this machine, so the copy counts for whoever has the repository alone.
"""

import dataclasses
import itertools
import json
import pathlib
import statistics
from collections.abc import Sequence

from experiments.tools.runs import Estimate, Experiment, Run
from train.common import json_files
from train.common.errors import UserError
from train.common.files import write_atomically
from train.record import provenance
from train.record.workdir import starts as starts_of
from train.record.writer import read_metrics, started_between

RECORD = "experiment.json"  # in a run's folder
NOT_BEGUN = "not begun"


@dataclasses.dataclass(frozen=True)
class Place:
  """Where the data are, and where this experiment's runs go."""

  data: str
  root: pathlib.Path  # ROOT/EXPERIMENT/SCALE

  def workdir(self, run: Run) -> pathlib.Path:
    return self.root / run.name

  def config(self, run: Run) -> str:
    """The config with its folders."""
    return run.config.replace("{data}", self.data).replace("{root}", str(self.root))


@dataclasses.dataclass(frozen=True)
class Found:
  """What there is of a run."""

  run: Run
  record: dict | None  # of a finished one
  metrics: Sequence[dict]  # lines of metrics.jsonl
  state: str  # finished, step 40 of 100, trained, not begun

  @property
  def finished(self) -> bool:
    return self.record is not None

  def value(self, metric: str) -> float | None:
    """Of the evaluation of a split (test/bleu), the median of training lines after the first
    (train/tokens_per_second; train/milliseconds are a step's), or of the record (parameters,
    seconds, steps); None: not known."""
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
  """A training step's, by the clock: median between lines that no evaluation and no start came
  between; None where there are no two such lines."""
  found = []
  for before, line in itertools.pairwise(metrics):
    steps = line["step"] - before["step"]
    on = before["split"] == line["split"] == "train"
    if on and steps > 0 and not started_between(before, line):
      found.append(1000 * (line["time"] - before["time"]) / steps)
  return statistics.median(found) if found else None


def asked(run: Run) -> dict:
  """What makes a run another one, as JSON has it."""
  names = ["config", "changes", "splits", "checkpoint"]
  names += ["topology", "table"] if isinstance(run, Estimate) else []
  return json.loads(json.dumps({name: getattr(run, name) for name in names}))


def record_of(run: Run, workdir: pathlib.Path) -> dict | None:
  """The record of exactly this run; None where it has not come so far, or was another's."""
  file = workdir / RECORD
  kept = json_files.read(file) if file.is_file() else {}
  return kept if kept.get("asked") == asked(run) else None


def write_record(run: Run, workdir: pathlib.Path, results: dict, seconds: float | None) -> None:
  """`results` has what evaluate.py wrote of each split; of it numbers and signatures are kept."""
  if isinstance(run, Estimate):
    made = provenance.describe_start([], "", [run.topology])
    steps, starts = 0, [made | {"parameters": results["plan"]["parameters"]}]
  else:
    starts = starts_of(workdir)
    steps = max((line["step"] for line in read_metrics(workdir)), default=0)
  last = starts[-1]
  record = dict(
    asked=asked(run),
    results={split: _plain(found) for split, found in results.items()},
    seconds=seconds,
    steps=steps,
    parameters=next((one["parameters"] for one in starts if "parameters" in one), None),
    starts=len(starts),
    date=last["time"][:10],
    commit=(last["git"] or {}).get("commit"),
    versions=last["versions"],
    devices=last["devices"],
  )
  write_atomically(workdir / RECORD, json.dumps(record) + "\n")


def _plain(found):
  """Without folders, and without tables by class."""
  kinds = (int, float, str, list)
  skip = ("workdir", "split")
  return {key: x for key, x in found.items() if isinstance(x, kinds) and key not in skip}


def of_folder(run: Run, workdir: pathlib.Path) -> Found:
  """What is in a run's folder, finished or not."""
  record = record_of(run, workdir)
  metrics = read_metrics(workdir) if (workdir / "metrics.jsonl").is_file() else []
  if record is not None:
    return Found(run, record, metrics, "finished")
  if not metrics:
    return Found(run, None, [], NOT_BEGUN)
  step = max(line["step"] for line in metrics)
  total = json_files.read(workdir / "config.json").get("steps", 0)
  state = "trained" if step == total else f"step {step:,} of {total:,}"
  return Found(run, None, metrics, state)


def kept_of(run: Run, folder: pathlib.Path) -> Found | None:
  """The copy of a finished run; None where there is none of exactly this one."""
  file = folder / "records.json"
  record = (json_files.read(file) if file.is_file() else {}).get(run.name)
  if record is None or record["asked"] != asked(run):
    return None
  return Found(run, record, read_metrics(folder / f"{run.name}.jsonl"), "finished")


def collect(experiment: Experiment, place: Place | None) -> list[Found]:
  """What there is of every run: of its folder, or if that is not finished of the copy."""
  found = []
  for run in experiment.runs:
    here = of_folder(run, place.workdir(run)) if place else None
    if here is None or not here.finished:
      copy = kept_of(run, experiment.kept)
      here = copy or here or Found(run, None, [], NOT_BEGUN)
    found.append(here)
  return found


def keep(experiment: Experiment, found: Sequence[Found]) -> list[Found]:
  """Copies of what is finished: records.json, and NAME.jsonl with each run's metrics. Copies of
  runs that the file no longer lists go. What was found, as the copies have it."""
  found = [dataclasses.replace(one, metrics=[*map(_thin, one.metrics)]) for one in found]
  folder = experiment.kept
  folder.mkdir(parents=True, exist_ok=True)
  done = [one for one in found if one.finished]
  for old in folder.glob("*.jsonl"):
    if old.stem not in {one.run.name for one in done}:
      old.unlink()
  for one in done:
    lines = [json.dumps(line) + "\n" for line in one.metrics]
    write_atomically(folder / f"{one.run.name}.jsonl", "".join(lines))
  records = {one.run.name: one.record for one in done}
  text = ",\n".join(f"{json.dumps(name)}: {json.dumps(x)}" for name, x in records.items())
  write_atomically(folder / "records.json", f"{{\n{text}\n}}\n")
  return found


def _thin(line):
  """Six digits are enough for a curve."""
  digits = {key: float(f"{x:.6g}") if isinstance(x, float) else x for key, x in line.items()}
  return digits | {"time": round(line["time"], 2)}


def known_experiments(folder: pathlib.Path) -> list[pathlib.Path]:
  """Experiment files of a folder of which results are kept."""
  names = sorted(path.name for path in (folder / "results").glob("*") if path.is_dir())
  files = [folder / f"{name}.py" for name in names]
  for file in files:
    if not file.is_file():
      told = f"{folder}/results/{file.stem} has results of no experiment"
      raise UserError(f"{told}: rename or remove it")
  return files
