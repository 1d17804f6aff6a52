"""Averages the sums of steps between log lines, times the steps, and notes skipped updates."""

import contextlib
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from train.common.errors import UserError
from train.record import older
from train.record.staging import destination

# Shares of labels among the sums, and the metrics that report them in percent.
PERCENTAGES = {"right": "token_accuracy", "recalled": "replaced_recall"}
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Meter:
  """A window of steps: their `name -> (sum, weight)`, their time and what slowed them.

  The sums of a step are read after the next step was dispatched, so that the host never waits for
  the device. The window is saved with the position in the data, so that a resumed run logs what an
  uninterrupted run would have logged.
  """

  def __init__(self, batches, skipped: "SkippedUpdates"):
    self.batches, self.skipped, self.pending, self.total = batches, skipped, None, None
    self.cost: Callable[[float], dict[str, float]] = lambda step_ms: {}
    self.compiles, self.recompiles, self.logged = 0, 0, False
    jax.monitoring.register_event_duration_secs_listener(self._count_compilation)
    self._start_window(0)

  def begin(self, cost: Callable[[float], dict[str, float]]) -> None:
    """Starts the clock; `cost` returns what to log beside a step's median time in milliseconds."""
    self.cost = cost
    self._start_window(self.batches.counts()["tokens"])

  def watch(self, train_step: Callable) -> Callable:
    """Returns `train_step`, which logs its compilation, in the first step, and warns when it is
    compiled again after the first log line."""
    compiled = False

    def step(state, batch):
      nonlocal compiled
      before, began = self.compiles, time.perf_counter()
      if not compiled:
        logging.info("compiling the train step, or reading it from the cache")
      result = train_step(state, batch)
      if not compiled:
        logging.info("compiled or read in %.1f s", time.perf_counter() - began)
        compiled = True
      if self.compiles > before and self.logged:
        self.recompiles += 1
        if self.recompiles == 1:
          shapes = ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in batch.items())
          logging.warning("the train step was compiled again, for a batch of %s", shapes)
      return result

    return step

  def add(self, step: int, sums: Mapping) -> None:
    """Queues a step's sums and reads those of the step before, which the device has finished.

    Raises UserError if too many updates in a row were skipped.
    """
    self._flush()
    self.pending = step, sums, self.batches.delivered

  def get_state(self) -> dict:
    """Returns the position in the data and the window so far, as JSON holds them."""
    self._flush()
    total = jax.tree.map(float, self.total or {})
    window = {name: list(pair) for name, pair in total.items()}
    return self.batches.get_state() | {"window": window, "skipped": self.skipped.in_a_row}

  def set_state(self, state: Mapping) -> None:
    """Goes on from a state that `get_state` returned."""
    self.batches.set_state(state)
    window = state.get("window", {})  # the oldest checkpoints have none, older ones no spikes
    if window:
      window = older.sums({"spikes": [0.0, window["skipped"][1]]} | window)
    self.total = {name: tuple(map(np.float32, pair)) for name, pair in window.items()} or None
    self.skipped.in_a_row = state.get("skipped", 0)

  @contextlib.contextmanager
  def paused(self):
    """Stops the clock in its block, where something other than training runs."""
    self._flush()
    stopped = time.perf_counter()
    yield
    pause = time.perf_counter() - stopped
    self.started, self.step_started = self.started + pause, self.step_started + pause

  def values(self) -> dict[str, float]:
    """Returns the window's means, speed (tokens without padding) and costs; starts the next."""
    self._flush()
    seconds = max(time.perf_counter() - self.started, 1e-9)
    (skipped, steps), (spikes, _) = self.total.pop("skipped"), self.total.pop("spikes")
    values = means(self.total)
    if skipped == steps:
      values = dict.fromkeys(values, float("nan"))
    counts = dict(skipped=skipped, spikes=spikes)
    values |= {name: float(count) for name, count in counts.items() if count}
    data = self.batches.counts()
    tokens = data.pop("tokens")
    values["tokens_per_second"] = (tokens - self.tokens) / seconds
    values["step_ms"] = 1000 * statistics.median(self.step_seconds)
    values |= self.cost(values["step_ms"])
    values["stall_share"] = (self.batches.stall_seconds - self.stalled) / seconds
    values["padding_share"] = data.pop("padding")
    values["compiles"], values["recompiles"] = self.compiles, self.recompiles
    values |= {name: float(count) for name, count in data.items()}
    self.total, self.logged = None, True
    self._start_window(tokens)
    return values

  def _start_window(self, tokens: int) -> None:
    # `counts` asks all processes, so it is called once a window
    self.started = self.step_started = time.perf_counter()
    self.step_seconds: list[float] = []
    self.stalled, self.tokens = self.batches.stall_seconds, tokens

  def _flush(self):
    if self.pending is not None:
      pending, self.pending = self.pending, None
      self._read(*pending)

  def _read(self, step, sums, delivered):
    sums, now = jax.device_get(sums), time.perf_counter()
    self.step_seconds.append(now - self.step_started)
    self.step_started = now
    self.skipped.note(step, bool(sums["skipped"][0]), bool(sums["spikes"][0]), delivered)
    self.total = sums if self.total is None else jax.tree.map(np.add, self.total, sums)

  def _count_compilation(self, event, seconds, **_):
    self.compiles += event == COMPILE_EVENT


class SkippedUpdates:
  """Updates that were skipped, as loss or gradient was not finite or the loss was a spike.

  The examples of each are written to skipped.jsonl, and `limit` in a row end the run (0: never).
  """

  def __init__(self, workdir: pathlib.Path, limit: int, primary: bool = True):
    self.file, self.limit, self.primary = workdir / "skipped.jsonl", limit, primary
    self.in_a_row = 0

  def note(self, step: int, skipped: bool, spike: bool, delivered: Callable) -> None:
    """Counts a step; `delivered()` returns the numbers of the batch's examples, row by row.

    Raises UserError for the last of `limit` skipped updates in a row.
    """
    self.in_a_row = self.in_a_row + 1 if skipped else 0
    if not skipped:
      return
    if self.primary:
      with open(self.file, "a", encoding="utf-8") as file:
        file.write(json.dumps(dict(step=step, examples=delivered())) + "\n")
    name = destination(self.file)
    reason = "the loss is a spike" if spike else "loss or gradient is not finite"
    logging.warning(
      "step %d: %s, so the update is skipped; its examples are in %s", step, reason, name
    )
    if self.limit and self.in_a_row >= self.limit:
      raise UserError(
        f"{self.in_a_row} updates in a row (max_skipped) were skipped, up to step {step}, where"
        f" {reason}: their examples are in {name}. The weights are those before them. Try a"
        " lower schedule.peak, a longer warm-up or optimizer.clip_norm, and look at these examples;"
        " --debug_nans names the first operation that made a NaN"
      )


def means(sums: Mapping) -> dict[str, float]:
  """Returns name -> sum / weight; waits for the device.

  The perplexity takes the place of nll, and PERCENTAGES have the names and units of scores.
  """
  sums = jax.device_get(sums)
  values = {name: float(total) / max(float(weight), 1e-9) for name, (total, weight) in sums.items()}
  for name in PERCENTAGES.keys() & values.keys():
    values[PERCENTAGES[name]] = 100.0 * values.pop(name)
  if "nll" in values:
    values["perplexity"] = float(jnp.exp(min(values.pop("nll"), 80.0)))
  return values
