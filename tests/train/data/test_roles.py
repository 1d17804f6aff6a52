"""Foreign tokenizers: their special tokens have any ids, and batches follow their roles."""

import pickle

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tests.train.data.helpers import BART, BERT, GPT2, Docs, read_all
from train.common.errors import UserError
from train.data import corruption, items
from train.data.batches import Layout, eval_batches
from train.data.corruption import Corruption
from train.data.documents import Denoise, MaskedLm, NextToken, PrefixLm, Tokens, Windows
from train.data.label_layout import Answers, Classes, Tags
from train.data.labelled import Labelled, ListSource
from train.data.roles import Roles
from train.data.tokenizer import Tokenizer
from train.data.tokenizer_training import train_tokenizer

TEXTS = ["the cat sat", "a dog ran on the mat", "mat"]


def test_random_words_are_drawn_as_in_older_versions():
  """Draws from consecutive ids equal draws from a range, so old runs keep their masks."""
  ids, chosen = np.arange(5, 405), np.ones(400, bool)
  found = corruption.hide(ids, chosen, 4, np.arange(5, 1000), np.random.default_rng(3))
  rng = np.random.default_rng(3)
  how = rng.random(400)
  drawn = rng.integers(5, 1000, 400)
  expected = np.where(how < 0.8, 4, np.where(how < 0.9, drawn, ids))
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("tokenizer", [BERT, BART, GPT2], ids=["bert", "bart", "gpt2"])
def test_saved_and_pickled_keep_their_roles(tokenizer, tmp_path):
  tokenizer.save(tmp_path / "tokenizer.json")
  for other in (Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(tokenizer))):
    assert other.roles == tokenizer.roles
    assert other.fingerprint == tokenizer.fingerprint
    assert other.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
  same = Tokenizer(tokenizer.copy_inner(), Roles(pad=0, eos=1, start=2))
  assert same.fingerprint != tokenizer.fingerprint


def test_a_target_has_its_own_pieces_and_is_kept(tmp_path):
  vocab = {"cat": 0, "Katze": 1, "<unk>": 2, "</s>": 3}
  source, target = (
    tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>")) for _ in range(2)
  )
  target.normalizer = normalizers.Replace("Cat", "Katze")
  for inner in (source, target):
    inner.add_special_tokens(["<unk>", "</s>"])
  one = Tokenizer(source, Roles(pad=3, eos=3, start=3, unk=2), target)
  one.save(tmp_path / "tokenizer.json")
  for other in (one, Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(one))):
    assert other.encode_batch(["Cat"]) == [[2]]
    assert other.encode_targets(["Cat"]) == [[1]]
    (pair,) = read_all(items.Pairs(ListSource([dict(source="cat", target="Cat")]), other, 9, 9))
    assert (pair["source"], pair["target"]) == ([0, 3], [1, 3])


@pytest.mark.parametrize(
  "content, message",
  [
    ('{"roles": {}, "tokenizer": null, "target_tokenizer": null}', "is not a tokenizer.json"),
    ('{"roles": {"pad": 0, "eos": 1, "start": 2, "sart": 3}}', "is not a tokenizer.json"),
  ],
)
def test_broken_roles_are_reported(content, message, tmp_path):
  (tmp_path / "tokenizer.json").write_text(content)
  with pytest.raises(UserError, match=message):
    Tokenizer.load(tmp_path / "tokenizer.json")


def test_words_are_the_ids_without_a_role_or_a_special_name():
  assert BERT.words.tolist() == list(range(10))
  assert BERT.words.dtype == np.int32
  assert GPT2.words.tolist() == [i for i in range(GPT2.vocab_size) if i != 258]
  assert BERT.vocab_size == 15


def test_text_is_never_a_token_of_the_frame():
  assert set(BART.encode_batch(["<s> </s> <mask>"])[0]) & set(range(256, 261)) == {260}
  assert BERT.encode_batch(["[SEP] cat"])[0] == [11, 11, 11, 2]  # "[", "sep", "]" are no words


@pytest.mark.parametrize("name", ["<mask>", "[MASK]"])
def test_a_mask_has_both_spellings(name):
  assert BERT.encode_marked(f"the {name} sat") == [0, 14, 4]
  the, sat = BART.encode_batch(["the", " sat"])
  assert BART.encode_marked(f"the {name} sat") == [*the, 260, *sat]  # it takes the blank before it
  with pytest.raises(UserError, match="the vocabulary has no <mask>, and none can be added"):
    GPT2.mask  # noqa: B018


def test_a_word_is_tagged_as_it_stands_inside_a_text():
  words = ["cat", "sat", ""]
  assert BART.encode_words(words) == BART.encode_batch([" cat", " sat", ""])
  assert BERT.encode_words(words) == [[2], [4], []]
  own = train_tokenizer({"name": "byte"}, [])
  assert own.encode_words(words) == own.encode_batch(words)
  encoder = Tags(BART, ("N",))
  (row,) = read_all(Labelled(ListSource([{"words": words[:2], "tags": ["N", "N"]}]), encoder, 32))
  assert row["source"] == [256, *BART.encode_batch([" cat sat"])[0], 258]


def test_words_begin_without_wordpieces_prefix_and_with_sentencepieces_blank():
  assert BERT.word_starts[[2, 5]].tolist() == [True, False]
  (ids,) = BART.encode_batch(["the cat sat"])
  assert BART.word_starts[np.asarray(ids)].sum() == 2  # the first has no blank
  vocab = [("<unk>", 0.0), ("▁", -1.0), ("▁cat", -1.0), ("s", -1.0), ("<0x0A>", -3.0)]
  inner = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
  inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
  inner.add_special_tokens(["<unk>"])
  one = Tokenizer(inner, Roles(pad=0, eos=0, start=0, unk=0))
  assert one.word_starts.tolist() == [False, True, True, False, False]
  assert one.byte_lengths.tolist() == [0, 1, 4, 1, 1]
  assert one.encode_offsets(["cats"]) == [([2, 3], [(0, 3), (3, 4)])]


def test_bytes_of_pieces():
  text = "the cät  sat"
  (ids,) = BART.encode_batch([text])
  assert BART.byte_lengths[ids].sum() == len(text.encode())
  assert not BART.byte_lengths[256:].any()
  (ids,) = BERT.encode_batch(["the cats"])
  assert BERT.byte_lengths[ids].sum() == len(" the cats")


# Rows


EXAMPLE = {
  "text": "the cat sat",
  "other": "a dog ran",
  "label": "y",
  "question": "the cat ?",
  "context": "a dog ran on the mat",
  "answers": [{"text": "dog", "answer_start": 2}],
}


def test_two_texts_have_a_separator_and_types():
  one, two = (
    Labelled(ListSource([EXAMPLE]), Classes(BERT, fields, ("x", "y")), 32)
    for fields in (("text",), ("text", "other"))
  )
  assert "source_types" not in one.extras
  (row,) = read_all(one)
  assert row["source"] == [12, 0, 2, 4, 13]
  (row,) = read_all(two)
  assert row["source"] == [12, 0, 2, 4, 13, 1, 3, 6, 13]
  assert row["source_types"].tolist() == [0] * 5 + [1] * 4
  (batch,) = eval_batches(two, Layout(1, 12, 0))
  assert batch["source_types"].tolist() == [[0] * 5 + [1] * 4 + [0] * 3]
  assert batch["source_types"].dtype == np.int32
  (row,) = read_all(
    Labelled(ListSource([EXAMPLE]), Classes(BART, ("text", "other"), ("x", "y")), 64)
  )
  text, other = BART.encode_batch(["the cat sat", "a dog ran"])
  assert row["source"] == [256, *text, 258, 258, *other, 258]
  assert "source_types" not in row


def test_a_question_and_its_windows_are_reported_by_type():
  rows = read_all(Labelled(ListSource([EXAMPLE]), Answers(BERT), 10, 2))
  assert [row["source"] for row in rows] == [
    [12, 0, 2, 9, 13, 1, 3, 6, 7, 13],
    [12, 0, 2, 9, 13, 6, 7, 0, 8, 13],
  ]
  for row in rows:
    assert row["source_types"].tolist() == [0] * 5 + [1] * (len(row["source"]) - 5)
  assert np.flatnonzero(rows[0]["starts"]).tolist() == [6]


def test_a_long_question_is_cut_before_its_separator():
  (row,) = read_all(Labelled(ListSource([EXAMPLE]), Answers(BART), 20, 0))
  assert (row["source"][0], row["source"][-1], len(row["source"])) == (256, 258, 20)
  (place,) = [i for i in range(19) if row["source"][i : i + 2] == [258, 258]]
  assert place == 8  # half a row, less the two separators
  with pytest.raises(UserError, match=r"task.source_len is 5: .* need 6"):
    Labelled(ListSource([EXAMPLE]), Answers(BART), 5, 0)


def test_pairs_are_framed_and_start_by_their_roles():
  pairs = items.Pairs(
    ListSource([dict(source="cat", target="mat"), dict(source="cats!", target="mats!")]), BART, 5, 5
  )
  assert pairs.lengths().tolist() == [[5, 5], [5, 5]]
  cat, mat = BART.encode_batch(["cat", "mat"])
  for row in read_all(pairs):
    assert row["source"] == [256, *cat, 258]
    assert row["target"] == [256, *mat, 258]
  (batch,) = eval_batches(pairs, Layout(2, 5, 10))
  assert batch["inputs"].tolist()[0][:5] == [258, 256, *mat]
  assert batch["labels"].tolist()[0][:5] == [256, *mat, 258]


def test_documents_are_ended_and_begun_by_their_roles():
  tokens = Tokens(Docs(["cat", "dog"]), GPT2)
  cat, dog = GPT2.encode_batch(["cat", "dog"])
  assert tokens.ids.tolist() == [*cat, 258, *dog, 258]
  windows = Windows(tokens, 99, NextToken(GPT2.roles), cross_documents=True)
  assert windows.start == 258
  (row,) = read_all(windows)
  assert row["inputs"].tolist() == [258, *cat, 258, *dog]
  (row,) = read_all(Windows(tokens, 99, PrefixLm(BERT.roles), cross_documents=True))
  assert row["inputs"].tolist() == [258, *cat, 258, *dog]  # [SEP], which is not there, is no end
  ids = np.asarray([0, 13, 1, 13])
  row = NextToken(BERT.roles)(ids, 12, np.random.default_rng(0))
  assert row["inputs"].tolist() == [12, 0, 12, 1]


def test_masked_rows_are_framed_and_random_tokens_are_words():
  objective = MaskedLm(BERT.roles, BERT.words, 0.9)
  ids = np.asarray([0, 2, 4, 13, 1, 3] * 20, np.int32)
  row = objective(ids, 0, np.random.default_rng(0))
  assert (row["source"][0], row["source"][-1]) == (12, 13)
  assert (
    len(row["source"]) == len(row["labels"]) == len(row["weights"]) == objective.max_lengths(120)[0]
  )
  inside = row["source"][1:-1]
  assert (inside[ids == 13] == 13).all()
  changed = inside[inside != ids]
  assert set(changed.tolist()) <= {14, *range(10)}
  assert {14} < set(changed.tolist())
  plain = Roles(pad=10, eos=13, start=10, mask=14)  # nothing in front (T5)
  assert MaskedLm(plain, BERT.words, 0.5)(ids, 0, np.random.default_rng(0))["source"].dtype == int


def test_denoising_frames_both_sides():
  objective = Denoise(Corruption("mask", 0.3, mask=260), BART.roles)
  ids = np.arange(10, dtype=np.int32)
  row = objective(ids, 0, np.random.default_rng(0))
  assert row["target"].tolist() == [256, *ids, 258]
  assert (row["source"][0], row["source"][-1], (row["source"] == 260).sum()) == (256, 258, 3)
  assert objective.max_lengths(10) == (len(row["source"]), len(row["target"]))


def test_decode_stops_at_eos_wherever_it_is():
  cat, dog = GPT2.encode_batch(["cat", "dog"])
  assert GPT2.decode([*cat, 258, *dog]) == "cat"
  assert BERT.decode([12, 0, 2, 5, 10, 13, 3]) == "the cats"
  assert BART.decode([*cat, 999]) == "cat"  # a table has more rows than the vocabulary
