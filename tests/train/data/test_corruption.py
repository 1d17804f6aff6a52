"""Corruption: hidden tokens can be put back, and their share is the rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.common.errors import UserError
from train.data import corruption
from train.data.corruption import Corruption

MASK, SENTINELS, WORDS = 4, tuple(range(5, 205)), np.arange(205, 1000)
RATES = st.floats(0.01, 0.99)
LENGTHS = st.integers(2, 200)
SEEDS = st.integers(0, 2**32)


def corrupted(style, length, seed=0, **options):
  """Returns the text, the corruption, and its source and target."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(205, 1000, length).astype(np.int32)
  made = Corruption(style, mask=MASK, sentinels=SENTINELS, words=WORDS, **options)
  return ids, made, *made(ids, rng)


def put_back(source, target):
  """Returns the text: replaces each sentinel of the source by the tokens after it in the target."""
  hidden, sentinel = {}, None
  for token in target.tolist():
    if token in SENTINELS:
      sentinel = token
      hidden[sentinel] = []
    else:
      hidden[sentinel].append(token)
  assert list(hidden) == list(SENTINELS[: len(hidden)])  # in order, none left out
  return [word for token in source.tolist() for word in hidden.get(token, [token])]


@pytest.mark.parametrize("style", ["spans", "iid"])
@given(length=LENGTHS, rate=RATES, span=st.floats(1, 20), seed=SEEDS)
def test_source_and_target_give_back_the_text(style, length, rate, span, seed):
  ids, made, source, target = corrupted(style, length, seed, rate=rate, mean_span=span)
  assert put_back(source, target) == ids.tolist()
  hidden = [token for token in target.tolist() if token not in SENTINELS]
  assert len(hidden) == corruption.number_chosen(length, rate)
  spans = len(target) - len(hidden)
  assert len(source) == length - len(hidden) + spans
  assert not (np.isin(source[1:], SENTINELS) & np.isin(source[:-1], SENTINELS)).any()
  if style == "spans":
    assert spans == made.number_of_spans(length)
    assert source[0] not in SENTINELS


@given(length=LENGTHS, rate=RATES, seed=SEEDS)
def test_dropped_tokens_and_the_rest_are_the_text_in_order(length, rate, seed):
  ids = np.arange(205, 205 + length, dtype=np.int32)  # all different, and so with known places
  source, target = Corruption("drop", rate)(ids, np.random.default_rng(seed))
  whole = np.zeros(length, np.int32)
  whole[source - 205], whole[target - 205] = source, target
  assert whole.tolist() == ids.tolist()
  assert (np.diff(source) > 0).all()
  assert (np.diff(target) > 0).all()
  assert len(target) == corruption.number_chosen(length, rate)


@given(length=LENGTHS, rate=RATES, seed=SEEDS)
def test_masked_tokens_are_the_text_elsewhere(length, rate, seed):
  ids, _, source, target = corrupted("mask", length, seed, rate=rate)
  assert target.tolist() == ids.tolist()
  hidden = source == MASK
  assert hidden.sum() == corruption.number_chosen(length, rate)
  assert source[~hidden].tolist() == ids[~hidden].tolist()


@given(length=LENGTHS, rate=RATES, seed=SEEDS)
def test_shuffles_and_prefixes_keep_every_token(length, rate, seed):
  ids, _, source, target = corrupted("deshuffle", length, seed, rate=rate)
  assert target.tolist() == ids.tolist()
  assert sorted(source.tolist()) == sorted(ids.tolist())
  for style in ("prefix", "suffix"):
    ids, _, source, target = corrupted(style, length, seed, rate=rate)
    assert [*source, *target] == ids.tolist()
    assert len(source)
    assert len(target)


@pytest.mark.parametrize("style", corruption.STYLES)
@given(length=LENGTHS, rate=RATES, span=st.floats(1, 20), seed=SEEDS)
def test_no_pair_takes_more_than_its_room(style, length, rate, span, seed):
  _, made, source, target = corrupted(style, length, seed, rate=rate, mean_span=span)
  room = made.max_lengths(length)
  assert len(source) <= room[0]
  assert len(target) <= room[1]
  # a shorter window has no more: so what a full one takes is what a row must hold
  shorter = made.max_lengths(max(2, length - 1))
  assert shorter[0] <= room[0]
  assert shorter[1] <= room[1]


@pytest.mark.parametrize("style", ["spans", "iid", "drop", "mask"])
@pytest.mark.parametrize("length", [2, 3, 10, 100, 512])
@pytest.mark.parametrize("rate", [0.15, 0.5, 0.75])
def test_the_share_of_hidden_tokens_is_the_rate(style, length, rate):
  _, _, source, target = corrupted(style, length, rate=rate)
  hidden = (source == MASK).sum() if style == "mask" else (~np.isin(target, SENTINELS)).sum()
  assert 0 < hidden < length
  assert abs(hidden - length * rate) <= 0.5 or hidden in (1, length - 1)


def test_spans_are_as_long_on_average_as_they_should_be():
  for mean in (1, 2, 3, 10):
    lengths = []
    for seed in range(50):
      _, _, _, target = corrupted("spans", 400, seed, rate=0.15, mean_span=mean)
      starts = np.flatnonzero(np.isin(target, SENTINELS))
      lengths += (np.diff([*starts, len(target)]) - 1).tolist()
    assert np.mean(lengths) == pytest.approx(mean, rel=0.02)
    assert len(set(lengths)) > 1 or mean == 1


def test_a_suffix_is_of_any_length_with_the_mean_of_the_rate():
  lengths = [len(corrupted("suffix", 40, seed, rate=0.25)[3]) for seed in range(2000)]
  assert set(lengths) == set(range(1, 20))
  assert np.mean(lengths) == pytest.approx(10, rel=0.05)


def test_spans_may_be_of_any_length_and_anywhere():
  """4 of 10 tokens in 2 spans: 3 ways to split 4, times 5 ways to split 6."""
  ids = np.arange(205, 215)
  made = Corruption("spans", 0.4, 2.0, sentinels=SENTINELS)
  rng = np.random.default_rng(0)
  found = [tuple(made(ids, rng)[0].tolist()) for _ in range(3000)]
  counts = np.asarray([found.count(one) for one in set(found)])
  assert len(counts) == 15
  assert abs(counts - 200).max() < 5 * np.sqrt(200)  # five standard deviations


@pytest.mark.parametrize("style", corruption.STYLES)
def test_the_same_generator_corrupts_the_same(style):
  first, again, other = (corrupted(style, 50, seed) for seed in (3, 3, 4))
  for one, two in zip(first[2:], again[2:]):
    assert one.tolist() == two.tolist()
  assert first[2].tolist() != other[2].tolist()


def within(count, total, share):
  """Returns True if a binomial count lies within five standard deviations."""
  return abs(count - total * share) <= 5 * np.sqrt(total * share * (1 - share))


def test_bert_hides_80_10_10():
  ids, _, source, target = corrupted("bert", 200_000, rate=0.15)
  assert target.tolist() == ids.tolist()
  total, masks = 30_000, int((source == MASK).sum())
  others = source[(source != ids) & (source != MASK)]
  random = len(others) * 795 / 794  # one of 795 random words is the word that was there
  assert within(masks, total, 0.8)
  assert within(random, total, 0.1)
  assert 205 <= others.min() <= others.max() < 1000
  assert len(set(others.tolist())) > 700
  chosen = np.arange(len(ids)) < total
  hidden = corruption.hide(ids, chosen, MASK, WORDS, np.random.default_rng(1))
  assert (hidden[total:] == ids[total:]).all()
  assert within((hidden[:total] == ids[:total]).sum(), total, 0.1 + 0.1 / 795)


@given(
  starts=st.lists(st.booleans(), min_size=2, max_size=80), rate=st.floats(0.01, 0.99), seed=SEEDS
)
def test_a_word_is_hidden_wholly_or_not_at_all(starts, rate, seed):
  starts, limit = np.asarray(starts), max(1, int(len(starts) * rate))
  chosen = corruption.choose_words(starts, rate, np.random.default_rng(seed))
  words = np.split(chosen, np.flatnonzero(starts[1:]) + 1)
  if min(map(len, words)) > limit:  # no word fits: as many tokens in a row
    assert chosen.sum() == limit == np.ptp(np.flatnonzero(chosen)) + 1
    return
  assert all(word.all() or not word.any() for word in words)
  assert 1 <= chosen.sum() <= limit
  left = [len(word) for word in words if not word.any()]
  assert not left or min(left) > limit - chosen.sum()  # no more would fit


def former_choice(starts, rate, rng):
  """Chooses words by the rule that hid nothing in short windows."""
  limit = int(len(starts) * rate)
  word = np.cumsum(starts)
  word -= word[0]
  sizes = np.bincount(word)
  chosen, used = np.zeros(len(sizes), bool), 0
  for number in rng.permutation(len(sizes)):
    if used + sizes[number] <= limit:
      chosen[number] = True
      used += sizes[number]
      if used == limit:
        break
  return chosen[word]


@given(
  starts=st.lists(st.booleans(), min_size=1, max_size=40), rate=st.floats(0.01, 0.99), seed=SEEDS
)
def test_only_windows_that_hid_nothing_are_masked_otherwise_than_before(starts, rate, seed):
  generators = [np.random.default_rng(seed) for _ in range(2)]
  before = former_choice(np.asarray(starts), rate, generators[0])
  chosen = corruption.choose_words(np.asarray(starts), rate, generators[1])
  if before.any():
    assert chosen.tolist() == before.tolist()
    assert generators[0].random() == generators[1].random()  # so `hide` draws the same
  else:
    assert chosen.any()


def test_words_of_one_token_are_hidden_at_exactly_the_rate():
  for length, count in ((1, 1), (3, 1), (7, 1), (100, 15)):
    chosen = corruption.choose_words(np.ones(length, bool), 0.15, np.random.default_rng(0))
    assert chosen.sum() == count


@pytest.mark.parametrize(
  "options, message",
  [
    ({"style": "span"}, "task.style is 'span'; known: spans.*did you mean spans"),
    ({"rate": 0.0}, "task.rate is 0.0"),
    ({"rate": 1.0}, "task.rate is 1.0"),
    ({"rate": 15}, "task.rate is 15"),
    ({"mean_span": 0.5}, "task.mean_span is 0.5"),
  ],
)
def test_impossible_settings_are_reported(options, message):
  with pytest.raises(UserError, match=message):
    Corruption(**{"style": "spans", **options})


@pytest.mark.parametrize("style", ["spans", "iid"])
def test_too_few_sentinels_are_reported(style):
  made = Corruption(style, 0.5, 1.0, sentinels=(5, 6))
  with pytest.raises(UserError, match=r"spans to hide.*has 2 sentinels.*tokenizer\.sentinels"):
    made(np.arange(10, 40), np.random.default_rng(0))
