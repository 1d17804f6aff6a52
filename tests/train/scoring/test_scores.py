"""Scores equal values worked out by hand or by other formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from train.scoring import scores


@pytest.mark.parametrize(
  "prediction, golds, exact, f1",
  [
    ("The cat!", ["cat"], 1, 1),  # articles, punctuation and case do not count
    ("a  an the", [""], 1, 1),  # nothing is left
    ("cat", ["dog", "Cat."], 1, 1),  # the best of several
    ("the black cat", ["black dog"], 0, 1 / 2),  # 1 of 2 and 1 of 2
    ("black cat sat", ["cat"], 0, 1 / 2),  # 1 of 3, 1 of 1
    ("cat cat", ["cat cat cat dog"], 0, 2 / 3),  # 2 of 2, 2 of 4: each as often as it is there
    ("", [], 1, 1),
    ("", [""], 1, 1),
    ("", ["cat"], 0, 0),
    ("cat", [], 0, 0),
    ("cat", ["", "the"], 0, 0),
    ("", ["", "cat"], 0, 0),  # the script takes the answers that are some
    ("", ["the"], 1, 1),  # one that normalises to nothing is none
    ("anthem", ["the them"], 0, 0),  # articles are whole words
    ("1,000", ["1000"], 1, 1),
    ("well-known", ["well known"], 0, 0),
  ],
)
def test_answers_are_scored_by_squads_rules(prediction, golds, exact, f1):
  scored = scores.answers([prediction], [golds])
  assert scored == pytest.approx({"exact_match": 100 * exact, "f1": 100 * f1})


def test_answers_are_averaged_over_questions():
  scored = scores.answers(["cat", "cat", "black cat"], [["cat"], ["dog"], ["cat"]])
  assert scored == pytest.approx({"exact_match": 100 / 3, "f1": 100 * (1 + 0 + 2 / 3) / 3})


LABELS = st.lists(
  st.tuples(st.sampled_from("abcx"), st.sampled_from("abc")), min_size=1, max_size=30
)


@pytest.mark.filterwarnings("ignore:A single label")
@given(pairs=LABELS)
def test_classes_are_scored_by_their_formulas(pairs):
  predictions, references = zip(*pairs)
  scored = scores.classes(predictions, references)
  f1 = []
  for label in set(references):
    right = sum(a == b == label for a, b in pairs)
    f1.append(2 * right / (predictions.count(label) + references.count(label)))
  assert scored["accuracy"] == pytest.approx(100 * np.mean([a == b for a, b in pairs]))
  assert scored["macro_f1"] == pytest.approx(100 * np.mean(f1))
  # Matthews' is the correlation of the one-hot rows (Gorodkin 2004)
  a, b = (
    np.asarray([[x == y for y in "abcx"] for x in row], float) for row in (predictions, references)
  )
  a, b = a - a.mean(0), b - b.mean(0)
  norm = np.sqrt((a * a).sum() * (b * b).sum())
  assert scored["matthews"] == pytest.approx(100 * (a * b).sum() / norm if norm > 1e-9 else 0.0)


def test_numbers_are_scored_as_scipy_does():
  rng = np.random.default_rng(0)
  references = rng.normal(size=50)
  predictions = np.round(references + rng.normal(size=50), 1)  # with ties
  scored = scores.numbers(predictions.tolist(), references.tolist())
  assert scored["pearson"] == pytest.approx(100 * np.corrcoef(predictions, references)[0, 1])
  ranks = stats.rankdata(predictions), stats.rankdata(references)
  assert scored["spearman"] == pytest.approx(100 * np.corrcoef(*ranks)[0, 1])
  assert scored["mse"] == pytest.approx(((predictions - references) ** 2).mean())


@pytest.mark.parametrize("predictions, references", [([2.0, 2.0], [1.0, 3.0]), ([1.0], [1.0])])
def test_a_constant_has_no_correlation(predictions, references):
  scored = scores.numbers(predictions, references)
  assert (scored["pearson"], scored["spearman"]) == (0, 0)


def test_numbers_as_text_are_numbers_and_others_count_as_zero():
  typed = scores.numbers_as_text(["1.5", "many", "3"], ["1", "2", "3.5"])
  assert typed.pop("no_numbers") == 1
  assert typed == pytest.approx(scores.numbers([1.5, 0, 3], [1, 2, 3.5]))


def test_entities_are_right_only_as_a_whole():
  references = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG", "O"]]
  predictions = [["B-PER", "O", "O", "B-LOC"], ["O", "B-LOC", "B-PER"]]
  # of 4 predicted and 3 reference entities one is right: the first LOC
  assert scores.tags(predictions, references) == pytest.approx(
    {"accuracy": 400 / 7, "precision": 25, "recall": 100 / 3, "f1": 200 / 7}
  )
  assert scores.tags(references, references)["f1"] == 100


def test_a_word_that_is_no_tag_is_no_entity():
  scored = scores.tags([["NOUN", "B-X"]], [["O", "B-X"]])
  assert scored == pytest.approx({"accuracy": 50, "precision": 100, "recall": 100, "f1": 100})


def test_tags_that_are_no_entities_have_an_accuracy_only():
  assert scores.tags([["NOUN", "VERB"]], [["NOUN", "ADJ"]]) == {"accuracy": 50}


def test_a_tag_too_few_is_wrong_and_one_too_many_is_cut():
  references = ["O B-X O", "B-X O"]
  scored = scores.tags_as_text(["O B-X", "B-X O O"], references)
  # the missing tag is wrong, but not an extra entity
  assert scored == pytest.approx({"accuracy": 80, "precision": 100, "recall": 100, "f1": 100})
  assert scores.tags_as_text(["", ""], references) == pytest.approx(
    {"accuracy": 0, "precision": 0, "recall": 0, "f1": 0}
  )


def test_rows_of_tags_of_two_lengths_are_refused():
  with pytest.raises(ValueError, match="argument 2 is longer"):
    scores.tags([["O"]], [["O", "O"]])


def test_texts_that_are_the_same_are_perfect():
  texts = ["the cat sat on the mat .", "a dog ran away from it"]
  scored = scores.texts(texts, texts)
  assert (scored["bleu"], scored["chrf"], scored["exact_match"]) == pytest.approx((100, 100, 100))
  scored = scores.texts(["The cat sat on the mat .", texts[1]], texts)
  assert scored["exact_match"] == 50
  assert 50 < scored["bleu"] < 100
  assert scores.texts([t.upper() for t in texts], texts, lowercase=True)["bleu"] > 99.9


def test_summaries_have_the_f1_of_rouge():
  pytest.importorskip("rouge_score", reason="requirements-experiments.txt")
  scored = scores.summaries(["the cats sat", "a\nb c"], ["the cat ran", "b c\na"])
  # 2 of 3 words by their stems and all 3, 1 of 2 pairs and 1 of 2, 2 of 3 in order and 2 of 3;
  # line by line all three
  expected = {"rouge1": 250 / 3, "rouge2": 50, "rougeL": 200 / 3, "rougeLsum": 250 / 3}
  assert scored == pytest.approx(expected)
  assert set(scores.summaries([""], ["the cat"]).values()) == {0}
