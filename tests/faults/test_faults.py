"""A run hurt in every way is the run that nobody touched. `make soak` does it at length."""

import collections

import pytest

from tests.faults import soak


@pytest.mark.slow
def test_hurt_in_every_way_it_is_the_same_run(tmp_path):
  """One of each; the moments are random."""
  wanted = collections.Counter({"kill": 2, "terminate": 1, "fill_disk": 1, "kill_worker": 1})
  runs = soak.endure(tmp_path, wanted, seed=0)
  lost = collections.Counter()
  for run in runs:
    for kind, steps in run.lost.items():
      lost[kind] += len(steps)
      assert max(steps) <= 2 * soak.harness.EVERY
      assert kind != "SIGTERM" or max(steps) == 0
  assert lost["SIGKILL"] == 2
  assert lost["SIGTERM"] == lost["data worker killed"] == 1


@pytest.mark.slow
def test_killed_as_it_evaluates_decodes_and_seals_and_with_a_flipped_bit(tmp_path):
  ways = ("kill_evaluating", "kill_decoding", "kill_sealing", "flip", "flip")
  runs = soak.endure(tmp_path, collections.Counter(ways), seed=2)
  assert sum(len(steps) for run in runs for steps in run.lost.values()) >= len(ways)
  where = sum((run.where for run in runs), collections.Counter())
  assert any(what in where for what in ("evaluating", "evaluating and decoding", "sealing")), where


@pytest.mark.slow
def test_hurt_with_streamed_data_it_is_the_same_run(tmp_path):
  wanted = collections.Counter({"kill": 2, "terminate": 1, "kill_worker": 1})
  runs = soak.endure(tmp_path, wanted, seed=4, pairs=2500)
  assert sum(len(steps) for run in runs for steps in run.lost.values()) >= 4
  assert "streams" in (tmp_path / "whole/run/checkpoints/40/data/data.json").read_text()


@pytest.mark.slow
def test_and_in_the_other_ways(tmp_path):
  ways = ("interrupt", "start_twice", "clock_back", "make_read_only", "kill")
  runs = soak.endure(tmp_path, collections.Counter(ways), seed=1)
  assert sum(len(steps) for run in runs for steps in run.lost.values()) >= len(ways) - 1
