"""Windows: every token of the documents is in one, and each objective's labels are the text's."""

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.data.helpers import Docs, read_all
from train.common import files
from train.common.errors import UserError
from train.data.batches import Batches, Layout, eval_batches
from train.data.corruption import Corruption
from train.data.documents import Denoise, MaskedLm, NextToken, PrefixLm, Tokens, Windows
from train.data.roles import BOS, EOS, UNK
from train.data.tokenizer_training import train_tokenizer

WORDS = train_tokenizer(
  {"name": "word", "special": ("<mask>",), "sentinels": 50}, ["a b c d e f g h i j"]
)
BPE = train_tokenizer(
  {"name": "bpe", "vocab_size": 300, "special": ("<mask>",)}, ["the cat sat on the mat"]
)
BYTES = train_tokenizer({"name": "byte", "special": ("<mask>",)}, [])
CHARS = train_tokenizer({"name": "char", "special": ("<mask>",)}, ["abcdefghijklmnopqrstuvwxyz "])
MASK = WORDS.id("<mask>")
TEXTS = ["a b c d e f g", "h", "i j a b", "c d"]
SPANS = Denoise(Corruption("spans", 0.4, 2.0, sentinels=WORDS.sentinels), WORDS.roles)
MASKED = MaskedLm(WORDS.roles, WORDS.words, 0.4)


def encode(texts, tokenizer=WORDS):
  """Returns the ids of each document with its eos."""
  return [[*ids, EOS] for ids in tokenizer.encode_batch(texts) if ids]


class Loose(Tokens):
  """Given tokens, without a file."""

  def __init__(self, rows):
    vars(self).update(
      source=Docs([]),
      tokenizer=WORDS,
      ids=np.concatenate(rows).astype(np.int32),
      starts=np.cumsum([0, *map(len, rows)]),
    )


ROWS = st.lists(st.lists(st.integers(60, 99), min_size=1, max_size=12), min_size=1, max_size=8)


@given(rows=ROWS, length=st.integers(2, 9))
def test_windows_across_documents_are_all_tokens_joined(rows, length):
  rows = [[*row, EOS] for row in rows]
  joined = [token for row in rows for token in row]
  made = [
    item["target"].tolist()
    for item in read_all(Windows(Loose(rows), length, NextToken(WORDS.roles), True))
  ]
  found = [token for target in made for token in target]
  # of the last window a single token is left out
  assert found == joined[: len(joined) - (len(joined) % length == 1)]
  assert all(len(target) == length for target in made[:-1])


@given(rows=ROWS.filter(lambda rows: max(map(len, rows)) > 1), length=st.integers(2, 9))
@pytest.mark.parametrize("ends", [True, False])
def test_a_window_lies_in_one_document(ends, rows, length):
  rows = [[*row, EOS] for row in rows]
  objective = Denoise(Corruption("prefix"), WORDS.roles) if ends else NextToken(WORDS.roles)
  items = read_all(Windows(Loose(rows), length, objective))
  expected = []
  for row in rows:
    body = row[:-1] if ends else row
    cut = [body[i : i + length] for i in range(0, len(body), length)]
    expected += [piece for piece in cut if len(piece) > 1]
  if ends:  # the one eos of each side is the objective's
    found = [[*item["source"][:-1], *item["target"][:-1]] for item in items]
    assert all(item[side][-1] == EOS for item in items for side in ("source", "target"))
  else:
    found = [item["target"].tolist() for item in items]
  assert found == expected


@given(rows=ROWS, length=st.integers(2, 9), cross_documents=st.booleans())
@pytest.mark.parametrize("objective", [NextToken(WORDS.roles), PrefixLm(WORDS.roles)])
def test_inputs_are_the_labels_one_later(objective, rows, length, cross_documents):
  rows = [[*row, EOS] for row in rows]
  before = {}  # of each token of the stream, by its place
  stream = [(row, place) for row in range(len(rows)) for place in range(len(rows[row]))]
  for i, (row, place) in enumerate(stream):
    before[i] = rows[row][place - 1] if place else (EOS if i else BOS)
  place = 0
  for item in read_all(Windows(Loose(rows), length, objective, cross_documents)):
    target, inputs = item["target"].tolist(), item["inputs"].tolist()
    assert inputs[1:] == [BOS if token == EOS else token for token in target[:-1]]
    if cross_documents:
      # a document begins behind bos, though the eos of the one before is in front of it
      assert inputs[0] == (BOS if before[place] == EOS else before[place])
      place += len(target)
    else:
      assert inputs[0] == BOS


def test_next_token_batches_are_the_packers_own():
  """If no window begins inside a document, packing makes the same `inputs` of the labels."""
  windows = Windows(Tokens(Docs(TEXTS), WORDS), 8, NextToken(WORDS.roles))
  layout = Layout(2, 0, 16)
  with Batches(windows, layout, seed=0) as ours:
    batch = next(ours)
  again = np.zeros_like(batch["labels"])
  again[:, 1:] = batch["labels"][:, :-1]
  again[batch["positions"] == 0] = BOS
  again[batch["segments"] == 0] = 0
  assert (batch["inputs"] == again).all()
  assert (batch["labels"] > 0).sum() > 16


def test_a_prefix_is_visible_and_has_no_weight():
  ids = np.arange(60, 80)
  for seed in range(30):
    item = PrefixLm(WORDS.roles)(ids, BOS, np.random.default_rng(seed))
    learned = np.flatnonzero(item["weights"])
    assert learned[0] > 0
    assert learned.tolist() == list(range(learned[0], 20))
    seen = item["inputs"][item["prefix"] == 1].tolist()
    assert seen == [BOS, *ids[: learned[0]].tolist()]  # all that is not learned, and no more


# Hidden tokens


@given(seed=st.integers(0, 1000), rate=st.floats(0.05, 0.9))
def test_hidden_tokens_are_the_labels(seed, rate):
  ids = np.random.default_rng(seed).choice(WORDS.words, 40)
  item = MaskedLm(WORDS.roles, WORDS.words, rate)(ids, BOS, np.random.default_rng(seed))
  assert (item["source"][0], item["source"][-1]) == (BOS, EOS)
  weights = item["weights"][1:-1] > 0
  assert weights.sum() == int(40 * rate)
  assert item["weights"][[0, -1]].tolist() == [0, 0]
  assert np.where(weights, item["labels"][1:-1], item["source"][1:-1]).tolist() == ids.tolist()
  assert (item["labels"][1:-1][~weights] == 0).all()


@pytest.mark.parametrize("fixed_masks", [True, False])
@pytest.mark.parametrize("tokenizer", [WORDS, BYTES])
@pytest.mark.parametrize("whole_words", [True, False])
def test_each_window_hides_a_token(tokenizer, whole_words, fixed_masks):
  starts = tokenizer.word_starts if whole_words else None
  objective = MaskedLm(tokenizer.roles, tokenizer.words, 0.15, starts)
  tokens = Tokens(Docs(["a b", "j i h", "a b c d e f", "abcdefghijabcdefghij c"]), tokenizer)
  windows = Windows(tokens, 30, objective, fixed_masks=fixed_masks)
  items = read_all(windows)
  assert len(items) == 4
  for item, most in zip(items, windows.lengths()[:, 1].tolist()):
    assert 1 <= (item["weights"] > 0).sum() <= most


def test_a_row_holds_no_more_hidden_tokens_than_the_loss_counts():
  windows = Windows(Tokens(Docs(["a b", "c d e", "f g"] * 20), WORDS), 30, MASKED)
  layout = Layout(2, 32, 0, most_hidden=5)
  batches = list(eval_batches(windows, layout))
  hidden = [int(count) for batch in batches for count in (batch["weights"] > 0).sum(1)]
  assert sum(hidden) == 60
  assert max(hidden) == 5


@pytest.mark.parametrize("cross_documents", [True, False])
def test_an_eos_is_never_hidden_and_a_document_has_one(cross_documents):
  texts = [text for text in TEXTS * 3 if len(text) > 1]
  items = read_all(
    Windows(Tokens(Docs(texts), WORDS), 6, MaskedLm(WORDS.roles, WORDS.words, 0.9), cross_documents)
  )
  for item in items:
    eos = item["source"][1:-1] == EOS
    assert cross_documents or not eos.any()
    assert (item["weights"][1:-1][eos] == 0).all()
    assert EOS not in item["labels"]
  assert sum((item["weights"] > 0).sum() for item in items) > 10


@pytest.mark.parametrize("tokenizer", [BPE, BYTES, CHARS])
def test_words_of_several_pieces_are_hidden_wholly(tokenizer):
  texts = ["the zebra sat on unknown mats", "quagga"] * 8
  hidden, of_two_documents = [0, 0], []
  tokens = Tokens(Docs(texts, "zebras"), tokenizer)
  whole = MaskedLm(tokenizer.roles, tokenizer.words, 0.5, tokenizer.word_starts)
  (item,) = read_all(Windows(tokens, 1000, whole, cross_documents=True))
  chosen, place, before = item["weights"][1:-1] > 0, 0, False
  for text in texts:
    for number, word in enumerate(text.split()):
      (ids,) = tokenizer.encode_batch([" " + word if number else word])
      found = chosen[place : place + len(ids)]
      assert len(ids) > 1 or tokenizer is BPE
      assert found.all() or not found.any()
      if not number:
        of_two_documents.append((before, bool(found.any())))
      before = bool(found.any())
      hidden[before] += 1
      place += len(ids)
    place += 1  # the eos
  assert place == len(chosen)
  assert chosen.sum() <= 0.5 * len(chosen)
  assert min(hidden) > 10
  assert any(one != other for one, other in of_two_documents[1:])  # they are two words


def same(a, b):
  assert len(a) == len(b)
  return all(
    np.array_equal(one[key], other[key]) for one, other in zip(a, b) for key in one.keys() | other
  )


@pytest.mark.parametrize("objective", [SPANS, MASKED, PrefixLm(WORDS.roles)])
def test_random_choices_are_a_function_of_seed_and_position(objective):
  tokens = Tokens(Docs(["a b c d e f g h i j " * 3] * 6), WORDS)
  windows = Windows(tokens, 30, objective)
  assert same(read_all(windows), read_all(windows))
  assert same(read_all(windows)[::-1], [windows.read([i], [i])[0] for i in reversed(range(6))])
  assert not same(read_all(windows), read_all(windows, first=6))  # the next epoch
  assert not same(read_all(windows), read_all(Windows(tokens, 30, objective, seed=1)))
  static = Windows(tokens, 30, objective, fixed_masks=True)
  assert same(read_all(static), read_all(static, first=6))
  assert not same(read_all(static)[:1], read_all(static)[1:2])  # yet each window has its own


@pytest.mark.parametrize(
  "objective", [SPANS, MASKED, PrefixLm(WORDS.roles), NextToken(WORDS.roles)]
)
@pytest.mark.parametrize("cross_documents", [True, False])
def test_no_item_is_longer_than_its_lengths(objective, cross_documents):
  windows = Windows(Tokens(Docs(TEXTS * 5), WORDS), 5, objective, cross_documents)
  items, lengths = read_all(windows), windows.lengths()
  assert len(items) == len(lengths) > 4
  for item, (source, target) in zip(items, lengths.tolist()):
    assert len(item.get("source", ())) <= source
    assert len(item.get("target", ())) <= target
    for key in objective.extras:
      assert len(item[key]) == len(item.get("target", item.get("source")))


# The file of tokens


def test_tokens_are_the_documents_ids_and_an_empty_one_is_named(caplog):
  texts = ["a b", "", "c", "   ", "zebra <eos> d"]
  tokens = Tokens(Docs(texts), WORDS)
  rows = encode(texts)
  assert tokens.ids.tolist() == [token for row in rows for token in row]
  assert tokens.starts.tolist() == np.cumsum([0, *map(len, rows)]).tolist()
  assert (tokens.ids == EOS).sum() == len(rows) == 3  # that in the text ends nothing
  assert (tokens.ids == UNK).sum() == 2
  assert re.search(r"5 documents, 2 are empty .*: number 1, 3$", caplog.text)


def test_documents_are_encoded_once_and_each_source_by_itself(monkeypatch):
  first = Tokens(Docs(TEXTS), WORDS).ids.tolist()
  others = [
    Tokens(Docs(TEXTS[::-1], "others"), WORDS).ids.tolist(),
    Tokens(Docs(TEXTS), BPE).ids.tolist(),
  ]
  assert first not in others
  again = Tokens(Docs(TEXTS), WORDS)
  monkeypatch.setattr(Tokens, "_write", lambda self, folder: 1 / 0)
  assert again.ids.tolist() == first
  assert pickle.loads(pickle.dumps(again)).ids.tolist() == first
  with pytest.raises(ZeroDivisionError):
    list(Tokens(Docs(TEXTS, "new"), WORDS).ids)


def test_a_file_half_written_is_not_used(monkeypatch):
  write = Tokens._write

  def killed(self, folder):
    write(self, folder)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(Tokens, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
      list(Tokens(Docs(TEXTS), WORDS).ids)
    patch.setattr(files.shutil, "rmtree", lambda *args, **options: None)  # kill -9
    with pytest.raises(KeyboardInterrupt):
      list(Tokens(Docs(TEXTS), WORDS).ids)
  expected = [token for row in encode(TEXTS) for token in row]
  assert Tokens(Docs(TEXTS), WORDS).ids.tolist() == expected


def test_windows_pickle_small_and_the_copy_reads_the_same():
  windows = Windows(Tokens(Docs(["a b c d"] * 2000), WORDS), 4, MASKED)
  items = read_all(windows)
  source = len(pickle.dumps(windows.tokens))
  copy = pickle.dumps(windows)
  assert len(copy) < source + 1000
  assert same(read_all(pickle.loads(copy)), items)


@settings(max_examples=10)
@given(length=st.integers(2, 6))
def test_text_without_two_tokens_is_reported(length):
  with pytest.raises(UserError, match="no document has two tokens"):
    Windows(Tokens(Docs(["h", "i"]), WORDS), length, MASKED).lengths()
  with pytest.raises(UserError, match="no document with text"):
    Tokens(Docs(["", " "], "blank"), WORDS).starts.sum()
