"""Parses decimal numbers as people write them, and nothing else that Python takes for a number."""

import math
import re

DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def parse_decimal(text: str) -> float | None:
  """Returns the finite number that a text spells in ASCII digits, or None: for nan, inf, 1_000 and
  digits of other scripts too."""
  if not DECIMAL.fullmatch(text.strip()) or not math.isfinite(value := float(text)):
    return None
  return value
