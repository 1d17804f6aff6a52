"""Patience: over when the last `limit` evaluations are none better than the best before them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.metrics import Patience


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
