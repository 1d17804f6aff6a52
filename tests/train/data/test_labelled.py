"""Labelled rows: no token is lost or owned twice, and labels lie on their tokens."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.data.helpers import read_all
from train.common.errors import UserError
from train.data.label_layout import Answers, Classes, Tags
from train.data.labelled import Labelled, ListSource, windows
from train.data.roles import BOS, EOS
from train.data.tokenizer_training import train_tokenizer

TEXTS = ["the cat sat on the mat", "a dog ran", "who sat on the mat ?"] * 3
BPE = train_tokenizer({"name": "bpe", "vocab_size": 290}, TEXTS)
UNIGRAM = train_tokenizer({"name": "unigram", "vocab_size": 290}, TEXTS)
WORDS = train_tokenizer({"name": "word"}, TEXTS)
BYTES = train_tokenizer({"name": "byte"}, [])


class Kept(ListSource):
  """Examples with a fingerprint, so that their lengths are cached."""

  fingerprint = "kept"


# Windows


@given(length=st.integers(0, 200), size=st.integers(1, 60), stride=st.integers(1, 80))
def test_windows_cover_a_text_and_each_token_has_one_of_them(length, size, stride):
  found = windows(length, size, stride)
  owned = [place for one in found for place in range(one.own_start, one.own_stop)]
  assert owned == list(range(length))
  for one in found:
    assert 0 <= one.start <= one.own_start <= one.own_stop <= one.stop <= length
    assert one.stop - one.start <= size
  starts = [one.start for one in found]
  assert set(np.diff(starts)) <= {min(stride, size)}
  assert len(found) == 1 or found[-2].stop < length  # no window without something new


@given(length=st.integers(0, 200), size=st.integers(2, 60), stride=st.integers(1, 60))
def test_a_token_is_owned_where_it_sees_most(length, size, stride):
  def seen(window, place):
    """Returns the context on the shorter side; the text's own ends do not count."""
    left = place - window.start if window.start else length
    right = window.stop - 1 - place if window.stop < length else length
    return min(left, right)

  found = windows(length, size, stride)
  for one in found:
    for place in range(one.own_start, one.own_stop):
      best = max(seen(other, place) for other in found if other.start <= place < other.stop)
      assert seen(one, place) >= best - 1


@given(length=st.integers(0, 50), size=st.integers(1, 50))
def test_without_a_stride_there_is_one_window(length, size):
  (one,) = windows(length, size, 0)
  assert one == (0, min(length, size), 0, min(length, size))


LAYOUTS = {
  "classes": Classes(BPE, ("text",), ("x", "y")),
  "tags": Tags(BPE, ("N", "V")),
  "answers": Answers(BPE),
}
EXAMPLE = {
  "text": "the zebra sat on the mat",
  "label": "y",
  "words": ["the", "zebra", "sat", "on", "the", "mat"],
  "tags": list("NVNVNV"),
  "question": "  who sat ?",
  "context": "the zebra sat on the mat",
  "answers": [{"text": "zebra sat", "answer_start": 4}],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_when_one_window_covers_the_text_a_stride_changes_nothing(name):
  one, other = (
    read_all(Labelled(ListSource([EXAMPLE]), LAYOUTS[name], 64, stride)) for stride in (0, 9)
  )
  (whole,), (cut,) = one, other
  for key in whole.keys() | cut.keys():
    np.testing.assert_array_equal(whole[key], cut[key])
    assert len(whole[key]) == len(whole["source"])
  (body,) = BPE.encode_batch([EXAMPLE["text"]])
  (head,) = BPE.encode_batch(["who sat ?"])
  expected = [BOS, *head, EOS, *body, EOS] if name == "answers" else [BOS, *body, EOS]
  assert whole["source"] == expected


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=25)
@given(length=st.integers(4, 30), stride=st.integers(0, 28))
def test_rows_have_their_lengths_and_their_bodies_are_the_text(name, length, stride):
  stride = min(stride, length - 2)
  labelled = Labelled(ListSource([EXAMPLE] * 2), LAYOUTS[name], length, stride)
  rows, (body,) = read_all(labelled), BPE.encode_batch([EXAMPLE["text"]])
  found = {0: {}, 1: {}}
  for row, (number, window), room in zip(rows, labelled.index, labelled.lengths().tolist()):
    assert [len(row["source"]), 0] == room
    assert all(len(row[key]) == room[0] <= length for key in labelled.extras)
    head = labelled.head_length(number)
    assert (row["source"][0], row["source"][head - 1]) == (BOS, EOS if head > 1 else BOS)
    for place, token in enumerate(row["source"][head:-1], window.start):
      assert found[number].setdefault(place, token) == token == body[place]
  for places in found.values():
    assert stride == 0 or len(places) == len(body)


def test_cuts_are_reported(caplog):
  Labelled(ListSource([EXAMPLE]), LAYOUTS["classes"], 40).lengths()
  Labelled(ListSource([EXAMPLE]), LAYOUTS["classes"], 6, 2).lengths()
  assert not caplog.records
  Labelled(ListSource([EXAMPLE]), LAYOUTS["classes"], 6).lengths()
  assert "of 1 examples, 1 are truncated to 6 tokens; a stride would keep all" in caplog.text
  Labelled(ListSource([EXAMPLE]), LAYOUTS["answers"], 6, 2).lengths()
  assert "of 1 examples, 1 have a question or first text that is cut" in caplog.text


@pytest.mark.parametrize(
  "length, stride, message",
  [(3, 0, "task.source_len is 3"), (20, 19, "task.stride is 19"), (20, -1, "task.stride is -1")],
)
def test_a_row_or_stride_that_cannot_be_is_reported(length, stride, message):
  with pytest.raises(UserError, match=message):
    Labelled(ListSource([EXAMPLE]), LAYOUTS["answers"], length, stride)


def test_lengths_are_measured_once_and_items_pickle_small():
  labelled = Labelled(Kept([EXAMPLE] * 500), LAYOUTS["answers"], 16, 4)
  rows, small = read_all(labelled), len(pickle.dumps(labelled.source)) + len(pickle.dumps(BPE))
  data = pickle.dumps(labelled)
  assert len(data) < small + 1000
  again = pickle.loads(data)
  vars(again.layout)["encode"] = lambda examples: 1 / 0  # the lengths are those on disk
  assert (again.lengths() == labelled.lengths()).all()
  with pytest.raises(ZeroDivisionError):
    read_all(again)
  assert len(rows) > 500


# Classes


def test_a_class_is_the_first_tokens_label():
  examples = [EXAMPLE, EXAMPLE | {"label": "z"}, {"text": "a dog"}]
  known, unknown, none = read_all(Labelled(ListSource(examples), LAYOUTS["classes"], 30))
  assert known["labels"][0] == 1
  assert np.flatnonzero(known["weights"]).tolist() == [0]
  assert not unknown["weights"].any()
  assert not none["weights"].any()
  numbers = Classes(BPE, ("text",), None)
  (row,) = read_all(Labelled(ListSource([EXAMPLE | {"label": "-2.5"}]), numbers, 30))
  assert row["labels"].dtype == np.float32
  assert (row["labels"][0], row["weights"][0]) == (-2.5, 1)
  with pytest.raises(UserError, match=r"label is 'y'.*task\.regression"):
    read_all(Labelled(ListSource([EXAMPLE]), numbers, 30))


@given(first=st.integers(0, 30), second=st.integers(0, 30), length=st.integers(4, 40))
def test_nothing_of_a_pair_is_cut_if_it_fits(first, second, length):
  example = {"a": "cat " * first, "b": "dog " * second}
  (row,) = read_all(Labelled(ListSource([example]), Classes(WORDS, ("a", "b"), ("x",)), length))
  whole = first + second + 3
  assert len(row["source"]) == min(whole, length)
  middle = row["source"].index(EOS)
  assert row["source"][-1] == EOS
  if whole > length:  # a text no longer than its half is whole
    assert middle == first + 1 or middle + 1 >= length // 2
    assert len(row["source"]) - middle - 2 == second or middle + 1 <= max(length // 2, 2)


# Tags


@pytest.mark.parametrize("tokenizer", [BPE, UNIGRAM, WORDS, BYTES])
@settings(max_examples=30)
@given(
  words=st.lists(
    st.sampled_from(["the", "zebra", "sat", "mat", "\ufe0f", "quagga", "日本", "\u200b"]),
    min_size=1,
    max_size=12,
  ),
  length=st.integers(4, 40),
  stride=st.integers(1, 30),
)
def test_a_tag_lies_on_its_words_first_piece_once(tokenizer, words, length, stride):
  labels = tuple(f"T{i}" for i in range(len(words)))  # each word its own
  example = {"words": words, "tags": list(labels)}
  labelled = Labelled(
    ListSource([example]), Tags(tokenizer, labels), length, min(stride, length - 2)
  )
  place, firsts = 0, {}
  for number, word in enumerate(words):
    (pieces,) = tokenizer.encode_batch([word])
    if pieces:
      firsts[place] = number
    place += len(pieces)
  found = {}
  for row, (_, window) in zip(read_all(labelled), labelled.index):
    for at in np.flatnonzero(row["weights"]):
      body = int(at) - 1 + window.start
      assert body not in found
      found[body] = int(row["labels"][at])
  assert found == firsts


def test_a_word_of_no_pieces_has_no_label_and_moves_none():
  nothing = train_tokenizer({"name": "word"}, TEXTS)
  words = ["the", "\x1c", "cat"]  # a separator, which splitting takes away
  (encoded,) = Tags(nothing, ("N", "V")).encode([{"words": words, "tags": ["N", "V", "V"]}])
  assert encoded.label == ([0, -1, 1], [0, 1, 1])
  example = {"words": words, "tags": list("NVV")}
  (row,) = read_all(Labelled(ListSource([example]), Tags(nothing, ("N", "V")), 9))
  assert row["weights"].tolist() == [0, 1, 1, 0]
  assert row["labels"].tolist() == [0, 0, 1, 0]


def test_words_without_their_number_of_tags_are_reported():
  for tags in (["N"], [], ["N"] * 3):
    with pytest.raises(UserError, match=f"2 words have {len(tags)} tags.*'cats'"):
      Tags(BPE, ("N",)).encode([{"words": ["two", "cats"], "tags": tags}])
  (row,) = read_all(Labelled(ListSource([{"words": ["two", "cats"]}]), Tags(BPE, ("N",)), 20))
  assert not row["weights"].any()  # to be predicted


# Answers


WORDS_OF = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=6)
BLANKS = st.sampled_from([" ", "  ", "\n", " \t", "\u3000"])


@st.composite
def questions(draw):
  """A context of words with blanks of all kinds between them, and an answer of some of them."""
  words = draw(st.lists(WORDS_OF, min_size=1, max_size=12))
  blanks = [draw(st.sampled_from(["", " ", "\n "]))] + [draw(BLANKS) for _ in words]
  context = "".join(blank + word for blank, word in zip(blanks, words))
  first = draw(st.integers(0, len(words) - 1))
  last = draw(st.integers(first, len(words) - 1))
  start = sum(len(blank) + len(word) for blank, word in zip(blanks[:first], words[:first]))
  stop = sum(len(blank) + len(word) for blank, word in zip(blanks[: last + 1], words[: last + 1]))
  if draw(st.booleans()):
    start += len(blanks[first])  # else the answer begins with its blank
  answer = {"text": context[start:stop], "answer_start": start}
  question = draw(st.sampled_from(["who ?", "  who sat on the mat ?", ""]))
  return {"question": question, "context": context, "answers": [answer]}


@pytest.mark.parametrize("tokenizer", [BPE, UNIGRAM, BYTES])
@settings(max_examples=40)
@given(example=questions(), length=st.integers(8, 60), stride=st.integers(1, 20))
def test_the_marked_tokens_characters_are_the_answer(tokenizer, example, length, stride):
  encoder = Answers(tokenizer)
  labelled = Labelled(ListSource([example]), encoder, length, min(stride, length - 2))
  (encoded,) = encoder.encode([example])
  characters, span, known = encoded.label
  assert known
  wanted = example["answers"][0]["text"].strip()
  assert example["context"][characters[span[0]][0] : characters[span[1]][1]] == wanted
  for row, (_, window) in zip(read_all(labelled), labelled.index):
    (first,), (last,) = np.flatnonzero(row["starts"]), np.flatnonzero(row["ends"])
    head = labelled.head_length(0)
    assert row["weights"].tolist() == [1] + [0] * (len(row["source"]) - 1)
    places = np.flatnonzero(row["answerable"]).tolist()
    assert places == [0, *range(head, len(row["source"]) - 1)]
    if window.start <= span[0] and span[1] < window.stop:
      marked = (first - head + window.start, last - head + window.start)
      assert marked == span
      assert row["source"][first : last + 1] == encoded.body[span[0] : span[1] + 1]
    else:
      assert (first, last) == (0, 0)


@pytest.mark.parametrize("tokenizer", [BPE, UNIGRAM, BYTES])
def test_characters_that_touch_an_answer_are_not_marked(tokenizer):
  example = EXAMPLE | {
    "context": "a (zebra), sat",
    "answers": [{"text": "zebra", "answer_start": 3}],
  }
  (encoded,) = Answers(tokenizer).encode([example])
  characters, (first, last), _ = encoded.label
  assert (characters[first][0], characters[last][1]) == (3, 8)


def test_a_question_without_an_answer_points_at_the_first_token():
  examples = [
    EXAMPLE | {"answers": []},
    EXAMPLE | {"answers": [{"text": "", "answer_start": 6}]},
  ]
  for row in read_all(Labelled(ListSource(examples), Answers(WORDS), 60)):
    assert (row["starts"].argmax(), row["ends"].argmax()) == (0, 0)
    assert (row["starts"].sum(), row["ends"].sum()) == (1, 1)


def test_an_answer_that_is_unknown_or_without_a_place_has_no_loss():
  examples = [
    {key: EXAMPLE[key] for key in ("question", "context")},
    EXAMPLE | {"answers": [{"text": "elsewhere", "answer_start": -1}]},
  ]
  for row in read_all(Labelled(ListSource(examples), Answers(WORDS), 60)):
    assert (row["starts"].sum(), row["ends"].sum(), row["weights"].sum()) == (0, 0, 0)
    assert row["answerable"].sum() > 1


def test_a_long_question_leaves_half_of_the_row_to_a_long_text():
  example = {"question": "who " * 100, "context": "the cat sat " * 30, "answers": []}
  for row in read_all(Labelled(ListSource([example]), Answers(WORDS), 21, 5)):
    (who,) = WORDS.encode_batch(["who"])
    assert row["source"][:10] == [BOS, *who * 8, EOS]
    assert row["answerable"][10] == 1
    assert len(row["source"]) <= 21
