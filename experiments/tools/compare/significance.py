"""Whether what two runs made of the same examples differs by more than chance would have it.

BLEU: sacreBLEU's paired bootstrap (Koehn 2004). What is right or wrong of each example (accuracy,
exact match): McNemar's exact test (1947), two-sided. Other scores (F1, accuracy of tags, Pearson):
a paired bootstrap, two-sided, as all of these are functions of sums over examples. Intervals are of
95% and from bootstraps.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.scoring import scores

SEED = 12345  # sacreBLEU's; $SACREBLEU_SEED changes that of BLEU, whose signature tells it


@dataclasses.dataclass(frozen=True)
class Score:
  """A score of all examples as a function of sums over them. If `binary`, each example has a 1 for
  right and a 0 for wrong, and then a 1."""

  sums: np.ndarray  # [examples, k]
  of: Callable[[np.ndarray], float]  # of the sums' sum [k]
  binary: bool = False

  @property
  def value(self) -> float:
    return self.of(self.sums.sum(0))


@dataclasses.dataclass(frozen=True)
class Judged:
  """A run's outputs, held against what was wanted."""

  run: str
  kind: str  # of JUDGES
  wanted: list
  scores: Mapping[str, Score]
  texts: list[str] | None = None  # for BLEU
  bleu: Mapping | None = None  # how


class Row(NamedTuple):
  """A run in a test; the first, which others are held against, has no difference."""

  run: str
  score: float
  low: float
  high: float
  difference: float | None = None
  p: float | None = None
  only: tuple[int, int] | None = None  # examples right in this run alone, in the first alone


class Test(NamedTuple):
  metric: str
  how: str
  rows: list[Row]


def kind_of(task: Mapping) -> str | None:
  """What outputs of a task are judged as: one of JUDGES; None where there is no score."""
  name = task["name"]
  if name == "text_to_text":
    return task["kind"]
  if name == "classification":
    return "numbers" if task["regression"] else "classes"
  return {"translation": "texts", "tagging": "tags", "qa": "answers"}.get(name)


def read(file: pathlib.Path) -> list[dict]:
  """The lines that train.evaluate wrote."""
  with open(file, encoding="utf-8", errors="replace") as lines:
    return [json_files.parsed(line, f"{file} line {at}") for at, line in enumerate(lines, 1)]


def judge(run: str, task: Mapping, rows: Sequence[Mapping]) -> Judged:
  """What `read` gives of a run whose task has these settings."""
  kind = kind_of(task)
  if not rows:
    raise UserError(f"{run}: its outputs are a file without lines; do the evaluation again")
  with as_user_error(
    f"{run}: its outputs are not as train.evaluate writes them; do the evaluation again"
  ):
    found, wanted = JUDGES[kind](task, rows)
    made = Judged(run, kind, wanted, SCORES[kind](found, wanted))
  if kind != "texts":
    return made
  how = dict(tokenize=task["bleu_tokenizer"], lowercase=task["lowercase_scores"])
  return dataclasses.replace(made, texts=found, bleu=how)


def _texts(task, rows):
  marker = task["piece_marker"]
  targets = [x["target"].replace(marker, "") if marker else x["target"] for x in rows]
  return [x["output"]["text"] for x in rows], targets


def _in_words(rows):
  """Returns outputs and references of a task that writes its labels."""
  return [x["output"]["text"] for x in rows], [x["target"] for x in rows]


def _classes(task, rows):
  if task["name"] == "text_to_text":
    return _in_words(rows)
  return [x["output"]["text"] for x in rows], [x["label"] for x in rows]


def _tags(task, rows):
  if task["name"] == "text_to_text":
    return scores.split_tags(*_in_words(rows))
  return [x["output"]["tags"] for x in rows], [list(x["tags"]) for x in rows]


def _answers(task, rows):
  del task
  found = [x["output"]["text"] for x in rows]
  return found, [
    [answer["text"] for answer in x["answers"]] if "answers" in x else [x["target"]] for x in rows
  ]


def _numbers(task, rows):
  if task["name"] == "text_to_text":
    found, wanted = _in_words(rows)
    return list(map(_number, found)), list(map(float, wanted))
  return [x["output"]["value"] for x in rows], [float(x["label"]) for x in rows]


def _number(text):
  """What is no number counts as 0."""
  try:
    return float(np.nan_to_num(float(text)))
  except ValueError:
    return 0.0


JUDGES = dict(texts=_texts, classes=_classes, tags=_tags, answers=_answers, numbers=_numbers)


def _right(found, wanted):
  return _share([[float(a == b), 1.0] for a, b in zip(found, wanted)], binary=True)


def _share(sums, binary=False):
  return Score(np.asarray(sums), lambda x: 100.0 * x[0] / x[1] if x[1] else 0.0, binary)


def _of_tags(found, wanted):
  pairs = [list(zip(*both, strict=True)) for both in zip(found, wanted)]
  made = {"accuracy": _share([[sum(a == b for a, b in x), len(x)] for x in pairs])}
  if all(scores.is_bio(tag) for row in wanted for tag in row):
    from seqeval.metrics.sequence_labeling import get_entities

    sets = [
      (set(get_entities(a)), set(get_entities(list(b))))
      for a, b in zip(scores.replace_non_bio(found), wanted)
    ]
    # F1 = 2 x right / (found + wanted)
    made["f1"] = _share([[2 * len(a & b), len(a) + len(b)] for a, b in sets])
  return made


def _of_answers(found, wanted):
  each = [scores.answers([one], [golds]) for one, golds in zip(found, wanted)]
  exact, f1 = ([[x[name] / 100.0, 1.0] for x in each] for name in ("exact_match", "f1"))
  return {"exact_match": _share(exact, binary=True), "f1": _share(f1)}


def _of_numbers(found, wanted):
  a, b = np.asarray(found), np.asarray(wanted)
  a, b = a - a.mean(), b - b.mean()  # the correlation is the same, and rounding is less
  sums = np.stack([a, b, a * a, b * b, a * b, np.ones_like(a)], 1)

  def pearson(x):
    a, b, aa, bb, ab, n = x
    spread = (n * aa - a * a) * (n * bb - b * b)
    return 100.0 * (n * ab - a * b) / np.sqrt(spread) if spread > 0 else 0.0

  return {"pearson": Score(sums, pearson)}


SCORES = dict(
  texts=lambda found, wanted: {"exact_match": _right(found, wanted)},
  classes=lambda found, wanted: {"accuracy": _right(found, wanted)},
  tags=_of_tags,
  answers=_of_answers,
  numbers=_of_numbers,
)


def tests(judged: Sequence[Judged], samples: int) -> list[Test]:
  """Each run held against the first, in every score they share.

  UserError where they were not asked for the same: another number of examples, or another answer
  to one of them.
  """
  first, others = judged[0], judged[1:]
  for other in others:
    _check_same(first, other)
  made = [_bleu(judged, samples)] if first.kind == "texts" else []
  for metric, score in first.scores.items():
    rows = [Row(first.run, score.value, *_interval(score, samples))]
    test = _mcnemar if score.binary else _bootstrap
    rows += [test(score, other.run, other.scores[metric], samples) for other in others]
    how = "McNemar's exact test" if score.binary else f"paired bootstrap, {samples:,} samples"
    made.append(Test(metric, f"{how}, two-sided", rows))
  return made


def _check_same(first, other):
  same = "they cannot be compared; --split none leaves the tests out"
  if len(first.wanted) != len(other.wanted):
    raise UserError(
      f"the outputs of {first.run} and {other.run} are for other references:"
      f" {len(first.wanted):,} and {len(other.wanted):,} examples; {same}"
    )
  for at, (a, b) in enumerate(zip(first.wanted, other.wanted), 1):
    if a != b:
      raise UserError(
        f"the outputs of {first.run} and {other.run} are for other references: in example {at}"
        f" {a!r} was wanted, and {b!r}; {same}"
      )


def _bleu(judged, samples):
  """sacreBLEU's own test, but that no difference has p = 1 (it would say 1 / (samples + 1))."""
  import sacrebleu
  from sacrebleu.significance import PairedTest

  metric = sacrebleu.BLEU(**judged[0].bleu, force=True)
  systems = [(one.run, one.texts) for one in judged]
  paired = PairedTest(systems, {"BLEU": metric}, [judged[0].wanted], "bs", n_samples=samples)
  signatures, results = paired()
  base = results["BLEU"][0]
  rows = []
  for one, found in zip(judged, results["BLEU"]):
    row = Row(one.run, found.score, found.mean - found.ci, found.mean + found.ci)
    if rows:
      difference = found.score - base.score
      row = row._replace(difference=difference, p=found.p_value if difference else 1.0)
    rows.append(row)
  how = f"sacreBLEU's paired bootstrap, signature {signatures['BLEU'].format()}"
  return Test("bleu", how, rows)


def _mcnemar(base, run, score, samples):
  """Of the examples that one of the two has right: as a coin would share them? (Exact.)"""
  from scipy.stats import binomtest

  a, b = base.sums[:, 0] > 0, score.sums[:, 0] > 0
  gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
  p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
  interval = _interval(score, samples)
  return Row(run, score.value, *interval, score.value - base.value, p, (gained, lost))


def _bootstrap(base, run, score, samples):
  """How often samples of the examples differ from the mean difference by as much as that is from
  none, at the least."""
  difference = score.value - base.value
  drawn = _samples(score, samples) - _samples(base, samples)
  beyond = np.abs(drawn - drawn.mean()) >= abs(difference) - 1e-12
  p = float((beyond.sum() + 1) / (samples + 1))
  return Row(run, score.value, *_interval(score, samples), difference, p)


def _samples(score, samples):
  """The score of so many samples of the examples: the same examples for every run."""
  rng, count = np.random.default_rng(SEED), len(score.sums)
  drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(samples))
  return np.asarray([score.of(times @ score.sums) for times in drawn])


def _interval(score, samples):
  return tuple(np.percentile(_samples(score, samples), (2.5, 97.5)).tolist())
