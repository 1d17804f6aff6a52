"""Windows of steps and skipped updates."""

import json
import math
import time

import jax
import numpy as np
import pytest

from train.common.errors import UserError
from train.record.meter import Meter, SkippedUpdates

SPIKE = 100.0


class Data:
  """What a meter asks of the batches."""

  stall_seconds = 0

  def __init__(self):
    self.number = 0

  @property
  def delivered(self):
    number = self.number
    return lambda: [[number]]

  def counts(self):
    return dict(tokens=0, padding=0, epoch=0)

  def get_state(self):
    return {"position": self.number}

  def set_state(self, state):
    self.number = state["position"]


def flush(meter):
  with meter.paused():
    pass


def run(meter, losses):
  """A step for each: its loss, or None if it was skipped."""
  for loss in losses:
    meter.batches.number += 1
    sums = dict(
      loss=(loss or 0.0, 2.0 * (loss is not None)),
      skipped=(float(loss is None), 1.0),
      spikes=(float((loss or 0) > SPIKE), 1.0),
    )
    meter.add(meter.batches.number, jax.tree.map(np.float32, sums))


def test_skipped_updates_are_counted_and_what_they_were_made_of_is_written(tmp_path):
  meter = Meter(Data(), SkippedUpdates(tmp_path, limit=3))
  run(meter, [4.0, None, None, 8.0, None])
  values = meter.values()
  assert (values["loss"], values["skipped"]) == (3.0, 3.0)  # of the two that were none
  lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [{"step": n, "examples": [[n]]} for n in (2, 3, 5)]
  run(meter, [4.0])
  assert "skipped" not in meter.values()
  run(meter, [None])
  assert math.isnan(meter.values()["loss"])  # not 0


def test_spikes_are_counted_and_told_as_the_reason(tmp_path, caplog):
  meter = Meter(Data(), SkippedUpdates(tmp_path, limit=1))
  run(meter, [4.0, 200.0, 300.0, 8.0])
  assert meter.values()["spikes"] == 2
  run(meter, [4.0])
  assert "spikes" not in meter.values()
  one = np.float32(1.0)
  meter.add(6, dict(loss=(0 * one, 0 * one), skipped=(one, one), spikes=(one, one)))
  with pytest.raises(UserError, match="up to step 6, where the loss is a spike"):
    flush(meter)


def test_a_window_from_before_spikes_were_counted(tmp_path):
  meter = Meter(Data(), SkippedUpdates(tmp_path, limit=1))
  run(meter, [1.0])
  state = meter.get_state()
  del state["window"]["spikes"]
  again = Meter(Data(), SkippedUpdates(tmp_path, limit=1))
  again.set_state(state)
  run(again, [3.0])
  assert again.values()["loss"] == 1.0


def test_too_many_skipped_in_a_row_end_the_run_also_across_a_restart(tmp_path):
  meter = Meter(Data(), SkippedUpdates(tmp_path, limit=3))
  run(meter, [4.0, None, None])
  state = json.loads(json.dumps(meter.get_state()))
  again = Meter(Data(), SkippedUpdates(tmp_path, limit=3))
  again.set_state(state)
  run(again, [None])
  with pytest.raises(
    UserError, match=r"3 updates in a row .* up to step 4, where .* not finite: .*jsonl"
  ):
    flush(again)
  endless = Meter(Data(), SkippedUpdates(tmp_path, limit=0))
  run(endless, [None] * 50)


def test_a_window_goes_on_where_it_was_saved(tmp_path):
  losses = [0.1, 0.7, 1e-8, 3.0, 0.3]
  whole = Meter(Data(), SkippedUpdates(tmp_path, limit=3))
  run(whole, losses)
  for cut in range(1, 5):
    first = Meter(Data(), SkippedUpdates(tmp_path, limit=3))
    run(first, losses[:cut])
    second = Meter(Data(), SkippedUpdates(tmp_path, limit=3))
    second.set_state(json.loads(json.dumps(first.get_state())))
    run(second, losses[cut:])
    assert second.get_state() == whole.get_state()


def test_a_step_is_timed_without_what_runs_between_steps(tmp_path):
  meter = Meter(Data(), SkippedUpdates(tmp_path, limit=3))
  meter.begin(lambda step_ms: {"mfu": 1 / step_ms})
  for _ in range(5):
    time.sleep(0.02)
    run(meter, [1.0])
  with meter.paused():
    time.sleep(0.5)
  values = meter.values()
  assert 20 <= values["step_ms"] < 200
  assert values["mfu"] == 1 / values["step_ms"]
  run(meter, [1.0])
  assert meter.values()["step_ms"] < 400  # of its own window


def test_a_step_that_is_compiled_again_is_counted_and_its_shapes_are_logged_once(tmp_path, caplog):
  caplog.set_level("INFO", logger="absl")
  meter = Meter(Data(), SkippedUpdates(tmp_path, limit=3))
  sums = {name: (np.float32(0), np.float32(1)) for name in ("loss", "skipped", "spikes")}
  step = meter.watch(jax.jit(lambda state, batch: (state + batch["inputs"].sum(), sums)))

  def update(rows):
    meter.add(1, step(0.0, {"inputs": np.ones((rows, 3), np.int32)})[1])

  update(2)
  update(4)  # before the first line, compilations are expected
  logged = [record.getMessage() for record in caplog.records]
  assert [line[:9] for line in logged] == ["compiling", "compiled "]
  assert meter.values()["recompiles"] == 0
  for rows in (4, 5, 6):
    update(rows)
  values = meter.values()
  assert (values["recompiles"], values["compiles"] >= 4) == (2, True)
  assert caplog.text.count("compiled again") == 1
  assert "inputs int32[5, 3]" in caplog.text
