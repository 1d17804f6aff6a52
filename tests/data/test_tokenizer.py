"""Tokenizers: what goes in comes out, and the same texts give the same ids in every process."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from train.data import tokenizer
from train.data.tokenizer import Tokenizer, train
from train.errors import UserError

TEXTS = [
  "the cat sat on the mat .",
  "a dog and a cat ; the dog ran",
  "Zwölf Boxkämpfer jagen Viktor",
  "don't  stop\tthe <eos> cats",
  "日本 の 猫",
] * 3
SPECS = {
  "word": {"name": "word"},
  "bpe": {"name": "bpe", "vocab_size": 320},
  "unigram": {"name": "unigram", "vocab_size": 320},
  "char": {"name": "char"},
  "byte": {"name": "byte"},
}
LOSSLESS = ["bpe", "unigram", "byte"]
# many ties in frequency, which is where an order that depends on a hash would show
TIED = [f"{a}{b}{c} {c}{b}{a}{d}" for a in "abcdef" for b in "ghij" for c in "klmn" for d in "op"]


@pytest.fixture(scope="module")
def trained():
  return {name: train(spec, TEXTS) for name, spec in SPECS.items()}


def normalised(text):
  return " ".join(text.split())


@pytest.mark.parametrize("name", LOSSLESS)
@given(text=st.text(max_size=40).map(normalised))
@example(text="<pad> <eos></s> <unk>")
@example(text="'s 12,5 — 🦊\u200b\x00")
@settings(max_examples=60, deadline=None)
def test_any_text_survives_and_is_known(trained, name, text):
  (ids,) = trained[name].encode_batch([text])
  assert trained[name].decode(ids) == text
  assert not set(ids) & set(range(4))


@pytest.mark.parametrize("name", SPECS)
def test_training_texts_survive(trained, name):
  texts = [text for text in TEXTS if "<eos>" not in text]
  encoded = trained[name].encode_batch(texts)
  assert [trained[name].decode(ids) for ids in encoded] == [normalised(text) for text in texts]


@given(texts=st.lists(st.text(max_size=20), max_size=6).filter(lambda texts: "".join(texts)))
@settings(max_examples=40, deadline=None)
def test_every_training_character_and_word_is_known(texts):
  char = train({"name": "char"}, texts)
  assert [char.decode(ids) for ids in char.encode_batch(texts)] == texts
  texts = [text for text in texts if not set(text.split()) & set(tokenizer.SPECIALS)] + ["end"]
  word = train({"name": "word"}, texts)
  assert [word.decode(ids) for ids in word.encode_batch(texts)] == [normalised(t) for t in texts]


def test_words_are_numbered_by_frequency_then_text():
  counts = Counter(word for text in TIED for word in text.split())
  words = sorted(counts, key=lambda word: (-counts[word], word))
  word = train(SPECS["word"], TIED)
  assert word.encode_batch(words) == [[4 + i] for i in range(len(words))]
  assert word.vocab_size == 4 + len(words)


def test_bytes_are_numbered_from_four(trained):
  text = "aé\x00 日\xff"
  assert trained["byte"].encode_batch([text]) == [[4 + b for b in text.encode()]]
  assert trained["byte"].vocab_size == 260


def test_an_unknown_word_shows_and_a_word_spelled_like_a_special_ends_nothing(trained):
  (ids,) = trained["word"].encode_batch(["the <eos> <pad> zebra cat"])
  assert ids.count(trained["word"].unk) == 3
  assert trained["word"].decode(ids) == "the <unk> <unk> <unk> cat"


@pytest.mark.parametrize("name", SPECS)
def test_decode_stops_at_eos_and_drops_pad_and_bos(trained, name):
  one = trained[name]
  cat, dog = one.encode_batch(["the cat", "dog"])
  assert one.decode([one.bos, one.pad, *cat, one.pad, one.eos, *dog]) == "the cat"
  assert one.decode([]) == ""


@pytest.mark.parametrize("name", SPECS)
def test_saved_and_pickled_are_the_same(trained, name, tmp_path):
  one, path = trained[name], tmp_path / "tokenizer.json"
  one.save(path)
  assert [file.name for file in tmp_path.iterdir()] == [path.name]
  for other in (Tokenizer.load(path), pickle.loads(pickle.dumps(one))):
    assert other.fingerprint == one.fingerprint
    assert other.vocab_size == one.vocab_size
    assert other.encode_batch(TEXTS) == one.encode_batch(TEXTS)


def test_padding_and_truncation_of_a_file_are_switched_off(trained, tmp_path):
  path = tmp_path / "tokenizer.json"
  trained["word"].save(path)
  saved = json.loads(path.read_text())
  saved["truncation"] = {
    "direction": "Right",
    "max_length": 2,
    "strategy": "LongestFirst",
    "stride": 0,
  }
  saved["padding"] = {
    "strategy": {"Fixed": 9},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<pad>",
  }
  path.write_text(json.dumps(saved))
  assert Tokenizer.load(path).encode_batch(TEXTS) == trained["word"].encode_batch(TEXTS)


def test_training_is_the_same_in_every_process():
  program = (
    "import json, sys; from train.data.tokenizer import train\n"
    "specs, texts = json.load(sys.stdin)\n"
    "print([train(spec, texts).fingerprint for spec in specs])"
  )
  # 400 pieces of several thousand candidates: pruning has choices to make
  specs = [{**spec, "vocab_size": 400} if "vocab_size" in spec else spec for spec in SPECS.values()]
  settings = [
    {"PYTHONHASHSEED": "1", "RAYON_NUM_THREADS": "1"},
    {"PYTHONHASHSEED": "2", "RAYON_NUM_THREADS": "4"},
  ]
  found = [
    subprocess.run(
      [sys.executable, "-c", program],
      input=json.dumps([specs, TEXTS + TIED]),
      env={**os.environ, **extra},
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for extra in settings
  ]
  assert found == [str([train(spec, TEXTS + TIED).fingerprint for spec in specs]) + "\n"] * 2


def test_unigram_prefers_few_pieces_for_frequent_words():
  draw = random.Random(0)
  words = ["".join(draw.choices("abcdefgh", k=7)) for _ in range(200)]
  often, seldom = words[:20], words[20:]
  one = train({"name": "unigram", "vocab_size": 280}, often * 50 + seldom * 2)
  assert [len(ids) for ids in one.encode_batch(often)] == [1] * 20
  assert min(len(ids) for ids in one.encode_batch(seldom)) > 1


@pytest.mark.parametrize("name", tokenizer.SIZED)
@pytest.mark.parametrize("size", [260, 261, 300])
def test_a_size_is_kept(name, size):
  assert 260 <= train({"name": name, "vocab_size": size}, TIED).vocab_size <= size


@pytest.mark.parametrize(
  "spec, told",
  [
    ({"name": "unigrm", "vocab_size": 400}, "did you mean unigram"),
    ({}, "tokenizer.name is None; known: word"),
    ({"name": "bpe", "vocab_size": 259}, "vocab_size=259"),
    ({"name": "unigram", "vocab_size": "8k"}, "vocab_size='8k'"),
    ({"name": "bpe"}, "vocab_size"),
    ({"name": "word", "vocab_size": 400}, r"takes the keys \['name'\]"),
  ],
)
def test_wrong_specs_are_told(spec, told):
  with pytest.raises(UserError, match=told):
    train(spec, TEXTS)


@pytest.mark.parametrize("name", ["word", "bpe", "unigram", "char"])
def test_no_text_is_told(name):
  with pytest.raises(UserError, match="empty"):
    train(SPECS[name], ["", ""])


def test_missing_broken_and_foreign_files_are_told(tmp_path, trained):
  path = tmp_path / "tokenizer.json"
  with pytest.raises(UserError, match="cannot read"):
    Tokenizer.load(path)
  trained["word"].save(path)
  whole = path.read_text()
  for content, told in [
    (whole[: len(whole) // 2].encode(), "not a tokenizer.json"),
    (b"\xff\xfe\x00", "not a tokenizer.json"),
    (whole.replace("<pad>", "<s>").encode(), "ids 0 to 3"),
  ]:
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
      Tokenizer.load(path)
