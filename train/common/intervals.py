"""Checks values against types and against intervals of numbers such as "[0, 1)"."""

import math

from train.common.errors import UserError

SEEDS = "[0, 4294967295]"  # numpy and jax take no others
LARGEST = 2**31 - 1  # whole number but for seeds: sizes and counts are int32


def check(key: str, value, kind: type, interval: str = "(-inf, inf)") -> None:
  """Raises UserError for a value of another type, a number outside the interval, or nan or inf.

  A float may be given as an int.
  """
  if type(value) is not kind and not (kind is float and type(value) is int):
    raise UserError(f"{key} is {value!r}: expects {kind.__name__}")
  if kind is float and not math.isfinite(value):
    raise UserError(f"{key} is {value}: expects a finite number")
  if kind is int:
    interval = interval.replace("inf)", f"{LARGEST}]")
  if kind in (int, float) and not within(value, interval):
    raise UserError(f"{key} is {value}: expects {in_words(interval)}")


def within(value: float, interval: str) -> bool:
  """Returns whether a number lies in an interval; [ and ] include an end, ( and ) do not."""
  low, high = map(float, interval[1:-1].split(","))
  above = value > low if interval[0] == "(" else value >= low
  return above and (value < high if interval[-1] == ")" else value <= high)


def in_words(interval: str) -> str:
  """Returns what an interval allows: "a number of at least 0 and below 1"."""
  low, high = (text.strip() for text in interval[1:-1].split(","))
  words = [] if low == "-inf" else [f"{'above' if interval[0] == '(' else 'of at least'} {low}"]
  if high != "inf":
    words.append(f"{'below' if interval[-1] == ')' else 'at most'} {high}")
  return f"a number {' and '.join(words)}"
