"""Schemes of entities are recognised from tags, and scored as seqeval's strict way does where tags
are well formed."""

import re

import numpy as np
import pytest
import seqeval.metrics
import seqeval.scheme
from hypothesis import given
from hypothesis import strategies as st

from train.common.errors import UserError
from train.scoring import classes, colour, schemes, scores

# The entities of a text as (kind, number of words); None: a word of no entity.
TEXTS = st.lists(
  st.lists(
    st.none() | st.tuples(st.sampled_from(["PER", "LOC"]), st.integers(1, 4)),
    min_size=1,
    max_size=8,
  ),
  min_size=1,
  max_size=4,
)
EXAMPLE = [("LOC", 3), None, ("PER", 1), ("PER", 2), ("PER", 1)]


def write(text, scheme):
  """Writes the entities of a text as tags."""
  tags, before = [], None
  for entity in text:
    if entity is None:
      tags.append("O")
    else:
      kind, length = entity
      letters = ["B", *"I" * (length - 1)]
      if scheme == "IOB1" and (not before or before[0] != kind):
        letters[0] = "I"
      elif scheme in ("BIOES", "BILOU"):
        single, last = ("S", "E") if scheme == "BIOES" else ("U", "L")
        letters = [single] if length == 1 else ["B", *"I" * (length - 2), last]
      tags += [f"{letter}-{kind}" for letter in letters]
    before = entity
  return tags


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU"])
def test_a_scheme_is_recognised(scheme):
  rows = [write(EXAMPLE, scheme), ["O"]]
  assert f"are {scheme}:" in schemes.describe(rows)
  assert schemes.has_scheme({tag for row in rows for tag in row})


@pytest.mark.parametrize(
  "rows, message",
  [
    ([["I-PER", "I-PER", "O"]], "are IOB1 or IO, .*each run of a kind is one entity"),
    ([["B-PER", "I-PER", "O", "I-PER", "I-LOC"]], "IOB2, although 2 of 3 entities"),
    ([["B-PER", "O", "B-PER"]], "are IOB2:"),
    ([["O", "O"]], "are all O:"),
    ([["NOUN", "VERB", "O"]], r"no scheme of entities \(NOUN, VERB\): accuracy"),
    ([["S-PER", "U-PER"]], "no scheme of entities"),
    ([["B_PER", "O"]], r"no scheme of entities \(B_PER\)"),
    ([list("abcdef")], r"\(a, b, c, d, e, \.\.\.\)"),
  ],
)
def test_other_tags_are_described(rows, message):
  assert re.search(message, schemes.describe(rows))


@pytest.mark.parametrize("scheme", ["IOB2", "BIOES", "BILOU"])
@given(references=TEXTS, seed=st.integers(0, 99))
def test_scores_are_seqevals_strict_ones(scheme, references, seed):
  rng = np.random.default_rng(seed)
  rows = [write(text, scheme) for text in references]
  changed = [
    write([x and (x[0] if rng.random() < 0.7 else "LOC", x[1]) for x in text], scheme)
    for text in references
  ]
  scored = scores.tags(changed, rows)
  options = dict(
    mode="strict", scheme=getattr(seqeval.scheme, scheme.replace("BIOES", "IOBES")), zero_division=0
  )
  if any(tag != "O" for row in rows for tag in row):
    f1 = 100 * seqeval.metrics.f1_score(rows, changed, **options)
    assert scored["f1"] == pytest.approx(f1)


@given(references=TEXTS)
def test_all_schemes_have_the_same_entities(references):
  predictions = [text[::-1] for text in references]
  lengths = [sum(x[1] if x else 1 for x in text) for text in references]
  results = []
  for scheme in ("IOB1", "IOB2", "BIOES", "BILOU"):
    rows = [[write(text, scheme) for text in side] for side in (predictions, references)]
    assert [len(row) for row in rows[0]] == lengths
    scored = scores.tags(*rows)
    results.append([scored[name] for name in schemes.ENTITIES])
    report = classes.tag_report(*rows)
    kinds = {x[0] for text in references for x in text if x}
    assert report.kind == "entity"
    assert report.classes.keys() >= kinds
  assert results == pytest.approx(np.asarray(results[:1] * 4))


def test_entities_of_bilou_are_coloured_as_wholes():
  tags = write(EXAMPLE, "BILOU")
  spans = colour.tag_spans(tags, entities=True)
  assert spans == [("LOC", 0, 3), ("", 3, 4), ("PER", 4, 5), ("PER", 5, 7), ("PER", 7, 8)]


def test_a_metric_of_entities_needs_a_scheme():
  schemes.check_metric("accuracy", ["NOUN"])
  schemes.check_metric("f1", write(EXAMPLE, "BILOU"))
  for metric in schemes.ENTITIES:
    with pytest.raises(UserError, match=rf"best_metric is '{metric}'.* such as NOUN;.*accuracy"):
      schemes.check_metric(metric, ["NOUN", "O", "B-X"])
