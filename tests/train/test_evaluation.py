"""Early stopping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.evaluation import EarlyStopping


@given(st.lists(st.integers(0, 5)), st.integers(1, 4), st.sampled_from(["min", "max"]))
def test_over_when_the_last_values_brought_nothing(values, limit, mode):
  stopping = EarlyStopping(limit, "loss", mode)
  for value in values:
    stopping.add({"loss": value})
  better = min if mode == "min" else max
  # the first place of the best value, counted from the end
  waited = len(values) - 1 - values.index(better(values)) if values else 0
  assert stopping.due == (waited >= limit)


def test_other_metrics_do_not_count():
  stopping = EarlyStopping(1, "bleu", "max")
  for scores in ({"bleu": 30.0}, {"loss": 1.0}, {"loss": 2.0}):
    stopping.add(scores)
  assert not stopping.due
  stopping.add({"bleu": 29.0})
  assert stopping.due
  assert "1 evaluations without a bleu better than 30" in str(stopping)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_no_limit_never_ends(mode):
  stopping = EarlyStopping(0, "loss", mode)
  for _ in range(100):
    stopping.add({"loss": 1.0})
  assert not stopping.due
