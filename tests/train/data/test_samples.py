"""Samples for tokenizers: whole where they may be, else bounded and the same everywhere."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import random
import subprocess
import sys

import pytest

from train.common.errors import UserError
from train.data import samples, tokenizer_training, word_counts
from train.data.samples import Limits, take
from train.data.source import Block
from train.data.tokenizer_training import train_tokenizer

ROOT = pathlib.Path(__file__).parents[3]


class Indexed(list):
  fingerprint = ""


class Sharded:
  """Shards of two blocks each."""

  fingerprint, num_shards = "", 50

  def __init__(self, size=20):
    self.size, self.num_bytes = size, 50 * 2 * 4 * size

  def blocks(self, shard, first=0):
    for block in range(first, 2):
      texts = [f"{shard:03} {block} {i}".ljust(self.size, ".") for i in range(4)]
      yield Block([{"text": text, "id": "left out"} for text in texts])


def examples(count, size=10):
  return Indexed({"source": f"{i:05}".ljust(size, "."), "label": "x"} for i in range(count))


def test_data_within_the_limits_are_whole_and_in_order():
  source = examples(500)
  for limits in (Limits(), Limits(sample_bytes=5000, sample_examples=500)):
    sample = take([source], limits)
    assert list(sample) == list(sample) == [example["source"] for example in source]
    assert (sample.whole, sample.examples, sample.bytes) == (True, 500, 5000)
  shards = take([Sharded()], Limits(sample_bytes=50 * 2 * 4 * 20))
  assert shards.whole
  assert sorted(shards) == sorted(
    x["text"] for i in range(50) for b in Sharded().blocks(i) for x in b[0]
  )


@pytest.mark.parametrize("limits", [dict(sample_bytes=4999), dict(sample_examples=499)])
def test_a_sample_is_bounded_drawn_evenly_and_in_order(limits, warnings):
  sample = take([examples(500)], Limits(**limits))
  assert not sample.whole
  assert sample.examples == 499
  limits = {key: value // 10 for key, value in limits.items()}
  sample = take([examples(500)], Limits(**limits))
  texts = list(sample)
  assert texts == sorted(set(texts))
  assert (sample.examples, sample.bytes) == (49, 490)
  numbers = [int(text[:5]) for text in texts]
  assert max(b - a for a, b in itertools.pairwise(numbers)) <= 21
  assert "a sample of 49 examples, 0.0 MB of about" in warnings[-1]
  others = take([examples(500)], Limits(**limits, sample_seed=1))
  assert list(others) != texts


def test_a_sample_of_shards_is_of_many_shards():
  sample = take([Sharded()], Limits(sample_bytes=16 * 80))
  assert (sample.whole, sample.bytes) == (False, 16 * 80)
  assert len({text[:3] for text in sample}) == samples.OPEN_SHARDS
  more = take([Sharded()], Limits(sample_bytes=40 * 80))  # 32 blocks of 16 shards, and 8 others
  assert len({text[:3] for text in more}) == samples.OPEN_SHARDS + 8


def test_one_long_text_is_cut():
  sample = take([Indexed([{"text": "é" * 1000}])], Limits(sample_bytes=400))
  assert (list(sample), sample.whole, sample.bytes) == (["é" * 100], False, 200)


def test_small_sources_are_whole_beside_large_ones():
  large, small = examples(1000), Indexed({"text": "abc"} for _ in range(20))
  sample = take([large, small, Sharded()], Limits(sample_bytes=2060))
  texts = list(sample)
  assert texts.count("abc") == 20
  assert [sum(len(text) == n for text in texts) for n in (10, 20)] == [100, 50]


def test_a_sample_is_the_same_in_every_process():
  program = (
    "from tests.train.data.test_samples import *\n"
    "for source in (examples(500), Sharded()):\n"
    "  print(hashlib.sha256(json.dumps(list(take([source], Limits(777)))).encode()).hexdigest())"
  )
  printed = [
    subprocess.run(
      [sys.executable, "-c", program],
      env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
      capture_output=True,
      text=True,
      check=True,
    ).stdout.split()
    for seed in "12"
  ]
  here = [list(take([source], Limits(777))) for source in (examples(500), Sharded())]
  expected = [hashlib.sha256(json.dumps(texts).encode()).hexdigest() for texts in here]
  assert printed == [expected] * 2


@pytest.mark.parametrize("more", [dict(sample_bytes=0), dict(sample_examples=2.5)])
def test_a_wrong_size_is_reported(more):
  key = next(iter(more))
  with pytest.raises(UserError, match=f"tokenizer.{key} is"):
    samples.split_limits({"name": "bpe", **more})


def test_the_keys_of_a_sample_are_split_from_those_of_a_tokenizer():
  spec, limits = samples.split_limits({"name": "bpe", "vocab_size": 9, "sample_bytes": 7})
  assert spec == {"name": "bpe", "vocab_size": 9}
  assert limits == dataclasses.replace(Limits(), sample_bytes=7)


# Tokenizers

LETTERS = ["abcdefghij", "中文字符日本語學習機", "กขคงจฉชซิีึืุู่้"]
ENDS = [" ", " ", " ", ", ", "。", "", "\n\n", "  ", "'s ", "\t12 "]


def write_texts(count=400):
  draw = random.Random(0)
  words = [
    "".join(draw.choices(letters, k=draw.randint(1, 7))) for letters in LETTERS for _ in range(200)
  ]
  weights = [1 / (1 + i % 200) for i in range(600)]
  return [
    "".join(word + draw.choice(ENDS) for word in draw.choices(words, weights, k=30))
    for _ in range(count)
  ]


SIZED = {"vocab_size": 600}
# As trained by the commit 4b8a33a, which counted all words of all texts.
BEFORE = {
  "word": ({}, 2872, "b7b9682932b0ded4"),
  "char": ({}, 50, "3697f586b37fdfd8"),
  "bpe": (SIZED, 600, "0d5c8d01f83cdd6a"),
  "unigram": (SIZED, 599, "e56c5728cbf203da"),
  "byte": ({}, 261, "b13c2d5a38730d9f"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_a_tokenizer_of_few_words_is_as_it_always_was(name):
  more, size, digest = BEFORE[name]
  tokenizer = train_tokenizer({"name": name, "special": ("<mask>",), **more}, write_texts())
  model = json.loads(tokenizer.copy_inner().to_str())["model"]
  assert tokenizer.vocab_size == size
  assert hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()[:16] == digest


def find(text):
  return text.split()


def test_the_most_frequent_words_are_kept(warnings):
  texts = [f"often x{i:03} rare{i:03}" for i in range(300)] + ["x001 x002"] * 5
  counts, complete = word_counts.count_words(texts, find, 10**6)
  assert (complete, len(counts), warnings) == (True, 601, [])
  counts, complete = word_counts.count_words(texts, find, 213)
  assert not complete
  assert counts["often"] == 300
  assert counts["x001"] == counts["x002"] >= 5
  assert 200 < sum(len(word) for word in counts) <= 213
  rare = [int(word[-3:]) for word in counts if counts[word] == 1]
  assert min(rare) < 100 < 200 < max(rare)  # of all texts
  assert "different words" in warnings[-1]
  assert word_counts.count_words(texts, find, 213) == (counts, False)


def test_the_number_of_words_is_bounded(monkeypatch, warnings):
  monkeypatch.setattr(word_counts, "MOST_WORDS", 100)
  texts = [f"often x{i:03} rare{i:03}" for i in range(300)]
  counts, complete = word_counts.count_words(texts, find, 10**6)
  assert (complete, len(counts), counts["often"]) == (False, 100, 300)
  assert "rarer ones are left out" in warnings[-1]


def test_a_bpe_of_too_many_words_is_that_of_the_words_that_are_kept(monkeypatch, warnings):
  # blanks beside blanks are the words that a list of words lacks
  texts, spec = [" ".join(text.split()) for text in write_texts()], {"name": "bpe", **SIZED}
  monkeypatch.setattr(
    tokenizer_training, "count_words", lambda *a: (word_counts.count_words(*a)[0], False)
  )
  assert train_tokenizer(spec, texts).fingerprint == fingerprint_before(monkeypatch, spec, texts)
  monkeypatch.setattr(tokenizer_training, "BPE_BYTES", 3000)
  bounded = train_tokenizer(spec, texts)
  assert warnings
  assert bounded.fingerprint != train_tokenizer(spec, texts[:200]).fingerprint
  assert bounded.fingerprint == train_tokenizer(spec, texts).fingerprint
  assert bounded.decode(bounded.encode_batch(texts[:1])[0]) == texts[0]


def fingerprint_before(monkeypatch, spec, texts):
  with monkeypatch.context() as patch:
    patch.setattr(tokenizer_training, "count_words", word_counts.count_words)
    return train_tokenizer(spec, texts).fingerprint
