"""Tests whether the scores of two runs on the same examples differ by more than chance.

BLEU: sacreBLEU's paired bootstrap (Koehn 2004). Right or wrong for each example (accuracy, exact
match): McNemar's exact test (1947), two-sided. Other scores (F1, accuracy of tags, Pearson), which
are functions of sums over examples: a paired bootstrap, two-sided. Intervals are 95% bootstrap
intervals.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.scoring import schemes, scores

SEED = 12345  # sacreBLEU's; $SACREBLEU_SEED changes BLEU's, whose signature names it


class Score(NamedTuple):
  """A score as a function of sums over examples; `binary`: each adds 1 or 0 for right, and 1."""

  sums: np.ndarray  # [examples, k]
  of: Callable[[np.ndarray], float]  # of the sums' sum [k]
  binary: bool = False

  @property
  def value(self) -> float:
    return self.of(self.sums.sum(0))


class Judged(NamedTuple):
  """A run's outputs, scored against the references."""

  run: str
  kind: str  # of SCORES
  references: list
  scores: Mapping[str, Score]
  predictions: Sequence = ()
  bleu: Mapping | None = None  # the options of BLEU for texts


class Row(NamedTuple):
  """A run in a test; the first row is the baseline, which has no p."""

  run: str
  score: float
  low: float
  high: float
  p: float | None = None
  only: tuple[int, int] | None = None  # examples right in this run alone, in the first alone


class Test(NamedTuple):
  """A score of several runs, with the tests against the first."""

  metric: str
  how: str
  rows: list[Row]


def kind_of(task: Mapping) -> str | None:
  """Returns the kind of a task's outputs, a key of SCORES; None where there is no score."""
  name = task["name"]
  if name == "text_to_text":
    return task["kind"]
  if name == "classification":
    return "numbers" if task["regression"] else "classes"
  return {"translation": "texts", "tagging": "tags", "qa": "answers"}.get(name)


def read(file: pathlib.Path) -> list[dict]:
  """Reads the lines that train.evaluate wrote."""
  with file.open(encoding="utf-8", errors="replace") as lines:
    return [json_files.parse(line, f"{file} line {n}") for n, line in enumerate(lines, 1)]


def judge(run: str, task: Mapping, rows: Sequence[Mapping]) -> Judged:
  """Scores the rows of `read`, from a run whose task has these settings."""
  kind, where = kind_of(task), f"{run}: its outputs are"
  if not rows:
    raise UserError(f"{where} an empty file; repeat the evaluation")
  with as_user_error(f"{where} not as train.evaluate writes them; repeat the evaluation"):
    predictions, references = _pairs(task, kind, rows)
    scored = SCORES[kind](predictions, references)
    bleu = None
    if kind == "texts":
      bleu = dict(tokenize=task["bleu_tokenizer"], lowercase=task["lowercase_scores"])
    return Judged(run, kind, references, scored, predictions, bleu)


def _pairs(task, kind, rows):
  """Returns the predictions and the references of the rows, as SCORES[kind] takes them."""
  outputs = [x["output"] for x in rows]
  if task["name"] == "tagging":
    return [x["tags"] for x in outputs], [list(x["tags"]) for x in rows]
  if task["name"] == "classification" and kind == "numbers":
    return [x["value"] for x in outputs], [float(x["label"]) for x in rows]
  texts = [x["text"] for x in outputs]
  if task["name"] == "classification":
    return texts, [x["label"] for x in rows]
  if kind == "answers":
    return texts, [
      [answer["text"] for answer in x["answers"]] if "answers" in x else [x["target"]] for x in rows
    ]
  marker = task.get("piece_marker", "")  # of a translation; where it is "", nothing is replaced
  targets = [x["target"].replace(marker, "") for x in rows]
  if kind == "tags":
    return scores.split_tags(texts, targets)
  if kind == "numbers":  # a text that is no number counts as 0
    return np.nan_to_num(scores.parse_numbers(texts)).tolist(), list(map(float, targets))
  return texts, targets


def _share(sums, binary=False):
  return Score(np.asarray(sums), lambda x: 100.0 * x[0] / x[1] if x[1] else 0.0, binary)


def _score_equal(predictions, references):
  return _share([[float(a == b), 1.0] for a, b in zip(predictions, references)], binary=True)


def _score_tags(predictions, references):
  pairs = [list(zip(*both, strict=True)) for both in zip(predictions, references)]
  scored = {"accuracy": _share([[sum(a == b for a, b in x), len(x)] for x in pairs])}
  if schemes.has_scheme(tag for row in references for tag in row):
    from seqeval.metrics.sequence_labeling import get_entities

    sets = [
      (set(get_entities(a)), set(get_entities(b)))
      for a, b in zip(schemes.to_bioes(predictions), schemes.to_bioes(references))
    ]
    # F1 = 2 x right / (predicted + in the references)
    scored["f1"] = _share([[2 * len(a & b), len(a) + len(b)] for a, b in sets])
  return scored


def _score_answers(predictions, references):
  each = [scores.answers([text], [golds]) for text, golds in zip(predictions, references)]
  exact, f1 = ([[x[name] / 100.0, 1.0] for x in each] for name in ("exact_match", "f1"))
  return {"exact_match": _share(exact, binary=True), "f1": _share(f1)}


def _score_numbers(predictions, references):
  a, b = np.asarray(predictions), np.asarray(references)
  a, b = a - a.mean(), b - b.mean()  # the same correlation with less rounding
  sums = np.stack([a, b, a * a, b * b, a * b, np.ones_like(a)], 1)

  def pearson(x):
    a, b, aa, bb, ab, n = x
    spread = (n * aa - a * a) * (n * bb - b * b)
    return 100.0 * (n * ab - a * b) / np.sqrt(spread) if spread > 0 else 0.0

  return {"pearson": Score(sums, pearson)}


SCORES = dict(
  texts=lambda predictions, references: {"exact_match": _score_equal(predictions, references)},
  classes=lambda predictions, references: {"accuracy": _score_equal(predictions, references)},
  tags=_score_tags,
  answers=_score_answers,
  numbers=_score_numbers,
)


def tests(judged: Sequence[Judged], samples: int) -> list[Test]:
  """Compares each run with the first in every score; raises UserError if references differ."""
  for other in judged[1:]:
    _check_same_references(judged[0], other)
  results = [_test_bleu(judged, samples)] if judged[0].kind == "texts" else []
  return results + [_test(judged, metric, samples) for metric in judged[0].scores]


def _check_same_references(first, other):
  where = f"the outputs of {first.run} and {other.run} have different references"
  what = "they cannot be compared; --split none leaves the tests out"
  if len(first.references) != len(other.references):
    counts = f"{len(first.references):,} and {len(other.references):,} examples"
    raise UserError(f"{where}: {counts}; {what}")
  for index, (a, b) in enumerate(zip(first.references, other.references), 1):
    if a != b:
      raise UserError(f"{where}: example {index} has {a!r} and {b!r}; {what}")


def _test_bleu(judged, samples):
  """Runs sacreBLEU's test; no difference has p = 1, where sacreBLEU has 1 / (samples + 1)."""
  import sacrebleu
  from sacrebleu.significance import PairedTest

  metric = sacrebleu.BLEU(**judged[0].bleu, force=True)
  systems = [(outputs.run, outputs.predictions) for outputs in judged]
  references = [judged[0].references]
  signatures, results = PairedTest(systems, {"BLEU": metric}, references, "bs", n_samples=samples)()
  rows = []
  for outputs, result in zip(judged, results["BLEU"]):
    p = 1.0 if rows and result.score == rows[0].score else result.p_value
    low, high = result.mean - result.ci, result.mean + result.ci
    rows.append(Row(outputs.run, result.score, low, high, p))
  how = f"sacreBLEU's paired bootstrap, one-sided, signature {signatures['BLEU'].format()}"
  return Test("bleu", how, rows)


def _test(judged, metric, samples):
  """Runs McNemar's test of a score that is right or wrong for each example, else a bootstrap."""
  each = [outputs.scores[metric] for outputs in judged]
  base, drawn = each[0], [_samples(score, samples) for score in each]
  rows = []
  for outputs, score, values in zip(judged, each, drawn):
    p = only = None
    if rows and score.binary:
      p, only = _mcnemar(base, score)
    elif rows:
      p = _bootstrap(score.value - base.value, values - drawn[0])
    low, high = np.percentile(values, (2.5, 97.5)).tolist()
    rows.append(Row(outputs.run, score.value, low, high, p, only))
  how = "McNemar's exact test" if base.binary else f"paired bootstrap, {samples:,} samples"
  return Test(metric, f"{how}, two-sided", rows)


def _mcnemar(base, score):
  """Tests the examples that one run alone has right against an even coin; returns p and both."""
  from scipy.stats import binomtest

  a, b = base.sums[:, 0] > 0, score.sums[:, 0] > 0
  gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
  p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
  return p, (gained, lost)


def _bootstrap(difference, drawn):
  """Counts samples whose difference is as far from the mean as the difference is from zero."""
  beyond = np.abs(drawn - drawn.mean()) >= abs(difference) - 1e-12
  return float((beyond.sum() + 1) / (len(drawn) + 1))


def _samples(score, samples):
  """Returns the score of so many samples of the examples, the same examples for every run."""
  rng, count = np.random.default_rng(SEED), len(score.sums)
  drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(samples))
  return np.asarray([score.of(times @ score.sums) for times in drawn])
