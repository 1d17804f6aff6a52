"""What a run watches: windows of steps, updates left out, and when evaluations bring nothing."""

import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.common.errors import UserError
from train.record.meter import Meter, Patience, Skipped


@given(st.lists(st.integers(0, 5)), st.integers(1, 4), st.sampled_from(["min", "max"]))
def test_over_when_the_last_values_brought_nothing(values, limit, mode):
  patience = Patience(limit, "loss", mode)
  for value in values:
    patience.add({"loss": value})
  better = min if mode == "min" else max
  # the first place of the best value, counted from the end
  waited = len(values) - 1 - values.index(better(values)) if values else 0
  assert patience.over == (waited >= limit)


def test_other_metrics_do_not_count():
  patience = Patience(1, "bleu", "max")
  for scores in ({"bleu": 30.0}, {"loss": 1.0}, {"loss": 2.0}):
    patience.add(scores)
  assert not patience.over
  patience.add({"bleu": 29.0})
  assert patience.over
  assert "1 evaluations without a bleu better than 30" in str(patience)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_no_limit_never_ends(mode):
  patience = Patience(0, "loss", mode)
  for _ in range(100):
    patience.add({"loss": 1.0})
  assert not patience.over


# Updates that were left out


SPIKE = 100.0


class Data:
  """What a meter asks of the batches."""

  tokens = stall_seconds = padding = epoch = 0

  def __init__(self):
    self.number = 0

  @property
  def delivered(self):
    number = self.number
    return lambda: [[number]]

  def get_state(self):
    return {"position": self.number}

  def set_state(self, state):
    self.number = state["position"]


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
  meter = Meter(Data(), Skipped(tmp_path, most=3))
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
  meter = Meter(Data(), Skipped(tmp_path, most=1))
  run(meter, [4.0, 200.0, 300.0, 8.0])
  assert meter.values()["spikes"] == 2
  run(meter, [4.0])
  assert "spikes" not in meter.values()
  one = np.float32(1.0)
  meter.add(6, dict(loss=(0 * one, 0 * one), skipped=(one, one), spikes=(one, one)))
  with pytest.raises(UserError, match="up to step 6, where the loss is a spike"):
    meter.pause()


def test_a_window_from_before_spikes_were_counted(tmp_path):
  meter = Meter(Data(), Skipped(tmp_path, most=1))
  run(meter, [1.0])
  state = meter.get_state()
  del state["window"]["spikes"]
  again = Meter(Data(), Skipped(tmp_path, most=1))
  again.set_state(state)
  run(again, [3.0])
  assert again.values()["loss"] == 1.0


def test_too_many_skipped_in_a_row_end_the_run_also_across_a_restart(tmp_path):
  meter = Meter(Data(), Skipped(tmp_path, most=3))
  run(meter, [4.0, None, None])
  state = json.loads(json.dumps(meter.get_state()))
  again = Meter(Data(), Skipped(tmp_path, most=3))
  again.set_state(state)
  run(again, [None])
  with pytest.raises(
    UserError, match=r"3 updates in a row .* up to step 4, where .* not finite: .*jsonl"
  ):
    again.pause()
  endless = Meter(Data(), Skipped(tmp_path, most=0))
  run(endless, [None] * 50)


def test_a_window_goes_on_where_it_was_saved(tmp_path):
  losses = [0.1, 0.7, 1e-8, 3.0, 0.3]
  whole = Meter(Data(), Skipped(tmp_path, most=3))
  run(whole, losses)
  for cut in range(1, 5):
    first = Meter(Data(), Skipped(tmp_path, most=3))
    run(first, losses[:cut])
    second = Meter(Data(), Skipped(tmp_path, most=3))
    second.set_state(json.loads(json.dumps(first.get_state())))
    run(second, losses[cut:])
    assert second.get_state() == whole.get_state()
