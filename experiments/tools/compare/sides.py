"""What the folder of a run tells of it, to be held beside another's."""

import dataclasses
import datetime
import functools
import math
import os
import pathlib
import statistics
from collections.abc import Sequence

from ml_collections import ConfigDict

from train import tasks
from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.evaluation import EarlyStopping
from train.record import workdir
from train.record.writer import FIXED, read_metrics

# Of each start in run.json, beside what `provenance` reads
FIELDS = dict(time=str, devices=list[str], data=dict[str, str])


@dataclasses.dataclass(frozen=True)
class Side:
  """A run, read from its folder; nothing is written there."""

  path: pathlib.Path
  name: str  # short, and no other side's
  cfg: ConfigDict
  starts: list[dict]  # of run.json
  lines: list[dict]  # of metrics.jsonl

  @property
  def split(self) -> str:
    """The split that training was evaluated on."""
    return self.cfg.evaluate.split

  def of_split(self, split: str) -> list[dict]:
    return [line for line in self.lines if line["split"] == split]

  @property
  def steps(self) -> int:
    return max((line["step"] for line in self.lines), default=0)

  @property
  def unfinished(self) -> bool:
    return self.steps < self.cfg.steps and not self._out_of_patience

  @property
  def state(self) -> str:
    """finished, stopped early or unfinished, and after which step."""
    if self.steps >= self.cfg.steps:
      return "finished"
    state = "UNFINISHED" if self.unfinished else "stopped early (patience)"
    return f"{state}: {self.steps:,} of {self.cfg.steps:,} steps"

  @property
  def _out_of_patience(self) -> bool:
    limit = self.cfg.patience if "patience" in self.cfg else 0  # older runs have none
    stopping = EarlyStopping(limit, self.cfg.checkpoint.best_metric, self.cfg.checkpoint.best_mode)
    for line in self.of_split(self.split):
      stopping.add(line)
    return stopping.due

  @functools.cached_property
  def best(self) -> tuple[float, int] | None:
    """The best validation value of the metric that the run was to be good at, and its step."""
    metric, sign = self.cfg.checkpoint.best_metric, 1
    if self.cfg.checkpoint.best_mode == "max":
      sign = -1
    found = [x for x in self.of_split(self.split) if math.isfinite(x.get(metric, math.nan))]
    if not found:
      return None
    line = min(found, key=lambda x: sign * x[metric])
    return line[metric], line["step"]

  @functools.cached_property
  def _of_start(self) -> list[int]:
    """The number of the start that wrote each line."""
    times = [datetime.datetime.fromisoformat(x["time"]).timestamp() for x in self.starts]
    found, last = [], 0
    for line in self.lines:
      # a clock that is set back gives no line to a start before that of the line before
      last = max(last, sum(time <= line["time"] for time in times) - 1)
      found.append(last)
    return found

  @functools.cached_property
  def seconds(self) -> list[float]:
    """Seconds of training up to each line: from each start to its last line that was kept, loading,
    compiling and evaluation included, and what lies between starts left out."""
    found, before, last = [], 0.0, None
    for line, number in zip(self.lines, self._of_start):
      if number != last:
        before, last, began = found[-1] if found else 0.0, number, line["time"]
        if self.starts:
          began = datetime.datetime.fromisoformat(self.starts[number]["time"]).timestamp()
      found.append(max(0.0, before + line["time"] - began, *found[-1:]))
    return found

  @functools.cached_property
  def tokens(self) -> list[float]:
    """Tokens seen up to each line: places in the batches but for the share of padding, which each
    start tells of its own batches; NaN where a run tells none."""
    task = self.cfg.task
    side = "target_len" if "target_len" in task and task.target_len else "source_len"
    places = self.cfg.batch_size * task[side]  # of a step
    found, before, began, last, share = [], 0.0, 0, None, math.nan
    for at, (line, number) in enumerate(zip(self.lines, self._of_start)):
      if number != last:
        last = number
        if at:
          before, began = found[-1], self.lines[at - 1]["step"]
      share = line.get("padding_share", share)
      found.append(before + (line["step"] - began) * places * (1 - share))
    return found

  def median_speed(self) -> float | None:
    """Tokens a second, the median of the log's lines."""
    found = [x["tokens_per_second"] for x in self.of_split("train") if "tokens_per_second" in x]
    return statistics.median(found) if found else None

  def peak_memory(self, where: str) -> float | None:
    """Returns the GB of the "host" or of a "device"; older runs name the host's peak_memory_gb."""
    names = {f"{where}_memory_gb", *(["peak_memory_gb"] if where == "host" else ())}
    return max((line[name] for line in self.lines for name in names & line.keys()), default=None)

  def metrics(self) -> list[str]:
    """What validation tells, in order, but for its seconds."""
    names = dict.fromkeys(name for line in self.of_split(self.split) for name in line)
    return [name for name in names if name not in {*FIXED, "seconds"}]

  def evaluations(self, split: str) -> dict[str, dict]:
    """What train.evaluate found on a split, by checkpoint and way of decoding, the newest last."""
    files = self.path.glob("evaluations/*.json")
    files = sorted(files, key=lambda file: (file.stat().st_mtime, file.name))
    found = {file.stem: json_files.read(file) for file in files}
    found = {
      name.removeprefix(f"{split}-"): results
      for name, results in found.items()
      if results.get("split") == split
    }
    last = self.path / "results.json"
    if last.exists():
      results = json_files.read(last)
      if results.get("split") == split and results not in found.values():
        found["results.json"] = results
    return found

  def outputs(self, split: str, name: str) -> dict[str, pathlib.Path]:
    """The files of an evaluation's outputs; a mixture's by the name of the part."""
    found = {}
    for part in tasks_of(self.cfg):
      stem = f"{part}-{split}-{name}" if part else f"{split}-{name}"
      if (file := self.path / "evaluations" / f"{stem}.jsonl").is_file():
        found[part] = file
    return found


def read(paths: Sequence[str | os.PathLike]) -> list[Side]:
  """The runs in these folders; UserError for fewer than two, for one that is given twice, and for a
  folder that holds no run."""
  paths = [pathlib.Path(path) for path in paths]
  if len(paths) < 2:
    raise UserError(f"{len(paths)} run to compare: give two folders or more")
  seen = {}
  for path in paths:
    if (whole := path.resolve()) in seen:
      raise UserError(f"{path} is given twice (first as {seen[whole]}): a run equals itself")
    seen[whole] = path
  sides = []
  for path, name in zip(paths, _names(list(seen))):
    cfg, starts = workdir.load_config(path), workdir.starts(path)
    for start in starts:
      json_files.check(start, path / "run.json", FIELDS)
    with as_user_error(f"{path / 'run.json'}: times that can't be read"):
      [datetime.datetime.fromisoformat(start["time"]) for start in starts]
    lines = read_metrics(path) if (path / "metrics.jsonl").exists() else []
    sides.append(Side(path, name, cfg, starts, lines))
  return sides


def _names(paths):
  """The shortest ends of the paths that tell them apart."""
  names, depth = [], 0
  while len(set(names)) < len(paths):
    depth += 1
    names = ["/".join(path.parts[-depth:]) for path in paths]
  return names


def tasks_of(cfg: ConfigDict) -> dict[str, dict]:
  """The settings of the task with its defaults; of a mixture those of each part, "" the main."""
  task = cfg.task.to_dict()
  parts = {"": task}
  if task["name"] == "mixture":
    parts = {"" if name == task["main"] else name: part for name, part in task["parts"].items()}
  return {name: tasks.defaults(part["name"]) | part for name, part in parts.items()}
