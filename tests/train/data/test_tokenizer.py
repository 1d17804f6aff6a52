"""Tokenizers: decoding inverts encoding, and training is the same in every process."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from train.common.errors import UserError
from train.data import tokenizer_training
from train.data.roles import SPECIALS
from train.data.tokenizer import Tokenizer
from train.data.tokenizer_training import train_tokenizer

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
  return {name: train_tokenizer(spec, TEXTS) for name, spec in SPECS.items()}


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
  char = train_tokenizer({"name": "char"}, texts)
  assert [char.decode(ids) for ids in char.encode_batch(texts)] == texts
  texts = [text for text in texts if not set(text.split()) & set(SPECIALS)] + ["end"]
  word = train_tokenizer({"name": "word"}, texts)
  assert [word.decode(ids) for ids in word.encode_batch(texts)] == [normalised(t) for t in texts]


def test_words_are_numbered_by_frequency_then_text():
  counts = Counter(word for text in TIED for word in text.split())
  words = sorted(counts, key=lambda word: (-counts[word], word))
  word = train_tokenizer(SPECS["word"], TIED)
  assert word.encode_batch(words) == [[4 + i] for i in range(len(words))]
  assert word.vocab_size == 4 + len(words)


def test_bytes_are_numbered_from_four(trained):
  text = "aé\x00 日\xff"
  assert trained["byte"].encode_batch([text]) == [[4 + b for b in text.encode()]]
  assert trained["byte"].vocab_size == 260


def test_an_unknown_word_shows_and_a_word_spelled_like_a_special_ends_nothing(trained):
  (ids,) = trained["word"].encode_batch(["the <eos> <pad> zebra cat"])
  assert ids.count(trained["word"].roles.unk) == 3
  assert trained["word"].decode(ids) == "the <unk> <unk> <unk> cat"


@pytest.mark.parametrize("name", SPECS)
def test_decode_stops_at_eos_and_drops_pad_and_bos(trained, name):
  one = trained[name]
  cat, dog = one.encode_batch(["the cat", "dog"])
  assert (
    one.decode([one.roles.start, one.roles.pad, *cat, one.roles.pad, one.roles.eos, *dog])
    == "the cat"
  )
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
    "import json, sys; from train.data.tokenizer_training import train_tokenizer\n"
    "specs, texts = json.load(sys.stdin)\n"
    "print([train_tokenizer(spec, texts).fingerprint for spec in specs])"
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
  assert (
    found == [str([train_tokenizer(spec, TEXTS + TIED).fingerprint for spec in specs]) + "\n"] * 2
  )


def test_unigram_prefers_few_pieces_for_frequent_words():
  draw = random.Random(0)
  words = ["".join(draw.choices("abcdefgh", k=7)) for _ in range(200)]
  often, seldom = words[:20], words[20:]
  one = train_tokenizer({"name": "unigram", "vocab_size": 280}, often * 50 + seldom * 2)
  assert [len(ids) for ids in one.encode_batch(often)] == [1] * 20
  assert min(len(ids) for ids in one.encode_batch(seldom)) > 1


@pytest.mark.parametrize("name", tokenizer_training.SIZED)
@pytest.mark.parametrize("size", [260, 261, 300])
def test_a_size_is_kept(name, size):
  assert 260 <= train_tokenizer({"name": name, "vocab_size": size}, TIED).vocab_size <= size


@pytest.mark.parametrize(
  "spec, message",
  [
    ({"name": "unigrm", "vocab_size": 400}, "did you mean unigram"),
    ({}, "tokenizer.name is None; known: word"),
    ({"name": "bpe", "vocab_size": 259}, "vocab_size=259"),
    ({"name": "unigram", "vocab_size": "8k"}, "vocab_size='8k'"),
    ({"name": "bpe"}, "vocab_size"),
    ({"name": "word", "vocab_size": 400}, r"takes the keys \['name'\]"),
  ],
)
def test_wrong_specs_are_reported(spec, message):
  with pytest.raises(UserError, match=message):
    train_tokenizer(spec, TEXTS)


@pytest.mark.parametrize("name", ["word", "bpe", "unigram", "char"])
def test_no_text_is_reported(name):
  with pytest.raises(UserError, match="empty"):
    train_tokenizer(SPECS[name], ["", ""])


def test_missing_broken_and_foreign_files_are_reported(tmp_path, trained):
  path = tmp_path / "tokenizer.json"
  with pytest.raises(UserError, match="cannot read"):
    Tokenizer.load(path)
  trained["word"].save(path)
  whole = path.read_text()
  for content, message in [
    (whole[: len(whole) // 2].encode(), "not a tokenizer.json"),
    (b"\xff\xfe\x00", "not UTF-8"),
    (whole.replace("<pad>", "<s>").encode(), "ids 0 to 3"),
  ]:
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
      Tokenizer.load(path)


# Special tokens, and what a token stands for


@pytest.fixture(scope="module")
def special():
  more = {"special": ("<mask>",), "sentinels": 3}
  return {name: train_tokenizer({**spec, **more}, TEXTS) for name, spec in SPECS.items()}


@pytest.mark.parametrize("name", SPECS)
def test_special_tokens_come_first_and_text_never_turns_into_one(special, name):
  one, names = special[name], ["<mask>", "<extra_0>", "<extra_1>", "<extra_2>"]
  assert one.specials == {token: i for i, token in enumerate([*SPECIALS, *names])}
  assert one.words.tolist() == list(range(8, one.vocab_size))
  assert one.sentinels == (5, 6, 7)
  assert one.id("<mask>") == 4
  for text in (" ".join(one.specials), "x<mask>"):
    ids = one.encode_batch([text])[0]
    assert not set(ids) & {0, 1, 2, *range(4, 8)}
    assert one.encode_offsets([text])[0][0] == ids


def test_a_missing_special_token_is_reported_with_how_to_add_it(trained):
  with pytest.raises(UserError, match=r"no <mask>: .*tokenizer.special=\('<mask>',\)"):
    trained["bpe"].id("<mask>")
  assert trained["bpe"].sentinels == ()


@pytest.mark.parametrize(
  "more, message",
  [
    ({"special": "<mask>"}, "tokenizer.special is '<mask>'"),
    ({"special": ("<mask>", "")}, "tokenizer.special is"),
    ({"special": ("<eos>",)}, "<eos> is a special token already"),
    ({"special": ("<extra_1>",), "sentinels": 2}, "<extra_1> is a special token already"),
    ({"sentinels": -1}, "tokenizer.sentinels is -1"),
    ({"sentinels": "3"}, "tokenizer.sentinels is '3'"),
  ],
)
def test_wrong_special_tokens_are_reported(more, message):
  with pytest.raises(UserError, match=message):
    train_tokenizer({"name": "byte", **more}, TEXTS)


def test_special_tokens_among_the_others_are_reported(special, tmp_path):
  path = tmp_path / "tokenizer.json"
  special["byte"].save(path)
  saved = json.loads(path.read_text())
  token, last = saved["added_tokens"][-1], 263  # <extra_2> and the last byte change places
  other = next(key for key, i in saved["model"]["vocab"].items() if i == last)
  saved["model"]["vocab"] |= {token["content"]: last, other: token["id"]}
  token["id"] = last
  path.write_text(json.dumps(saved))
  with pytest.raises(UserError, match="special tokens must be the first ids"):
    Tokenizer.load(path)


MARKED = [  # a text, and running text of the same words, of which those in the middle are marked
  ("the <mask> sat", ("the", " dog", " sat")),
  ("<mask> sat", ("", "dog", " sat")),
  ("the <mask>", ("the", " dog", "")),
  ("the <mask>; the", ("the", " dog", "; the")),
  ("the  <mask>\tsat", ("the ", " dog", "\tsat")),
]


@pytest.mark.parametrize("name", ["word", "bpe", "unigram"])
@pytest.mark.parametrize("text, parts", MARKED)
def test_words_around_a_mask_are_encoded_as_in_running_text(special, name, text, parts):
  if name == "word":
    text, parts = text.replace(";", " ;"), [part.replace(";", " ;") for part in parts]
  one = special[name]
  (whole,) = one.encode_batch(["".join(parts)])
  (dog,) = one.encode_batch(["dog"])
  place = next(i for i in range(len(whole)) if whole[i : i + len(dog)] == dog)
  expected = [*whole[:place], 4, *whole[place + len(dog) :]]
  assert one.encode_marked(text) == expected
  assert one.encode_marked(text.replace("<mask>", "[MASK]")) == expected
  assert one.encode_marked(text.replace("<mask>", "<extra_2>")) == [
    7 if i == 4 else i for i in expected
  ]


@pytest.mark.parametrize("name", ["char", "byte"])
def test_characters_and_bytes_around_a_mask_keep_their_blanks(special, name):
  one = special[name]
  first, second = one.encode_batch(["the ", " sat"])
  assert one.encode_marked("the <mask> sat") == [*first, 4, *second]
  assert one.encode_marked("the <mask><extra_0>") == [*first, 4, 5]


@pytest.mark.parametrize("name", SPECS)
@given(text=st.text(max_size=30))
@settings(max_examples=25)
def test_a_text_without_special_names_is_encoded_as_plain_text(trained, special, name, text):
  for one in (trained[name], special[name]):
    if not any(mark in text for mark in [*one.specials, "[MASK]"]):
      assert one.encode_marked(text) == one.encode_batch([text])[0]


@pytest.mark.parametrize("name", ["bpe", "unigram", "char", "byte"])
@given(text=st.text(max_size=40))
@example(text="  the\n cat")
@settings(max_examples=40)
def test_the_bytes_of_a_texts_tokens_are_its_utf8(special, name, text):
  one = special[name]
  (ids,) = one.encode_batch([text])
  count = int(one.byte_lengths[ids].sum())
  if name == "char":
    known = [
      character for character in text if one.roles.unk not in one.encode_batch([character])[0]
    ]
    assert count == len("".join(known).encode())
  elif name == "byte" or not text:
    assert count == len(text.encode())
  else:  # a blank is put in front, unless there is one
    assert count - len(text.encode()) == (not text[0].isspace()) or text[0] != " "


def test_the_bytes_of_words_count_a_blank_each(special):
  one = special["word"]
  for text in TEXTS:
    words = [word for word in text.split() if word != "<eos>"]
    (ids,) = one.encode_batch([text])
    assert one.byte_lengths[ids].sum() == len(" ".join(words).encode()) + 1
  assert not one.byte_lengths[:8].any()


@pytest.mark.parametrize("name", SPECS)
@given(text=st.text(max_size=40))
@example(text="  the (cat) \n\n 🦊é")
@settings(max_examples=40)
def test_offsets_are_the_characters_of_a_piece(special, name, text):
  one = special[name]
  ((ids, places),) = one.encode_offsets([text])
  assert [ids] == one.encode_batch([text])
  assert len(places) == len(ids)
  assert places == sorted(places)
  covered = set()
  for i, (start, stop) in zip(ids, places):
    assert 0 <= start <= stop <= len(text)
    piece = text[start:stop]
    assert piece == piece.lstrip()
    if i != one.roles.unk and "\ufffd" not in one.decode([i]):  # which is half a character
      assert one.decode([i]).strip() == piece.strip()
    covered.update(range(start, stop))
  assert {i for i, character in enumerate(text) if not character.isspace()} <= covered


@pytest.mark.parametrize("name", SPECS)
def test_words_start_where_a_text_has_a_blank_before_them(special, name):
  one, text = special[name], " the zebra sat;\tsat don't"
  (ids,) = one.encode_batch([text])
  starts = int(one.word_starts[np.asarray(ids)].sum())
  assert starts == len(text.split())


def test_a_language_that_is_not_in_the_vocabulary_is_reported():
  one = train_tokenizer({"name": "word", "special": ("<2de>", "<2fr>")}, ["save the file"])
  assert one.languages == {"de": 4, "fr": 5}
  assert one.encode_sources(["<2fr> save"]) == [[one.id("<2fr>"), *one.encode_batch(["save"])[0]]]
  with pytest.raises(UserError, match=r"no <2es> \(it has <2de>, <2fr>\): train it with one"):
    one.encode_sources(["<2es> save"])
