"""Mixtures: each part has its share of every block, in its own order, restarted or not."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.data.helpers import assert_same_batches, take
from train.common.errors import UserError
from train.data import items, token_arrays
from train.data.batches import Batches, Layout
from train.data.mixed_items import BLOCK, MixedItems
from train.data.roles import BOS, EOS


class Numbers:
  """Item i of part p: a target with p, i, its position in the stream, and some tokens more."""

  start = BOS

  def __init__(self, part, count):
    self.part, self.count, self.fingerprint = part, count, f"{part}-{count}"
    self.extras = {"weights": "float32"} if part % 2 else {}

  def lengths(self):
    return np.asarray([[0, 4 + i % 5] for i in range(self.count)], np.int32)

  def read(self, indices, positions):
    items = []
    for i, position in zip(indices, positions):
      target = [10 + self.part, 100 + i, 1000 + position, *[5] * (i % 5), EOS]
      items.append({"target": target})
      if self.part % 2:
        items[-1]["weights"] = [0.5] * len(target)
    return items


RATES = {"a": 5, "b": 3, "c": 2}
PARTS = {"a": Numbers(0, 70), "b": Numbers(1, 300), "c": Numbers(2, 11)}
LAYOUT = Layout(4, 0, 24)


def test_each_part_has_its_own_rows_of_a_folder(tmp_path):
  """Also in a mixture, which stays one, with its rates and epochs."""
  mixed = MixedItems(PARTS, RATES, {"c": 2.0})
  lengths, columns = mixed.lengths()[:, 1], {"number": (1, "int32")}
  token_arrays.create(tmp_path, lengths, columns, {})
  arrays = token_arrays.open_arrays(tmp_path, columns, "r+")
  arrays["number"][:, 0] = np.repeat(np.arange(len(lengths)), lengths)
  arrays["number"].flush()
  taught = token_arrays.with_arrays(mixed, str(tmp_path), columns)
  assert isinstance(taught, MixedItems)
  assert (taught.rates, taught.epochs) == (RATES, {"c": 2.0})
  assert taught.fingerprint == mixed.fingerprint
  chosen = [0, 69, 70, 369, 370, 380]
  for index, item in zip(chosen, taught.read(chosen, chosen)):
    np.testing.assert_array_equal(item["number"], np.full((lengths[index], 1), index))
  assert [taught.order(0)(i) for i in range(50)] == [mixed.order(0)(i) for i in range(50)]


@settings(max_examples=15)
@given(rates=st.lists(st.floats(0.02, 1), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_each_block_has_exactly_each_parts_share(rates, seed):
  parts = {str(i): Numbers(i, 7 + i) for i in range(len(rates))}
  index_at = MixedItems(parts, dict(zip(parts, rates))).order(seed)
  ends = np.cumsum([part.count for part in parts.values()])
  orders = []
  for block in range(2):
    owners = [
      int(np.searchsorted(ends, index_at(position), side="right"))
      for position in range(block * BLOCK, (block + 1) * BLOCK)
    ]
    counts = np.bincount(owners, minlength=len(rates))
    assert abs(counts - np.asarray(rates) / sum(rates) * BLOCK).max() < 1
    orders.append(owners)
  assert len(rates) == 1 or orders[0] != orders[1]


def test_a_parts_items_come_in_its_own_order_epoch_by_epoch():
  index_at = MixedItems(PARTS, RATES).order(3)
  numbers, first = [index_at(position) for position in range(3000)], 0
  for part in PARTS.values():
    mine = [number - first for number in numbers if first <= number < first + part.count]
    alone = items.order(part, part.count, 3)
    assert mine == [alone(position) for position in range(len(mine))]
    assert sorted(mine[: part.count]) == list(range(part.count))
    first += part.count
  assert index_at(17) == numbers[17]  # without the positions before it


def test_items_are_read_from_their_part_with_the_position_in_the_stream():
  whole, index_at = MixedItems(PARTS, RATES), MixedItems(PARTS, RATES).order(0)
  positions, ends = list(range(40)), np.cumsum([0, 70, 300, 11])
  indices = [index_at(position) for position in positions]
  assert len(whole.lengths()) == ends[-1]
  for index, position, item in zip(indices, positions, whole.read(indices, positions)):
    part = int(np.searchsorted(ends, index, side="right")) - 1
    assert item["target"][:3] == [10 + part, 100 + index - ends[part], 1000 + position]
    assert len(item["target"]) == whole.lengths()[index, 1]
  assert whole.read([], []) == []


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("cut", [0, 5, 60])
def test_resumed_is_uninterrupted(pack, cut):
  layout = Layout(4, 0, 24, pack)
  mixture = MixedItems(PARTS, RATES)
  with Batches(mixture, layout, seed=1) as whole, Batches(mixture, layout, seed=1) as before:
    expected, found = take(whole, 130), take(before, cut)
    state = json.loads(json.dumps(before.get_state()))
    with Batches(mixture, layout, seed=1) as after:
      take(after, 2)
      after.set_state(state)
      assert_same_batches(found + take(after, 130 - cut), expected)
      assert after.get_state() == whole.get_state()


def test_batches_are_the_same_for_any_number_of_workers():
  mixture = MixedItems(PARTS, RATES)
  with Batches(mixture, LAYOUT, seed=1) as none, Batches(mixture, LAYOUT, seed=1, workers=2) as two:
    assert_same_batches(take(two, 12), take(none, 12))
    assert two.get_state() == none.get_state()


def test_a_part_without_weights_has_those_of_its_labels():
  with Batches(MixedItems(PARTS, RATES), LAYOUT, seed=1) as batches:
    seen = set()
    for batch in take(batches, 10):
      for row in range(4):
        for segment in range(1, batch["segments"][row].max() + 1):
          here = batch["segments"][row] == segment
          part = int(batch["labels"][row][here][0]) - 10
          assert set(batch["weights"][row][here].tolist()) == {0.5 if part % 2 else 1.0}
          seen.add(part)
      assert not batch["weights"][batch["segments"] == 0].any()
    assert seen == {0, 1, 2}


def test_a_position_in_another_mixture_is_refused():
  prints = {
    MixedItems(PARTS, RATES).fingerprint,
    MixedItems(PARTS, RATES | {"c": 3}).fingerprint,
    MixedItems(PARTS | {"c": Numbers(2, 12)}, RATES).fingerprint,
  }
  assert len(prints) == 3
  assert MixedItems(PARTS, {name: 2 * rate for name, rate in RATES.items()}).fingerprint in prints


def test_a_mixture_pickles_without_its_lengths():
  large = {"a": Numbers(0, 50_000), "b": Numbers(1, 50_000)}
  mixture = MixedItems(large, {"a": 1, "b": 1})
  numbers = [3, 99_999, 50_000]
  expected = [item["target"] for item in mixture.read(numbers, numbers)]
  mixture.order(0)
  data = pickle.dumps(mixture)
  assert len(data) < 2000
  copy = pickle.loads(data)
  assert [item["target"] for item in copy.read(numbers, numbers)] == expected


def test_no_items_are_read_without_lengths(monkeypatch):
  part = Numbers(0, 5)
  monkeypatch.setattr(part, "lengths", None, raising=False)
  assert MixedItems({"a": part}, {"a": 1}).read([], []) == []


def test_items_that_cannot_be_mixed_are_reported(monkeypatch):
  with pytest.raises(UserError, match=r"less than 1/1000 .* of a .*parts\.a\.share.*alpha"):
    MixedItems(PARTS, RATES | {"a": 1e-4}).order(0)
  other = Numbers(3, 5)
  monkeypatch.setattr(other, "lengths", lambda: np.full((5, 2), 3), raising=False)
  with pytest.raises(UserError, match="all must have a source and a target"):
    MixedItems({"a": PARTS["a"], "b": other}, RATES).lengths()


def test_rates_are_rounded_by_the_largest_remainders():
  counts = {(1, 1, 1): [334, 333, 333], (0.29, 0.71): [290, 710], (2, 3, 2): [286, 428, 286]}
  for rates, expected in counts.items():
    parts = {str(i): Numbers(i, 3) for i in range(len(rates))}
    assert MixedItems(parts, dict(zip(parts, rates))).counts() == expected
