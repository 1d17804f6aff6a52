"""Recognises the first row of a table as the names of its columns."""

import re
from collections.abc import Sequence

# What headers call the columns; the first name that a header has is taken.
ALIASES = {
  "text": "sentence1 premise question1 text_a text1 sentence review content document comment tweet"
  " message body utterance question query article dialogue headline title",
  "text_pair": "sentence2 hypothesis question2 text_b text2 sentence document passage context",
  "label": "labels class category target sentiment score rating stars topic intent emotion",
  "labels": "label classes categories tags topics genres emotions",
  "summary": "highlights abstract tldr target",
  "source": "src input",
  "target": "tgt output",
}
FEW_WORDS = 3  # of the name of a column


def match_header(cells: Sequence[str], names: Sequence[str]) -> tuple[int, ...] | None:
  """Returns the place of each column in a row of columns' names, or None if it is no such row."""
  cells, places = [cell.strip().casefold() for cell in cells], []
  for name in names:
    known = (str(name).casefold(), *ALIASES.get(name, "").split())
    places.append(next((cells.index(alias) for alias in known if alias in cells), None))
  return None if None in places or len(set(places)) < len(places) else tuple(places)


def names_fields(cells: Sequence[str], fields: Sequence[str]) -> bool:
  """Returns whether each cell has at most FEW_WORDS, with the field's name or an alias of it."""
  for cell, field in zip(cells, fields, strict=True):
    words = re.findall(r"[^\W_]+", cell.casefold())
    if len(words) > FEW_WORDS or not {field, *ALIASES.get(field, "").split()} & {*words, cell}:
      return False
  return True
