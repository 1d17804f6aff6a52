"""Reads trained runs from their folders, to compare them."""

import dataclasses
import datetime
import functools
import hashlib
import itertools
import math
import os
import statistics
from collections.abc import Sequence

from ml_collections import ConfigDict

from train import tasks
from train.common import json_files, paths
from train.common.errors import UserError, as_user_error
from train.evaluation import EarlyStopping, prefixed
from train.record import workdir
from train.record.writer import FIXED, read_metrics

OF_LABELS = ("classification", "tagging")  # their losses know no vocabulary
# The fields of a start in run.json that are read here
FIELDS = dict(time=str, devices=list[str], data=dict[str, str])


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """A run, read from its folder, to which nothing is written."""

  path: paths.Path
  name: str  # short and unique among the runs that are compared
  cfg: ConfigDict
  starts: list[dict]  # of run.json
  times: list[float]  # of the starts, in seconds since 1970
  lines: list[dict]  # of metrics.jsonl

  @property
  def split(self) -> str:
    """Returns the validation split."""
    return self.cfg.evaluate.split

  def of_split(self, split: str) -> list[dict]:
    """Returns the lines of metrics.jsonl of a split."""
    return [line for line in self.lines if line["split"] == split]

  @property
  def steps(self) -> int:
    return max((line["step"] for line in self.lines), default=0)

  @property
  def unfinished(self) -> bool:
    """Returns whether steps are left although early stopping is not due."""
    limit = self.cfg.patience if "patience" in self.cfg else 0  # older runs have no such key
    stopping = EarlyStopping(limit, self.cfg.checkpoint.best_metric, self.cfg.checkpoint.best_mode)
    for line in self.of_split(self.split):
      stopping.add(line)
    return self.steps < self.cfg.steps and not stopping.due

  @property
  def state(self) -> str:
    """Returns finished, stopped early or unfinished, and after which step."""
    if self.steps >= self.cfg.steps:
      return "finished"
    state = "UNFINISHED" if self.unfinished else "stopped early"
    return f"{state}: {self.steps:,} of {self.cfg.steps:,} steps"

  @functools.cached_property
  def best(self) -> tuple[float, int] | None:
    """Returns the best validation value of checkpoint.best_metric, and its step."""
    metric, lines = self.cfg.checkpoint.best_metric, self.of_split(self.split)
    pairs = [(x[metric], x["step"]) for x in lines if math.isfinite(x.get(metric, math.nan))]
    best = max if self.cfg.checkpoint.best_mode == "max" else min
    return best(pairs, key=lambda pair: pair[0], default=None)

  @functools.cached_property
  def _by_start(self) -> dict[int, list[dict]]:
    """Returns the lines that each start wrote, by its number."""
    by_start, number = {}, 0
    for line in self.lines:
      # where a clock was set back, a line belongs to no earlier start than the line before it
      number = max(number, sum(time <= line["time"] for time in self.times) - 1)
      by_start.setdefault(number, []).append(line)
    return by_start

  @functools.cached_property
  def seconds(self) -> list[float]:
    """Returns the seconds of training up to each line: loading, compiling and evaluation are
    included, the time between two starts is not."""
    seconds = [0.0]
    for number, lines in self._by_start.items():
      began = self.times[number] if self.times else lines[0]["time"]
      before = seconds[-1]
      for line in lines:
        seconds.append(max(before + line["time"] - began, seconds[-1]))
    return seconds[1:]

  @functools.cached_property
  def tokens(self) -> list[float]:
    """Returns the tokens seen up to each line: positions without padding; NaN where unknown."""
    task = self.cfg.task
    side = "target_len" if "target_len" in task and task.target_len else "source_len"
    positions = self.cfg.batch_size * task[side]  # of a step
    tokens, before, began, share = [], 0.0, 0, math.nan
    for lines in self._by_start.values():
      for line in lines:
        share = line.get("padding_share", share)  # in the batches of this start
        tokens.append(before + (line["step"] - began) * positions * (1 - share))
      before, began = tokens[-1], lines[-1]["step"]
    return tokens

  def median(self, metric: str) -> float | None:
    """Returns the median of a metric over training's lines; None where no line has it."""
    values = [line[metric] for line in self.of_split("train") if metric in line]
    return statistics.median(values) if values else None

  def highest(self, *metrics: str) -> float | None:
    """Returns the highest value of the metrics in all lines; None where no line has one."""
    values = [line[name] for line in self.lines for name in metrics if name in line]
    return max(values, default=None)

  def metrics(self) -> list[str]:
    """Returns the metrics of validation in their order, without its seconds."""
    names = dict.fromkeys(name for line in self.of_split(self.split) for name in line)
    return [name for name in names if name not in {*FIXED, "seconds"}]

  def evaluations(self, split: str) -> dict[str, dict]:
    """Returns the results of train.evaluate on a split by checkpoint and decoding, newest last."""
    files = self.path.glob("evaluations/*.json")
    files = sorted(files, key=lambda file: (file.stat().st_mtime, file.name))
    every = {file.stem.removeprefix(f"{split}-"): json_files.read(file) for file in files}
    return {name: results for name, results in every.items() if results.get("split") == split}

  def outputs(self, split: str, name: str) -> dict[str, paths.Path]:
    """Returns part -> file of an evaluation's outputs; the name of the only part is ""."""
    stems = {part: prefixed(part, f"{split}-{name}", "-") for part in task_settings(self.cfg)}
    files = {part: self.path / "evaluations" / f"{stem}.jsonl" for part, stem in stems.items()}
    return {part: file for part, file in files.items() if file.is_file()}


def read(folders: Sequence[str | os.PathLike]) -> list[TrainedRun]:
  """Reads two or more runs; raises UserError for a folder that is given twice or holds no run."""
  folders = list(map(paths.of, folders))
  if len(folders) < 2:
    raise UserError(f"{len(folders)} run to compare: give two folders or more")
  resolved = [path.resolve() for path in folders]
  for index, path in enumerate(folders):
    if (first := resolved.index(resolved[index])) < index:
      raise UserError(f"{path} is given twice (first as {folders[first]}): a run equals itself")
  runs = []
  for path, name in zip(folders, _names(resolved)):
    cfg, starts = workdir.load_config(path), workdir.starts(path)
    for start in starts:
      json_files.check(start, path / "run.json", FIELDS)
    with as_user_error(f"{path / 'run.json'}: times that can't be read"):
      times = [datetime.datetime.fromisoformat(start["time"]).timestamp() for start in starts]
    lines = read_metrics(path) if (path / "metrics.jsonl").exists() else []
    runs.append(TrainedRun(path, name, cfg, starts, times, lines))
  return runs


def by_vocabulary(runs: Sequence[TrainedRun]) -> list[list[TrainedRun]]:
  """Groups runs whose losses and perplexities can be compared: those of one task with labels, and
  others with the same tokenizer.json, or without one the same settings of their tokenizers."""
  groups = {}
  for run in runs:
    tokenizers = [task.get("tokenizer") for task in task_settings(run.cfg).values()]
    key = repr((tokenizers, run.cfg.model.get("vocab_size")))
    if run.cfg.task.name in OF_LABELS:
      key = run.cfg.task.name
    elif (file := run.path / "tokenizer.json").is_file():
      key = hashlib.sha256(file.read_bytes()).hexdigest()
    groups.setdefault(key, []).append(run)
  return list(groups.values())


def _names(folders):
  """Returns the shortest ends of the folders that are all different."""
  for depth in itertools.count(1):
    names = ["/".join(path.parts[-depth:]) for path in folders]
    if len(set(names)) == len(folders):
      return names


def task_settings(cfg: ConfigDict) -> dict[str, dict]:
  """Returns the task's settings with its defaults; a mixture's by part, "" for its main part."""
  task = cfg.task.to_dict()
  parts = {"": task}
  if task["name"] == "mixture":
    parts = {"" if name == task["main"] else name: part for name, part in task["parts"].items()}
  return {name: tasks.defaults(part["name"]) | part for name, part in parts.items()}
