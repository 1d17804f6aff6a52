"""Recognises tags that mark entities, by one of seqeval's schemes (IOB1, IOB2, BIOES, BILOU).

A tag is O or a letter before an entity's kind (B-PER). All schemes are read in seqeval's default
way, as conlleval does: an entity may begin with any letter after another kind or O.
"""

import re
from collections.abc import Iterable, Sequence

from train.common.errors import UserError

Rows = Sequence[Sequence[str]]  # the tags of each text
TAG = re.compile(r"[BIESLU]-")
ENTITIES = ("precision", "recall", "f1")  # metrics that need a scheme


def has_scheme(tags: Iterable[str]) -> bool:
  """Returns True if all tags are O or begin with a letter of one scheme."""
  tags = {tag for tag in tags if tag != "O"}
  letters = {tag[:1] for tag in tags}
  return all(map(TAG.match, tags)) and not (letters & {*"ES"} and letters & {*"LU"})


def to_bioes(rows: Rows) -> list[list[str]]:
  """Writes BILOU's letters as BIOES's, the only ones that seqeval's default way knows, and replaces
  tags without a letter by O, because seqeval takes them for entities."""
  letters = {"L": "E", "U": "S"}
  return [
    [letters.get(tag[0], tag[0]) + tag[1:] if TAG.match(tag) else "O" for tag in row]
    for row in rows
  ]


def describe(rows: Iterable[Sequence[str]]) -> str:
  """Returns the scheme of the tags of sentences as a message for the log."""
  letters, begins, other = set(), {"B": 0, "I": 0}, set()
  for row in rows:
    before = "O"
    for tag in row:
      if TAG.match(tag):
        letters.add(tag[0])
        if tag[0] in begins and tag[1:] != before[1:]:
          begins[tag[0]] += 1
      elif tag != "O":
        other.add(tag)
      before = tag
  if other or not has_scheme(f"{letter}-" for letter in letters):
    return (
      f"The tags are of no scheme of entities ({_name(other or letters)}): accuracy is reported"
    )
  return (
    f"The tags are {_scheme(letters, begins)}: precision, recall and F1 of entities are reported"
  )


def _scheme(letters: set[str], begins: dict[str, int]) -> str:
  """Names the scheme of tags with these letters; `begins` counts the entities that begin with B or
  I after O or another kind."""
  if letters & {*"LU"}:
    return "BILOU"
  if letters & {*"ES"}:
    return "BIOES"
  if not letters:
    return "all O"
  if not begins["I"]:
    return "IOB2"
  if "B" not in letters:
    return "IOB1 or IO, which are the same without B, and each run of a kind is one entity"
  if not begins["B"]:
    return "IOB1"
  return (
    f"IOB2, although {begins['I']} of {begins['I'] + begins['B']} entities after O or another kind"
    " begin with I, which seqeval counts as entities"
  )


def check_metric(metric: str, tags: Iterable[str]) -> None:
  """Raises UserError for a metric of entities if the tags are of no scheme."""
  tags = set(tags)
  if metric in ENTITIES and not has_scheme(tags):
    other = {tag for tag in tags if tag != "O" and not TAG.match(tag)}
    raise UserError(
      f"checkpoint.best_metric is {metric!r}, but the tags are of no scheme of entities, such as"
      f" {_name(other or tags)}; set it to 'accuracy' (metric=accuracy), or write O, B-KIND and"
      " I-KIND (IOB1, IOB2), with E- and S- (BIOES) or L- and U- (BILOU); is data.tag the column?"
    )


def _name(tags: Iterable[str]) -> str:
  names = sorted(tags)
  return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
