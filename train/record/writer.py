"""Writes what a run logs: metrics.jsonl, the loggers, a progress bar or lines, curves.png."""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
import types
from collections.abc import Mapping, Sequence

from absl import logging

from train.common import json_files, paths
from train.common.errors import UserError
from train.common.files import write_atomically
from train.record import curves, older
from train.record.loggers.registry import Loggers

# The fields of every line of metrics.jsonl, with their types; time is in seconds since 1970.
FIXED = dict(step=int, split=str, time=float)
# The first metrics on the screen in their order; the others follow. SHORT: names there.
FIRST = ("loss", "accuracy", "token_accuracy", "bleu", "chrf", "exact_match")
FIRST += ("tokens_per_second", "step_ms", "mfu", "learning_rate", "grad_norm", "perplexity")
SHORT = dict(tokens_per_second="tokens/s", step_ms="ms/step", learning_rate="lr", perplexity="ppl")
COLUMNS = 110  # a training line leaves out the last metrics beyond it


class Writer(contextlib.AbstractContextManager):
  """Writes a run's metrics to files, loggers and screen; only the primary process writes."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    start_step: int,
    primary: bool = True,
    progress: bool | None = None,
    *,
    total_steps: int | None = None,
    loggers: Sequence[str] = ("tensorboard",),
    config: Mapping = types.MappingProxyType({}),
  ):
    """Drops the lines of metrics.jsonl after `start_step`, and goes on from there.

    `progress` shows a live bar instead of lines; None shows the bar if stderr is a terminal.
    `loggers` get the metrics too, and `config`, the settings by dotted key.
    """
    self.path, self.primary, self.total_steps = pathlib.Path(workdir), primary, total_steps
    self.bar = None
    self.pace = None  # (step, seconds) of the first training line, after compilation
    if not primary:
      return
    for name in ("metrics.jsonl", "skipped.jsonl"):
      drop_after(self.path / name, start_step)
    self.lines = open(self.path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
    self.loggers = Loggers(self.path, loggers, config, start_step)
    if sys.stderr.isatty() if progress is None else progress:
      self.bar, self.task = _bar(start_step, total_steps)
      # the bar stands in for sys.stderr and prints lines above itself; the log has to use it too
      self.log_stream = _send_log_to(sys.stderr)

  def write(self, step: int, split: str, values: dict[str, float]) -> None:
    """Adds a line to metrics.jsonl, passes the values to the loggers, and shows them.

    NaN and infinity, which JSON lacks, are written as "nan", "inf", "-inf"; `read_metrics` returns
    them as floats. Raises ValueError for a metric called step, split or time.
    """
    if not self.primary:
      return
    values = {name: float(value) for name, value in values.items()}
    if taken := values.keys() & FIXED.keys():
      raise ValueError(f"no metric can be called {min(taken)}: every line has that field")
    line = {"step": int(step), "split": split, "time": round(time.time(), 3)}
    line |= {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
    self.lines.write(json.dumps(line, allow_nan=False) + "\n")
    self.lines.flush()
    self.loggers.write(step, split, values)
    self._show(step, split, values)

  def close(self, failed: bool = False) -> None:
    """Ends the bar, closes files and loggers and draws curves.png; a second close does nothing."""
    if not self.primary or self.lines.closed:
      return
    self.lines.close()
    if self.bar:
      self.bar.stop()
      if self.log_stream:
        _send_log_to(self.log_stream)
    lines = read_metrics(self.path)
    self.loggers.close(last_scores(lines), failed)
    curves.draw(self.path, by_metric(lines))

  def __exit__(self, kind, *_):
    self.close(failed=kind is not None)

  def _show(self, step, split, values):
    left = self._left(step) if split == "train" else ""
    if self.bar and split == "train":
      names = ("loss", "tokens_per_second", "step_ms", "mfu")
      shown = {name: values[name] for name in names if name in values}
      self.bar.update(self.task, completed=step, values="  ".join(_words(shown)), left=left)
      return
    line = text_line(step, self.total_steps, split, values, left)
    if self.bar:
      self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
    else:
      print(line, file=sys.stderr, flush=True)

  def _left(self, step):
    now = time.monotonic()
    if self.pace is None:
      self.pace = step, now
    if not self.total_steps or step <= self.pace[0]:
      return ""
    seconds_per_step = (now - self.pace[1]) / (step - self.pace[0])
    return duration(seconds_per_step * (self.total_steps - step)) + " left"


def read_metrics(path: str | os.PathLike, missing_ok: bool = False) -> list[dict]:
  """Returns the lines of a metrics.jsonl, or of the one in the folder `path`; values are floats.

  A last line that a kill cut off is left out. Raises UserError for any other line that is broken.
  """
  path = paths.of(path)
  path = path / "metrics.jsonl" if path.is_dir() else path
  if missing_ok and not path.exists():
    return []
  try:
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
  except OSError as error:
    raise UserError(f"{path}: can't be read: {error.strerror}") from error
  return [
    older.metrics({name: x if name in FIXED else float(x) for name, x in line.items()})
    for _, line in _parsed(path, texts, _has_metrics)
  ]


def by_metric(lines: Sequence[dict]) -> dict[str, dict]:
  """Returns {metric: {split: ([steps], [values])}}, the finite values in lines of metrics.jsonl."""
  curves = {}
  for line in lines:
    for name, value in line.items():
      if name not in FIXED and math.isfinite(value):
        steps, values = curves.setdefault(name, {}).setdefault(line["split"], ([], []))
        steps.append(line["step"])
        values.append(value)
  return curves


def last_scores(lines: Sequence[dict]) -> dict[str, float]:
  """Returns {split/metric: value} of the last evaluation of each split."""
  last = {line["split"]: line for line in lines if line["split"] != "train"}
  return {
    f"{split}/{name}": value
    for split, line in last.items()
    for name, value in line.items()
    if name not in FIXED
  }


def started_between(before: dict, line: dict) -> bool:
  """Returns whether the run was started again between two training lines.

  Compilations are counted from the start of a process.
  """
  return line.get("compiles", 0) < before.get("compiles", 0)


def drop_after(path: pathlib.Path, step: int) -> None:
  """Removes the lines of JSON in `path` after `step`; for step 0 (a run that starts) all lines."""
  if not path.exists():
    return
  before = path.read_text(encoding="utf-8", errors="replace")
  lines = _parsed(path, before.splitlines(), lambda line: _has(line, dict(step=int)))
  kept = [text for text, line in lines if 0 < step >= line["step"]]
  after = "".join(text + "\n" for text in kept)
  if after != before:
    write_atomically(path, after)


def text_line(step: int, total: int | None, split: str, values: dict, left: str = "") -> str:
  """Returns `step  100/2000  train  loss 1.234  ...  3m20s left`, when training within COLUMNS."""
  count = f"{step:>{len(str(total))}}/{total}" if total else str(step)
  start = f"step {count}  {split:<10}"
  words, end = _words(values), [left] if left else []
  while split == "train" and len(words) > 1 and len("  ".join([start, *words, *end])) > COLUMNS:
    words.pop()
  return "  ".join([start, *words, *end])


def number(value: float) -> str:
  """Returns a few digits of `value`: 12,345 or 1.234 or 0.0021 or 2.0e-05."""
  if not math.isfinite(value) or (value == int(value) and abs(value) < 1e9):
    return f"{value:,.0f}"
  if abs(value) < 1e-3 or abs(value) >= 1e9:
    return f"{value:.1e}"
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}"


def duration(seconds: float) -> str:
  """Returns `45s`, `3m20s`, `2h05m` or `1d04h`."""
  seconds = round(seconds)
  for size, unit, part, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
    if seconds >= size:
      return f"{seconds // size}{unit}{seconds % size // part:02d}{below}"
  return f"{seconds}s"


def _words(values):
  names = [name for name in FIRST if name in values]
  names += [name for name in values if name not in FIRST]
  return [f"{SHORT.get(name, name.replace('_', ' '))} {number(values[name])}" for name in names]


def _parsed(path, texts, check):
  """Yields (text, line) of each line except a last line that is half-written.

  `check(line)` raises UserError or ValueError for a broken line.
  """
  for number, text in enumerate(texts, 1):
    try:
      line = json_files.parse(text, "it")
      check(line)
    except (UserError, ValueError) as error:
      if number == len(texts):
        return
      raise UserError(f"{path} line {number}: {error}; mend or remove that line") from error
    yield text, line


def _has(line, types):
  json_files.check(line, "it", types)
  if missing := [name for name in types if line.get(name) is None]:
    raise UserError(f"a line has {', '.join(missing)}")


def _has_metrics(line):
  _has(line, FIXED | dict.fromkeys(line.keys() - FIXED.keys(), float | str))
  [float(value) for name, value in line.items() if name not in FIXED]


def _send_log_to(stream):
  """Lets the log write to the stream; returns the former one, or None if it is the same."""
  return logging.get_absl_handler().python_handler.setStream(stream)


def _bar(start_step, total_steps):
  """Returns a bar on stderr with step/total, some metrics and the time left; and its task."""
  from rich import progress
  from rich.console import Console

  total = "/{task.total}" if total_steps else ""
  bar = progress.Progress(
    progress.TextColumn("step {task.completed}" + total),
    progress.BarColumn(bar_width=None),
    progress.TextColumn("{task.fields[values]}"),
    progress.TextColumn("{task.fields[left]}"),
    console=Console(stderr=True),
    refresh_per_second=4,
    expand=True,
  )
  task = bar.add_task("", completed=start_step, total=total_steps, values="", left="")
  bar.start()
  return bar, task
