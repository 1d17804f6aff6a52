"""Parses decimal numbers as people write them, and nothing else that Python takes for a number."""

import re

DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
LARGEST = 3.4e38  # a float32 holds a little more


def parse_decimal(text: str) -> float | None:
  """Returns the number that a text spells in ASCII digits, or None: for nan, inf, 1_000, digits of
  other scripts and numbers beyond float32 too."""
  if not DECIMAL.fullmatch(text.strip()) or abs(value := float(text)) > LARGEST:
    return None
  return value
