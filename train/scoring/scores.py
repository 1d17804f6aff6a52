"""Scores of outputs against what is wanted, on the host, by the field's own libraries."""

import collections
import math
import re
import string
from collections.abc import Sequence

import numpy as np

from train.common.errors import UserError


def texts(found: Sequence[str], wanted: Sequence[str], *, tokenize="13a", lowercase=False) -> dict:
  """BLEU and chrF as sacreBLEU has them, and the percentage of exact matches."""
  import sacrebleu  # half a second

  bleu = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
  chrf = sacrebleu.CHRF(lowercase=lowercase)
  return dict(
    bleu=bleu.corpus_score(list(found), [list(wanted)]).score,
    bleu_signature=str(bleu.get_signature()),
    chrf=chrf.corpus_score(list(found), [list(wanted)]).score,
    chrf_signature=str(chrf.get_signature()),
    exact_match=100.0 * float(np.mean([a == b for a, b in zip(found, wanted)])),
  )


def classes(found: Sequence[str], wanted: Sequence[str]) -> dict:
  """Percentages right and of macro-averaged F1, and Matthews' correlation (times 100)."""
  from sklearn import metrics  # a second

  known = sorted(set(wanted))
  return dict(
    accuracy=100.0 * metrics.accuracy_score(wanted, found),
    macro_f1=100.0
    * metrics.f1_score(wanted, found, labels=known, average="macro", zero_division=0.0),
    matthews=100.0 * metrics.matthews_corrcoef(wanted, found),
  )


def numbers(found: Sequence[float], wanted: Sequence[float]) -> dict:
  """Pearson's and Spearman's correlation (times 100) and the mean squared error."""
  from scipy import stats

  return dict(
    pearson=100.0 * _correlation(stats.pearsonr, found, wanted),
    spearman=100.0 * _correlation(stats.spearmanr, found, wanted),
    mse=float(np.mean((np.asarray(found) - np.asarray(wanted)) ** 2)),
  )


def _correlation(of, found, wanted):
  if len(found) < 2 or np.ptp(found) == 0 or np.ptp(wanted) == 0:
    return 0.0  # of a constant there is none; a model that says always the same has learned nothing
  return float(of(found, wanted).statistic)


def tags(found: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> dict:
  """Percentage of right tags; for BIO tags also entity precision, recall and F1 (seqeval)."""
  pairs = [pair for both in zip(found, wanted) for pair in zip(*both, strict=True)]
  scores = dict(accuracy=100.0 * float(np.mean([a == b for a, b in pairs])))
  if all(is_bio(tag) for _, tag in pairs):
    from seqeval import metrics

    both = list(map(list, wanted)), only_bio(found)
    scores |= dict(
      precision=100.0 * metrics.precision_score(*both, zero_division=0),
      recall=100.0 * metrics.recall_score(*both, zero_division=0),
      f1=100.0 * metrics.f1_score(*both, zero_division=0),
    )
  return scores


def only_bio(rows: Sequence[Sequence[str]]) -> list[list[str]]:
  """The tags with O for those that are none of BIO's, which seqeval takes for entities."""
  return [[tag if is_bio(tag) else "O" for tag in row] for row in rows]


def is_bio(tag: str) -> bool:
  """Whether a tag is outside of entities, or says its place in one and the kind."""
  return tag == "O" or re.match(r"[BIES]-", tag) is not None


def typed_numbers(found: Sequence[str], wanted: Sequence[str]) -> dict:
  """`numbers` of texts; what is no number counts as 0, and how many are is told."""

  def number(text):
    try:
      return float(text)
    except ValueError:
      return math.nan

  values = np.asarray([number(text) for text in found])
  if wrong := [text for text in wanted if math.isnan(number(text))]:
    raise UserError(f"{len(wrong)} labels are no numbers: {', '.join(map(repr, wrong[:5]))}")
  scores = numbers(np.nan_to_num(values), [float(text) for text in wanted])
  return scores | dict(no_numbers=int(np.isnan(values).sum()))


def typed_tags(found: Sequence[str], wanted: Sequence[str]) -> dict:
  """`tags` of texts with blanks between."""
  return tags(*split_tags(found, wanted))


def split_tags(found: Sequence[str], wanted: Sequence[str]) -> tuple[list[list[str]], ...]:
  """The tags of texts, as many found as are wanted: one too few is "?", one too many is cut."""
  wanted = [text.split() for text in wanted]
  split = [
    text.split()[: len(w)] + ["?"] * (len(w) - len(text.split())) for text, w in zip(found, wanted)
  ]
  return split, wanted


def answers(found: Sequence[str], wanted: Sequence[Sequence[str]]) -> dict:
  """Exact match and F1 in percent, as SQuAD's official script (2.0) computes them.

  `wanted` are the right answers of each question, none or "" where there is no answer.
  """
  exact, f1 = [], []
  for one, golds in zip(found, wanted):
    # the script drops right answers that normalise to nothing; without any, only "" is right
    golds = [gold for gold in golds if _normal(gold)] or [""]
    exact.append(max(float(_normal(one) == _normal(gold)) for gold in golds))
    f1.append(max(_overlap(one, gold) for gold in golds))
  return dict(exact_match=100.0 * float(np.mean(exact)), f1=100.0 * float(np.mean(f1)))


def _normal(text):
  """Lower case without punctuation, articles and double blanks."""
  text = "".join(c for c in text.lower() if c not in set(string.punctuation))
  return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _overlap(found, wanted):
  a, b = _normal(found).split(), _normal(wanted).split()
  if not a or not b:
    return float(a == b)
  same = sum((collections.Counter(a) & collections.Counter(b)).values())
  if not same:
    return 0.0
  precision, recall = same / len(a), same / len(b)
  return 2 * precision * recall / (precision + recall)
