"""SCAN from the grammar is SCAN as published, and holding out only moves examples."""

import hashlib
from collections import Counter

import pytest

from train.common.errors import UserError
from train.data import scan

# Line counts and SHA-256 of the published files' lines in byte order (Lake & Baroni 2018).
ALL = (20910, "6be4b39bc8bf3a20be810b6991250d0493e608560609db6765dd679e1ed1c98e")
PUBLISHED = {
  ("length", "train"): (
    16990,
    "7ffb97f45029871c94bede7e723f7a4aa179eb99fe2b977a18283310422c719d",
  ),
  ("length", "test"): (
    3920,
    "3297fd0b676c391f7bc3a7385aa66a7fdf64f6f8e81ad584810c1d4ebd0eaa2c",
  ),
  ("add-jump", "train"): (
    14670,
    "0683daacfdce23cf8ed6f5077feda21785e93ac82e0d11363a9280b7b0c6561e",
  ),
  ("add-jump", "test"): (
    7706,
    "522454c6280eab957dfc4ea9579ef1d780a716ac34df09619970e1d98822d7e2",
  ),
  ("add-turn-left", "train"): (
    21890,
    "e0c26b51b6bba2658e02d69ad53fc15399842d57356d3551a3ed192bca0f9ad4",
  ),
  ("add-turn-left", "test"): (
    1208,
    "14dd6316d16204d2871678ee4bd35aba253416a9b4df36bb6dfdda153d46e549",
  ),
}


def count_and_sum(pairs):
  lines = sorted(scan.format_line(pair).encode() + b"\n" for pair in pairs)
  return len(lines), hashlib.sha256(b"".join(lines)).hexdigest()


def test_all_pairs_are_the_published_file():
  assert count_and_sum(scan.all_pairs()) == ALL


@pytest.mark.parametrize("name, part", PUBLISHED)
def test_split_is_the_published_file(name, part):
  assert count_and_sum(scan.split_pairs(name, part)) == PUBLISHED[name, part]


def test_simple_split_divides_all_pairs_80_to_20():
  train, test = scan.split_pairs("simple", "train"), scan.split_pairs("simple", "test")
  assert (len(train), len(test)) == (16728, 4182)
  assert Counter(train) + Counter(test) == Counter(scan.all_pairs())
  assert train == scan.split_pairs("simple", "train")


@pytest.mark.parametrize("cutoff", [22, 26, 40])
def test_a_cutoff_divides_all_pairs_by_their_actions(cutoff):
  train, test = (scan.split_pairs("length", part, cutoff=cutoff) for part in ("train", "test"))
  assert max(len(actions.split()) for _, actions in train) <= cutoff
  assert min(len(actions.split()) for _, actions in test) > cutoff
  assert Counter(train) + Counter(test) == Counter(scan.all_pairs())


def test_meaning_of_a_command_by_hand():
  meaning = dict(scan.all_pairs())
  assert meaning["jump twice"] == "I_JUMP I_JUMP"
  assert meaning["turn opposite left after walk"] == "I_WALK I_TURN_LEFT I_TURN_LEFT"
  assert meaning["look around right"] == " ".join(["I_TURN_RIGHT I_LOOK"] * 4)


@pytest.mark.parametrize("name", scan.SPLITS)
def test_validation_without_holdout_is_a_sample_of_train(name):
  train, validation = scan.split_pairs(name, "train"), scan.split_pairs(name, "validation")
  assert len(validation) == len(set(validation)) == scan.VALIDATION_SIZE
  assert set(validation) <= set(train)


@pytest.mark.parametrize("name", scan.SPLITS)
def test_holdout_moves_distinct_examples_from_train_to_validation(name):
  whole = scan.split_pairs(name, "train")
  train, validation = (scan.split_pairs(name, part, holdout=37) for part in ("train", "validation"))
  assert len(set(validation)) == 37
  assert not set(train) & set(validation)
  assert Counter(train) + Counter(validation) == Counter(whole)
  assert scan.split_pairs(name, "test", holdout=37) == scan.split_pairs(name, "test")


def test_the_one_line_that_teaches_the_new_word_is_never_held_out():
  once = len(set(scan.split_pairs("add-jump", "train"))) - 1
  train = scan.split_pairs("add-jump", "train", holdout=once - 1)
  assert Counter(train)["jump", "I_JUMP"] == 1467


@pytest.mark.parametrize(
  "arguments, message",
  [
    (("lenght", "train"), "length"),
    (("length", "dev"), "validation"),
    (("simple", "train", -1), "holdout=-1"),
    (("simple", "train", 16728), "below 16728"),
    (("length", "train", 0, 48), "below 48 actions"),
    (("add-jump", "train", 0, 26), "length split alone"),
  ],
)
def test_wrong_arguments_are_reported(arguments, message):
  with pytest.raises(UserError, match=message):
    scan.split_pairs(*arguments)
