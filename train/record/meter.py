"""What a run watches: sums of many steps, and whether evaluations still get better."""

import json
import pathlib
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from train.common.errors import UserError

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Meter:
  """Collects `name -> (sum, weight)` of steps; `values` reports and starts a new window.

  The sums are read one step late, so that the host never waits for the device. A window that has
  begun is part of the position that is saved: a run that goes on tells what it would have told.
  """

  def __init__(self, batches, skipped):
    self.batches, self.skipped, self.pending, self.compiles = batches, skipped, None, 0
    jax.monitoring.register_event_duration_secs_listener(self._compiled)
    self._start()

  def add(self, step, sums):
    """Queues this step's sums and reads those of the step before, which the device has done.
    UserError if too many updates in a row were skipped."""
    before, self.pending = self.pending, (step, sums, self.batches.delivered)
    if before is not None:
      self._read(*before)

  def get_state(self) -> dict:
    """The position in the data and the window so far, fit for JSON."""
    self._flush()
    total = jax.tree.map(float, self.total or {})
    window = {name: list(pair) for name, pair in total.items()}
    return self.batches.get_state() | {"window": window, "skipped": self.skipped.in_a_row}

  def set_state(self, state) -> None:
    """Goes on from there."""
    self.batches.set_state(state)
    window = state.get("window", {})  # checkpoints before 2026-11-26 have none
    if window:  # nor have the next ones spikes
      window = {"spikes": [0.0, window["skipped"][1]]} | window
    self.total = {name: tuple(map(np.float32, pair)) for name, pair in window.items()} or None
    self.skipped.in_a_row = state.get("skipped", 0)

  def begin(self):
    """Starts the clock."""
    self.started = time.perf_counter()

  def pause(self):
    """Stops the clock while something else than training runs; returns what starts it again."""
    self._flush()
    stopped = time.perf_counter()

    def go_on():
      self.started += time.perf_counter() - stopped

    return go_on

  def values(self) -> dict[str, float]:
    """Means over the window, speed (tokens that are no padding) and what slowed it."""
    self._flush()
    seconds = max(time.perf_counter() - self.started, 1e-9)
    (skipped, steps), (spikes, _) = self.total.pop("skipped"), self.total.pop("spikes")
    values = means(self.total)
    if skipped == steps:
      values = dict.fromkeys(values, float("nan"))
    if skipped:
      values["skipped"] = float(skipped)
    if spikes:
      values["spikes"] = float(spikes)
    values["tokens_per_second"] = (self.batches.tokens - self.tokens) / seconds
    values["stall_share"] = (self.batches.stall_seconds - self.stalled) / seconds
    values["padding_share"] = self.batches.padding
    values["compiles"] = self.compiles
    values["epoch"] = self.batches.epoch
    # the most there has been, so it does not grow where memory is flat; Linux counts in kB
    values["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    self._start()
    return values

  def _start(self):
    self.total, self.started = None, time.perf_counter()
    self.stalled, self.tokens = self.batches.stall_seconds, self.batches.tokens

  def _flush(self):
    if self.pending is not None:
      pending, self.pending = self.pending, None
      self._read(*pending)

  def _read(self, step, sums, delivered):
    sums = jax.device_get(sums)
    self.skipped.see(step, bool(sums["skipped"][0]), bool(sums["spikes"][0]), delivered)
    self.total = sums if self.total is None else jax.tree.map(np.add, self.total, sums)

  def _compiled(self, event, seconds, **_):
    self.compiles += event == COMPILE_EVENT


class Skipped:
  """Updates left out, since loss or gradient was not finite or the loss a spike: what they were
  made of is written to skipped.jsonl, and `most` in a row end the run (0: never)."""

  def __init__(self, workdir, most: int, primary: bool = True):
    self.file, self.most, self.primary = pathlib.Path(workdir, "skipped.jsonl"), most, primary
    self.in_a_row = 0

  def see(self, step: int, skipped: bool, spike: bool, delivered) -> None:
    """`delivered()` are the numbers of the batch's examples, row by row."""
    self.in_a_row = self.in_a_row + 1 if skipped else 0
    if not skipped:
      return
    if self.primary:
      with open(self.file, "a", encoding="utf-8") as file:
        file.write(json.dumps(dict(step=step, examples=delivered())) + "\n")
    wrong = "the loss is a spike" if spike else "loss or gradient is not finite"
    logging.warning(
      "step %d: %s, the update is left out; its examples are in %s", *(step, wrong, self.file)
    )
    if self.most and self.in_a_row >= self.most:
      raise UserError(
        f"{self.in_a_row} updates in a row (max_skipped) were left out, up to step {step}, where"
        f" {wrong}: what they were made of is in {self.file}. The weights are as before them. Try a"
        " lower schedule.peak, a longer warm-up or optimizer.clip_norm, and look at these examples;"
        " --debug_nans names the first operation that made a NaN"
      )


class Patience:
  """Whether the last `limit` values of a validation metric brought nothing better (0: never)."""

  def __init__(self, limit: int, metric: str, mode: str):
    self.limit, self.metric, self.sign = limit, metric, 1 if mode == "min" else -1
    self.best, self.waited = float("inf"), 0

  def add(self, scores) -> None:
    """Counts an evaluation, if the metric is one of its scores."""
    if self.metric in scores:
      value = self.sign * scores[self.metric]
      self.waited = 0 if value < self.best else self.waited + 1
      self.best = min(self.best, value)

  @property
  def over(self) -> bool:
    return bool(self.limit) and self.waited >= self.limit

  def __str__(self):
    """The end of a message: why a run ended, if it is because of this."""
    if not self.over:
      return ""
    return (
      f": {self.waited} evaluations without a {self.metric} better than {self.sign * self.best:.4g}"
    )


def means(sums) -> dict[str, float]:
  """`name -> (sum, weight)` as the numbers a person reads; waits for the device."""
  sums = jax.device_get(sums)
  values = {name: float(total) / max(float(weight), 1e-9) for name, (total, weight) in sums.items()}
  if "nll" in values:
    values["perplexity"] = float(jnp.exp(min(values.pop("nll"), 80.0)))
  return values
