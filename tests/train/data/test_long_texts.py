"""Long texts: parts have the ids of the whole text, in memory that does not grow with the text."""

import os
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.train.data.helpers import BART, BERT, GPT2
from train.data import long_texts, tokenizer_training, unigram
from train.data.pieces import place
from train.data.tokenizer_training import train_tokenizer

SENTENCES = [
  "the cat's mat is 12,5 m long .",
  "a dog\tand a  cat;\n\ndon't",
  "日本の猫、犬。中文。",
]
SIZED = {"vocab_size": 330}
TOKENIZERS = {
  "word": train_tokenizer({"name": "word"}, SENTENCES),
  "bpe": train_tokenizer({"name": "bpe", **SIZED}, SENTENCES),
  "unigram": train_tokenizer({"name": "unigram", **SIZED}, SENTENCES),
  "char": train_tokenizer({"name": "char"}, SENTENCES),
  "byte": train_tokenizer({"name": "byte"}, []),
  "bert": BERT,
  "bart": BART,
  "gpt2": GPT2,
}
PIECES = ["the", " cat", "'s", " ", "  ", "\n", "\t", " 12", ",", " don't", "é", "<eos>", "\u00a0"]
CHINESE = ["日本", "の", "猫", "、", "。", "中文", "！"]


@pytest.fixture
def short_parts(monkeypatch):
  for name, value in {"PART": 24, "LONGEST": 384, "GROUP": 100, "CONTEXT": 20}.items():
    monkeypatch.setattr(long_texts, name, value)


def encode_whole(tokenizer, text):
  return tokenizer._replace_specials(tokenizer._inner.encode(text, add_special_tokens=False).ids)


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("name", TOKENIZERS)
@given(parts=st.lists(st.sampled_from(PIECES) | st.sampled_from(CHINESE), max_size=120))
@example(parts=["the"] * 40)
@example(parts=[" "] * 99 + ["the"])
@example(parts=["中文"] * 99)
@example(parts=["the", "the", "the", " don't", "the", "the", "<eos>"])
@settings(max_examples=60, deadline=None)
def test_a_text_in_parts_has_the_ids_of_the_whole(name, parts):
  tokenizer, text = TOKENIZERS[name], "".join(parts)
  texts = [text, "", "the cat", text[::-1]]
  assert tokenizer.encode_batch(texts) == [encode_whole(tokenizer, text) for text in texts]


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_long_text_is_encoded_in_parts(name):
  parts = list(TOKENIZERS[name].encode_parts(["the cat. " * 50, "the"]))
  assert [number for number, _ in parts].count(0) >= 450 // 24
  assert parts[-1][0] == 1


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("name", TOKENIZERS)
@given(parts=st.lists(st.sampled_from(PIECES) | st.sampled_from(CHINESE), max_size=120))
@settings(max_examples=30, deadline=None)
def test_the_characters_of_parts_are_those_of_the_whole(name, parts):
  tokenizer, text = TOKENIZERS[name], "".join(parts)
  found = tokenizer.encode_offsets([text, "the cat"])
  encoding = tokenizer._reader.encode(text, add_special_tokens=False)
  blank_first = tokenizer.foreign or tokenizer.blank_first
  assert [ids for ids, _ in found] == tokenizer.encode_batch([text, "the cat"])
  assert found[0][1] == place(text, encoding, blank_first)


@pytest.mark.usefixtures("short_parts")
def test_a_word_without_end_is_cut_in_the_end():
  (ids,) = TOKENIZERS["word"].encode_batch(["x" * 1000])
  assert ids == [TOKENIZERS["word"].roles.unk] * 3


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("name", tokenizer_training.KINDS)
def test_a_tokenizer_of_a_long_text_is_as_if_it_were_never_cut(name, monkeypatch):
  spec = {"name": name, **(SIZED if name in tokenizer_training.SIZED else {})}
  texts = [" ".join(SENTENCES * 20), "日本の猫、犬。中文。" * 40, *SENTENCES]
  cut = train_tokenizer(spec, texts)
  monkeypatch.setattr(long_texts, "PART", 10**6)
  assert cut.fingerprint == train_tokenizer(spec, texts).fingerprint


@given(
  words=st.dictionaries(st.text("abé", min_size=1, max_size=30), st.integers(1, 5), min_size=1),
  size=st.integers(1, 40),
)
@settings(max_examples=100)
def test_seeds_are_the_most_frequent_substrings(words, size):
  counts = Counter()
  for word, count in words.items():
    for i in range(len(word)):
      for j in range(i + 2, min(i + unigram.MAX_PIECE, len(word)) + 1):
        counts[word[i:j]] += count
  often = [piece for piece, count in counts.items() if count > 1]
  often.sort(key=lambda piece: (-counts[piece] * len(piece), piece))
  seeds = unigram.list_seeds(list(words), list(words.values()), size)
  assert list(seeds.items()) == [(piece, counts[piece]) for piece in often[:size]]


def test_unigram_training_sees_a_bounded_number_of_bytes(monkeypatch):
  monkeypatch.setattr(tokenizer_training, "SEED_BYTES", 1000)
  seen = {}
  monkeypatch.setattr(unigram, "train_pieces", lambda counts, *_: seen.update(counts) or [])
  draw = random.Random(0)
  texts = ["".join(draw.choices("abcdefgh", k=5000)), *("a" + "b" * i for i in range(90))]
  train_tokenizer({"name": "unigram", "vocab_size": 300}, texts * 2)
  assert 900 < sum(map(len, seen)) <= 1000


PROGRAM = """
import random, sys
from train.data import documents, tokenizer_training
class Docs(list):
  fingerprint = "docs"
draw = random.Random(0)
letters, weights = [chr(0x4e00 + i) for i in range(4000)], [1 / (i + 1) for i in range(4000)]
sentences = ["".join(draw.choices(letters, weights, k=30)) + "。" for _ in range(2000)]
words = " ".join(draw.choices(["the", "cat", "sat", "matter"], k=700_000))
tokenizer = tokenizer_training.train_tokenizer({"name": "byte"}, [])
def status(name):
  return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
if sys.argv[1] == "unigram":
  tokenizer_training.train_tokenizer({"name": "unigram", "vocab_size": 4000}, sentences)
elif sys.argv[1] == "bpe":
  tokenizer_training.BPE_BYTES = 200_000
  more = ["".join(draw.choices(letters, weights, k=30)) for _ in range(20_000)]
  tokenizer_training.train_tokenizer({"name": "bpe", "vocab_size": 4000}, more)
else:
  documents.Tokens(Docs([{"text": words}]), tokenizer).ids
print((status("VmHWM") - before) // 1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the memory from /proc")
@pytest.mark.parametrize("what", ["unigram", "bpe", "document"])
# without a bound 308, 212 and 452 MB
def test_memory_is_bounded(what, tmp_path):
  environment = {**os.environ, "SCRIPTORIUM_CACHE": str(tmp_path)}
  command = [sys.executable, "-c", PROGRAM, what]
  run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
  assert int(run.stdout) < 120
