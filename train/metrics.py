"""What a run watches: sums of many steps, and whether evaluations still get better."""

import resource
import time

import jax
import numpy as np

from train.step import means

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Meter:
  """Collects `name -> (sum, weight)` of steps; `values` reports and starts a new window.

  The sums are read one step late, so that the host never waits for the device. A window that has
  begun is part of the position that is saved: a run that goes on tells what it would have told.
  """

  def __init__(self, batches):
    self.batches, self.pending, self.compiles = batches, None, 0
    jax.monitoring.register_event_duration_secs_listener(self._compiled)
    self._start()

  def add(self, sums):
    """Queues this step's sums and reads those of the step before, which the device has done."""
    before, self.pending = self.pending, sums
    if before is not None:
      self._read(before)

  def get_state(self) -> dict:
    """The position in the data and the window so far, fit for JSON."""
    self._flush()
    total = jax.tree.map(float, self.total or {})
    return self.batches.get_state() | {"window": {name: list(pair) for name, pair in total.items()}}

  def set_state(self, state) -> None:
    """Goes on from there."""
    self.batches.set_state(state)
    window = state.get("window", {})  # checkpoints before 2026-11-26 have none
    self.total = {name: tuple(map(np.float32, pair)) for name, pair in window.items()} or None

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
    values = means(self.total)
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
      self._read(self.pending)
      self.pending = None

  def _read(self, sums):
    sums = jax.device_get(sums)
    self.total = sums if self.total is None else jax.tree.map(np.add, self.total, sums)

  def _compiled(self, event, seconds, **_):
    self.compiles += event == COMPILE_EVENT


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
