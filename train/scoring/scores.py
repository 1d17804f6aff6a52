"""Scores predictions against references on the host, with the field's own libraries."""

import collections
import importlib.util
import itertools
import math
import re
import string
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from train.common.decimals import parse_decimal
from train.common.errors import UserError
from train.scoring import schemes
from train.scoring.schemes import Rows

# kind of outputs -> the names of its scores that are numbers; tags of no scheme lack the last
# three
NAMES = {
  "texts": ("bleu", "chrf", "exact_match"),
  "classes": ("accuracy", "macro_f1", "matthews"),
  "label sets": ("micro_f1", "macro_f1", "exact_match"),
  "regression": ("pearson", "spearman", "mse"),
  "numbers": ("pearson", "spearman", "mse", "no_numbers"),
  "tags": ("accuracy", "precision", "recall", "f1"),
  "answers": ("exact_match", "f1"),
  "summaries": ("rouge1", "rouge2", "rougeL", "rougeLsum"),
}


def texts(
  predictions: Sequence[str], references: Sequence[str], *, tokenize="13a", lowercase=False
) -> dict:
  """Returns sacreBLEU's BLEU and chrF, and the percentage of exact matches."""
  import sacrebleu  # imported late: half a second

  bleu = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
  chrf = sacrebleu.CHRF(lowercase=lowercase)
  return dict(
    bleu=bleu.corpus_score(list(predictions), [list(references)]).score,
    bleu_signature=str(bleu.get_signature()),
    chrf=chrf.corpus_score(list(predictions), [list(references)]).score,
    chrf_signature=str(chrf.get_signature()),
    exact_match=100.0 * float(np.mean([a == b for a, b in zip(predictions, references)])),
  )


def sentence(prediction: str, reference: str, **options) -> float:
  """Returns the smoothed BLEU of one sentence; `options` are sacrebleu's."""
  import sacrebleu

  return sacrebleu.sentence_bleu(prediction, [reference], **options).score


def classes(predictions: Sequence[str], references: Sequence[str]) -> dict:
  """Returns accuracy and macro-averaged F1 in percent, and Matthews' correlation times 100."""
  from sklearn import metrics  # imported late: a second

  labels = sorted(set(references))
  f1 = metrics.f1_score(references, predictions, labels=labels, average="macro", zero_division=0.0)
  return dict(
    accuracy=100.0 * metrics.accuracy_score(references, predictions),
    macro_f1=100.0 * f1,
    matthews=100.0 * metrics.matthews_corrcoef(references, predictions),
  )


def label_sets(
  predictions: Sequence[Collection[str]], references: Sequence[Collection[str]]
) -> dict:
  """Returns in percent the F1 of all decisions together (micro), the mean of the F1 of the labels
  that occur in the references (macro), and exact matches of whole sets (subset accuracy)."""
  right, predicted, present = count_labels(predictions, references)
  f1 = {label: 2 * right[label] / (present[label] + predicted[label]) for label in present}
  total = predicted.total() + present.total()
  return dict(
    micro_f1=200.0 * right.total() / max(total, 1),
    macro_f1=100.0 * sum(f1.values()) / max(len(f1), 1),
    exact_match=100.0 * float(np.mean([set(a) == set(b) for a, b in zip(predictions, references)])),
  )


def count_labels(predictions, references) -> list[collections.Counter]:
  """Returns how often each label is right, predicted, and in the references."""
  rows = [(set(a), set(b)) for a, b in zip(predictions, references, strict=True)]
  sets = zip(*((a & b, a, b) for a, b in rows))
  return [collections.Counter(itertools.chain.from_iterable(column)) for column in sets]


def mean_of_columns(each: Mapping[str, Mapping[str, float]]) -> dict:
  """Returns the mean of each score over all columns, and the score of each as SCORE_COLUMN."""
  names = NAMES["regression"]
  means = {name: float(np.mean([row[name] for row in each.values()])) for name in names}
  return means | {f"{name}_{column}": row[name] for column, row in each.items() for name in names}


def numbers(predictions: Sequence[float], references: Sequence[float]) -> dict:
  """Returns Pearson's and Spearman's correlation times 100, and the mean squared error."""
  from scipy import stats

  return dict(
    pearson=100.0 * _correlation(stats.pearsonr, predictions, references),
    spearman=100.0 * _correlation(stats.spearmanr, predictions, references),
    mse=float(np.mean((np.asarray(predictions) - np.asarray(references)) ** 2)),
  )


def _correlation(statistic, predictions, references):
  if len(predictions) < 2 or np.ptp(predictions) == 0 or np.ptp(references) == 0:
    return 0.0  # undefined for a constant; a model with a constant output has learned nothing
  return float(statistic(predictions, references).statistic)


def tags(predictions: Rows, references: Rows) -> dict:
  """Returns the percentage of right tags; of tags with a scheme of entities (schemes.py) also
  seqeval's precision, recall and F1."""
  pairs = [pair for rows in zip(predictions, references) for pair in zip(*rows, strict=True)]
  scores = dict(accuracy=100.0 * float(np.mean([a == b for a, b in pairs])))
  if schemes.has_scheme(tag for _, tag in pairs):
    from seqeval import metrics

    rows = schemes.to_bioes(references), schemes.to_bioes(predictions)
    scores |= dict(
      precision=100.0 * metrics.precision_score(*rows, zero_division=0),
      recall=100.0 * metrics.recall_score(*rows, zero_division=0),
      f1=100.0 * metrics.f1_score(*rows, zero_division=0),
    )
  return scores


def numbers_as_text(predictions: Sequence[str], references: Sequence[str]) -> dict:
  """Returns `numbers` of texts; a prediction that is no number counts as 0 and in `no_numbers`."""
  values, labels = parse_numbers(predictions), parse_numbers(references)
  if wrong := [text for text, label in zip(references, labels) if math.isnan(label)]:
    raise UserError(f"{len(wrong)} labels are no numbers: {', '.join(map(repr, wrong[:5]))}")
  return numbers(np.nan_to_num(values), labels) | dict(no_numbers=int(np.isnan(values).sum()))


def parse_numbers(texts: Sequence[str]) -> np.ndarray:
  """Returns the numbers that texts spell, NaN for a text that is no finite decimal number."""
  values = map(parse_decimal, texts)
  return np.asarray([math.nan if value is None else value for value in values])


def tags_as_text(predictions: Sequence[str], references: Sequence[str]) -> dict:
  """Returns `tags` of texts, whose tags are separated by blanks."""
  return tags(*split_tags(predictions, references))


def split_tags(predictions: Sequence[str], references: Sequence[str]) -> tuple[Rows, Rows]:
  """Splits texts into tags, as many predictions as references: a missing tag becomes "?", and tags
  beyond the reference are cut."""
  split = [text.split() for text in predictions]
  rows = [text.split() for text in references]
  return [(words + ["?"] * len(row))[: len(row)] for words, row in zip(split, rows)], rows


def answers(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict:
  """Returns exact match and F1 in percent, as SQuAD's official script (2.0) computes them.

  The references are all right answers of each question, none or "" if it has no answer.
  """
  exact, f1 = [], []
  for prediction, golds in zip(predictions, references):
    # the script drops answers that normalise to nothing; if none is left, only "" is right
    golds = [gold for gold in golds if _normalise(gold)] or [""]
    exact.append(max(float(_normalise(prediction) == _normalise(gold)) for gold in golds))
    f1.append(max(_word_f1(prediction, gold) for gold in golds))
  return dict(exact_match=100.0 * float(np.mean(exact)), f1=100.0 * float(np.mean(f1)))


def check_rouge() -> None:
  """Raises UserError if rouge-score is not installed, which scores of summaries need."""
  if importlib.util.find_spec("rouge_score") is None:
    raise UserError(
      "the scores of task.kind='summaries' need rouge-score: pip install -r"
      " requirements-experiments.txt, or set evaluate.decode_every=0"
    )


def summaries(predictions: Sequence[str], references: Sequence[str]) -> dict:
  """Returns the mean F1 in percent of ROUGE-1, ROUGE-2, ROUGE-L and, for texts with a sentence on
  each line, ROUGE-Lsum, by rouge-score with stemming (Lin 2004; Raffel et al. 2020).

  Words are of ASCII letters and digits there.
  """
  check_rouge()
  from rouge_score import rouge_scorer  # imported late: a second

  names = NAMES["summaries"]
  scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
  rows = [scorer.score(gold, text) for gold, text in zip(references, predictions, strict=True)]
  return {name: 100.0 * float(np.mean([row[name].fmeasure for row in rows])) for name in names}


def _normalise(text):
  """Returns the text in lower case without punctuation, articles and repeated blanks."""
  text = "".join(c for c in text.lower() if c not in set(string.punctuation))
  return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _word_f1(prediction, reference):
  a, b = _normalise(prediction).split(), _normalise(reference).split()
  if not a or not b:
    return float(a == b)
  same = sum((collections.Counter(a) & collections.Counter(b)).values())
  if not same:
    return 0.0
  precision, recall = same / len(a), same / len(b)
  return 2 * precision * recall / (precision + recall)
