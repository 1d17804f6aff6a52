"""The batch iterator: one stream for any number of workers and processes, resumable anywhere."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.train.data.helpers import (
  SIZES,
  WORDS,
  Texts,
  assert_same_batches,
  batches_of,
  pairs,
  stream,
  take,
)
from train.common.errors import UserError
from train.data import items
from train.data.batches import Batches, Layout, eval_batches
from train.data.tokenizer_training import train_tokenizer

LENGTHS = np.asarray([[len(t.split()) + 1 for t in Texts(60)[i].values()] for i in range(60)])


class Bad(Texts):
  """Reading example 5 in a worker is an error (kind "error") or ends the worker ("death")."""

  def __init__(self, n, kind):
    super().__init__(n)
    self.kind, self.parent = kind, os.getpid()

  def __getitem__(self, i):
    if os.getpid() != self.parent and i == 5:
      if self.kind == "error":
        raise UserError("example 5 is unreadable")
      os.kill(os.getpid(), signal.SIGKILL)
    return super().__getitem__(i)


def join(parts):
  """Joins the processes' batches to global batches."""
  return [{key: np.concatenate([b[key] for b in each]) for key in each[0]} for each in zip(*parts)]


def sentences(batch):
  """Returns the number of each example in the batch, in order."""
  rows, columns = np.nonzero((batch["positions"] == 0) & (batch["segments"] > 0))
  return [int(WORDS.decode([i])) for i in batch["labels"][rows, columns]]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("cut", [0, 1, 7, 30])
def test_resumed_is_uninterrupted_over_epochs(pack, cut):
  with stream(pack=pack) as whole, stream(pack=pack) as before, stream(pack=pack) as after:
    expected = take(whole, 40)
    assert whole.epoch >= 2
    actual = take(before, cut)
    state = json.loads(json.dumps(before.get_state()))
    take(after, 3)  # a position set later than the start, with batches already made ahead
    after.set_state(state)
    assert after.get_state() == state
    actual += take(after, 40 - cut)
    assert_same_batches(actual, expected)
    assert after.get_state() == whole.get_state()


def test_the_state_does_not_depend_on_the_look_ahead():
  with stream(lookahead=1) as near, stream(lookahead=9) as far:
    for _ in range(12):
      assert_same_batches([next(near)], [next(far)])
      time.sleep(0.002)
      assert near.get_state() == far.get_state()


def test_packed_batches_deliver_the_stream_less_what_is_carried():
  with stream(pack=False) as batches:
    order = [i for batch in take(batches, 60) for i in sentences(batch)]
  assert all(sorted(order[e * 60 : e * 60 + 60]) == list(range(60)) for e in range(4))
  with stream() as batches:
    delivered = []
    for _ in range(15):
      delivered += sentences(next(batches))
      state = batches.get_state()
      carried = [order[position] for position in state["carried"]]
      assert sorted(delivered + carried) == sorted(order[: state["position"]])
      assert batches.epoch == state["position"] // 60
    assert state["position"] > 60


@pytest.mark.parametrize("pack", [True, False])
def test_the_rows_of_all_processes_are_the_global_batch(pack):
  with stream(pack=pack) as whole:
    expected, state = take(whole, 12), whole.get_state()
  for count in (2, 4):
    parts = []
    for index in range(count):
      with stream(pack=pack, process_index=index, process_count=count) as part:
        parts.append(take(part, 12))
        assert part.get_state() == state
    assert_same_batches(join(parts), expected)


def test_worker_processes_change_nothing():
  with stream() as alone:
    expected, end = take(alone, 12), alone.get_state()
  with stream(workers=1) as batches:
    assert_same_batches(take(batches, 5), expected[:5])
    state = batches.get_state()
  with stream(workers=2) as resumed:
    resumed.set_state(state)
    assert_same_batches(take(resumed, 7), expected[5:])
    assert resumed.get_state() == end


def test_dead_workers_are_replaced_and_the_batches_made_again():
  with stream() as alone:
    expected = take(alone, 12)
  with stream(workers=1) as batches:
    actual = take(batches, 3)
    for worker in batches._pool._processes:
      os.kill(worker, signal.SIGKILL)
    assert_same_batches(actual + take(batches, 9), expected)


@pytest.mark.parametrize(
  "kind, message", [("error", "example 5 is unreadable"), ("death", "died twice")]
)
def test_a_worker_that_cannot_go_on_is_reported(kind, message):
  bad = batches_of(Bad(12, kind), workers=1)
  with bad, pytest.raises(UserError, match=message):
    take(bad, 9)


LEFT_OPEN = """
import os, signal, sys
from tests.train.data.helpers import stream, take
batches = stream(workers=1, lookahead=3)
take(batches, 2)
print(*batches._pool._processes, flush=True)
if sys.argv[1] == "kill":
  os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("way, code", [("exit", 0), ("kill", -signal.SIGKILL)])
def test_no_process_stays_behind(way, code):
  command = [sys.executable, "-c", LEFT_OPEN, way]
  run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
  assert run.returncode == code
  (worker,) = run.stdout.split()
  deadline = time.monotonic() + 20
  while alive(worker) and time.monotonic() < deadline:
    time.sleep(0.02)
  assert not alive(worker)


def alive(pid):
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rsplit(")", 1)[1].split()[0] != "Z"  # Z: dead, not yet collected
  except FileNotFoundError:
    return False


@pytest.mark.parametrize("pack", [True, False])
def test_evaluation_holds_each_example_once(pack):
  options = {**SIZES, "pack": pack}
  evaluated = list(eval_batches(pairs(Texts(61)), Layout(**options)))
  assert sorted(i for batch in evaluated for i in sentences(batch)) == list(range(61))
  with stream(pack=pack) as training:
    shapes = {key: (array.shape, array.dtype) for key, array in next(training).items()}
  for batch in evaluated:
    assert {key: (array.shape, array.dtype) for key, array in batch.items()} == shapes
  options["process_count"] = 2
  parts = [eval_batches(pairs(Texts(61)), Layout(**options, process_index=p)) for p in (0, 1)]
  assert_same_batches(join(parts), evaluated)


def test_a_part_of_evaluation_is_spread_evenly():
  layout = Layout(**SIZES)
  whole = list(eval_batches(pairs(Texts(61)), layout))
  assert len(whole) > 4
  part = list(eval_batches(pairs(Texts(61)), layout, most=3))
  assert_same_batches(part, [whole[i * len(whole) // 3] for i in range(3)])
  assert_same_batches(list(eval_batches(pairs(Texts(61)), layout, most=99)), whole)


def test_truncated_sides_end_in_eos_and_are_counted_and_unpacked_is_one_a_row(warnings):
  longer = (LENGTHS > (7, 5)).sum(0)
  assert min(longer) > 0
  with stream(source_len=7, target_len=5, pack=False) as batches:
    assert re.findall(r"\d+", warnings.pop()) == [str(n) for n in (60, longer[0], 7, longer[1], 5)]
    for batch in take(batches, 15):
      for side, numbers in (("labels", "segments"), ("source", "source_segments")):
        last = batch[numbers].sum(1) - 1
        assert (batch[side][np.arange(4), last] == WORDS.roles.eos).all()
        assert (batch[side] == WORDS.roles.eos).sum() == 4
  with stream():
    assert not warnings


def test_padding_is_the_share_of_the_batches_so_far():
  with stream() as batches:
    assert batches.padding == 0
    delivered = take(batches, 9)
    assert batches.padding == pytest.approx(1 - np.mean([batch["weights"] for batch in delivered]))
    assert batches.tokens == sum(batch["weights"].sum() for batch in delivered)


@pytest.mark.parametrize("processes", [1, 2])
def test_padding_goes_on_after_a_restart_with_any_number_of_processes(processes):
  with stream() as batches:
    take(batches, 4)
    state = json.loads(json.dumps(batches.get_state()))
    take(batches, 5)
    expected = batches.padding, batches.tokens
  with stream(process_index=processes - 1, process_count=processes) as again:
    again.set_state(state)
    take(again, 5)
    assert (again.padding, again.tokens) == expected


def test_all_waiting_is_stall_and_nothing_else():
  class Slow(Texts):
    def __getitem__(self, i):
      time.sleep(0.03)
      return super().__getitem__(i)

  with batches_of(Slow(12), lookahead=1) as batches:
    waited = 0.0
    for _ in range(3):
      started, before = time.perf_counter(), batches.stall_seconds
      next(batches)
      waited += time.perf_counter() - started
      assert before + 0.005 <= batches.stall_seconds <= waited


class OneSide:
  """Items with one side only, and with labels of their own along the source."""

  start = 1

  def __init__(self, side):
    self.side, self.fingerprint = side, side
    self.extras = {"labels": "int32", "weights": "float32"} if side == "source" else {}

  def lengths(self):
    lengths = np.zeros((60, 2), np.int32)
    lengths[:, 0 if self.side == "source" else 1] = [i % 5 + 2 for i in range(60)]
    return lengths

  def read(self, indices, positions):
    for index, position in zip(indices, positions):
      assert 0 <= index < 60
      assert position >= 0
    items = [{self.side: [10 + i] * (i % 5 + 2)} for i in indices]
    if self.side == "source":
      for item in items:
        item["labels"] = [x + 100 for x in item["source"]]
        item["weights"] = [0.5] * len(item["source"])
    return items


def test_without_a_source_there_is_only_a_target():
  with Batches(OneSide("target"), Layout(4, 0, 16), seed=0) as batches:
    batch = next(batches)
  assert batch.keys() == {"inputs", "labels", "weights", "segments", "positions"}
  assert (batch["positions"] == 0).sum() > 4


def test_without_a_target_labels_lie_along_the_source():
  with Batches(OneSide("source"), Layout(4, 16, 0), seed=0) as batches:
    delivered = take(batches, 5)
    assert batches.padding < 0.2
  keys = {"source", "source_segments", "source_positions", "labels", "weights"}
  for batch in delivered:
    assert batch.keys() == keys
    real = batch["source_segments"] > 0
    np.testing.assert_array_equal(batch["labels"], np.where(real, batch["source"] + 100, 0))
    np.testing.assert_array_equal(batch["weights"], np.where(real, 0.5, 0))
  seen = {
    int(i) - 10
    for batch in eval_batches(OneSide("source"), Layout(4, 16, 0))
    for i in np.unique(batch["source"])
    if i
  }
  assert seen == set(range(60))


def test_lengths_are_measured_once_and_a_broken_file_is_measured_again(tmp_path, monkeypatch):
  expected = pairs(Texts(60)).lengths()
  np.testing.assert_array_equal(expected, LENGTHS)
  (path,) = (tmp_path / "cache" / "lengths").iterdir()
  with monkeypatch.context() as unread:
    unread.delattr(Texts, "__getitem__")
    np.testing.assert_array_equal(pairs(Texts(60)).lengths(), expected)
  path.write_bytes(path.read_bytes()[:200])
  np.testing.assert_array_equal(pairs(Texts(60)).lengths(), expected)
  other = train_tokenizer({"name": "char"}, ["0123456789 xy"])
  assert items.Pairs(Texts(60), other, 99, 99).lengths().sum() > expected.sum()


def test_a_source_is_read_in_one_call_if_it_can():
  class Many(Texts):
    __getitem__ = None

    def _getitems(self, indices):
      return [Texts(60)[i] for i in indices]

  with batches_of(Many(60)) as many, stream() as batches:
    assert_same_batches(take(many, 5), take(batches, 5))


def test_a_position_of_other_data_or_another_order_is_refused():
  with stream() as batches, stream(seed=1) as reseeded, stream(61) as longer:
    state = batches.get_state()
    with pytest.raises(UserError, match="seed=0"):
      reseeded.set_state(state)
    with pytest.raises(UserError, match="data='texts-60'"):
      longer.set_state(state)


def test_bad_sizes_are_reported():
  with pytest.raises(UserError, match="batch_size=4"):
    stream(process_count=3)
  with pytest.raises(UserError, match="no example"):
    stream(0)


def test_a_worker_does_without_jax():
  program = "import sys, train.data.batches; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", program]).returncode == 0
