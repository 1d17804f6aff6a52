"""Splits of whole programs, in one language or several; mistakes in a spec are reported."""

import logging
import pickle

import numpy as np
import pytest

from tests.train.data.po import MESSAGES, read, source, wheel, write
from train.common.errors import UserError
from train.data import items
from train.data.tokenizer_training import train_tokenizer


@pytest.mark.parametrize(
  "path, language, same",
  [
    ("de/LC_MESSAGES/x.po", "de", True),
    ("de_DE/LC_MESSAGES/x.po", "de", True),
    ("de-DE/x.po", "de", True),
    ("locale/de.po", "de", True),
    ("i18n/plone-de.po", "de", True),
    ("messages.de.po", "de", True),
    ("de/LC_MESSAGES/x.po", "de_DE", True),
    ("de_Informal/LC_MESSAGES/x.po", "de", False),
    ("de_Informal/LC_MESSAGES/x.po", "de_Informal", True),
    ("de_AT/LC_MESSAGES/x.po", "de", False),
    ("de/fr/LC_MESSAGES/x.po", "de", False),
    ("pt_BR/LC_MESSAGES/x.po", "pt", False),
    ("zh_Hans/LC_MESSAGES/x.po", "zh_Hans", True),
    ("zh-Hans/LC_MESSAGES/x.po", "zh_Hans", True),
    ("zh_CN/LC_MESSAGES/x.po", "zh_Hans", True),
    ("zh_Hans_CN/LC_MESSAGES/x.po", "zh-Hans", True),
    ("plone-zh-cn.po", "zh_Hans", True),
    ("zh_TW/LC_MESSAGES/x.po", "zh_Hans", False),
    ("zh_TW/LC_MESSAGES/x.po", "zh_Hant", True),
    ("zh_HK/LC_MESSAGES/x.po", "zh_Hant", False),
  ],
)
def test_a_catalogs_language_is_in_its_name(path, language, same, tmp_path):
  write(tmp_path / path, MESSAGES)
  write(tmp_path / "ja/x.po", MESSAGES)
  if same:
    assert read(tmp_path, language=language) == list(MESSAGES.items())
  else:
    with pytest.raises(UserError, match=f"no catalog in '{language}'.* ja"):
      source(tmp_path, language=language)


@pytest.fixture
def programs(tmp_path):
  """Two wheels to train on and one to test on, with English in common."""
  shared = {"Save the file!": "Speichern!", "Close this window": "Schließen"}
  for name, messages in {
    "a": {"Save the file": "Die Datei speichern", "Go back home": "Nach Hause"},
    "b": {"Close this window": "Dieses Fenster schließen", "Come again soon": ""},
    "c": {**shared, "Come again soon": "Bis bald", "Count the lines": "Zeilen zählen"},
  }.items():
    for language, change in (("de", str), ("fr", str.upper)):
      translated = {source: change(target) for source, target in messages.items()}
      write(tmp_path / name / language / "x.po", translated)
    wheel(tmp_path / f"{name}-1.whl", tmp_path / name)
  return {
    "train": [f"{tmp_path}/a-*.whl", f"{tmp_path}/b-*.whl"],
    "test": f"{tmp_path}/c-*.whl",
  }


def test_english_of_training_is_not_tested(programs, caplog):
  """Punctuation and case do not count; English that training left out is excluded too."""
  training, every = read(programs), read(programs, "test", unseen_of="")
  assert [len(training), len(every)] == [3, 4]
  with caplog.at_level(logging.INFO, logger="absl"):
    tested = read(programs, "test")
  assert tested == [pair for pair in every if pair[0] == "Count the lines"]
  assert "left out: 3 seen" in caplog.text
  assert read(programs) == training


def test_several_languages_are_reported_by_the_first_token(programs):
  spec = dict(name="bpe", vocab_size=300, special=("<2de>", "<2fr>"))
  marked = source(programs, language=["de", "fr"])
  learned = train_tokenizer(spec, ["Save the file", "Close this window"])
  expected = [
    (f"<2{language}> {english}", target)
    for program in programs["train"]
    for language in ("de", "fr")
    for english, target in read({"train": program}, language=language)
  ]
  assert [tuple(pair.values()) for pair in marked] == expected
  rows = items.Pairs(marked, learned, 99, 99).read(range(6), range(6))
  for (english, _), row in zip(expected, rows):
    name, _, rest = english.partition(" ")
    plain = learned.encode_batch([rest])[0]
    assert list(row["source"]) == [learned.id(name), *plain, learned.roles.eos]
  lengths = items.Pairs(marked, learned, 99, 99).lengths()[:, 0]
  assert np.array_equal(lengths, [len(row["source"]) for row in rows])


def test_only_a_texts_first_word_is_a_language():
  marked = train_tokenizer(dict(name="bpe", vocab_size=300, special=("<2de>",)), ["Save <2de>"])
  texts = ["Save <2de> it", " <2de> it", "<eos> it", "<2de>it", "<2de>", ""]
  assert marked.encode_sources(texts) == marked.encode_batch(texts)
  assert marked.encode_sources(["<2de> it"]) == [
    [marked.id("<2de>"), *marked.encode_batch(["it"])[0]]
  ]


def test_a_split_may_have_languages_of_its_own(programs):
  programs["test_fr"] = dict(files=programs["test"], language="fr")
  options = dict(language=["de", "fr"], unseen_of="train")
  french = [pair for pair in read(programs, "test", **options) if pair[0].startswith("<2fr>")]
  assert (
    read(programs, "test_fr", **options) == french == [("<2fr> Count the lines", "ZEILEN ZÄHLEN")]
  )


def test_a_copy_reads_the_same_and_is_small(programs):
  first = source(programs, "test", language=["de", "fr"])
  pairs = list(first)
  packed = pickle.dumps(first)
  assert list(pickle.loads(packed)) == pairs
  assert pickle.loads(packed).fingerprint == first.fingerprint
  assert len(packed) < 3000


def test_the_fingerprint_is_of_all_that_decides_the_pairs(programs, tmp_path):
  options = [
    dict(),
    dict(split="test"),
    dict(split="test", unseen_of=""),
    dict(language="fr"),
    dict(language=["fr"]),
    dict(language=["de", "fr"]),
    dict(min_words=4),
    dict(max_words=9),
  ]
  prints = [source(programs, **one).fingerprint for one in options]
  assert len(set(prints)) == len(options)
  assert prints == [source(programs, **one).fingerprint for one in options]
  write(tmp_path / "b/de/x.po", {"Close this window": "Fenster zu"})
  wheel(tmp_path / "b-1.whl", tmp_path / "b")
  changed = [source(programs, **one).fingerprint for one in options]
  assert [a == b for a, b in zip(prints, changed)] == [i == 2 for i in range(len(options))]
  assert ("Close this window", "Fenster zu") in read(programs)


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(split="tset"), "no 'tset'; listed are train, test; did you mean test"),
    (dict(language="fi"), "data.splits.train has no catalog in 'fi'; .*named de, fr, x"),
    (dict(language=["de", "fi"]), "no catalog in 'fi'"),
    (dict(language=[]), "data.language is empty"),
    (dict(unseen_of="tests"), "data.unseen_of is 'tests', but data.splits has train, test"),
    (dict(splits={"train": {"file": "x"}}), "data.splits.train has file; it takes files and"),
    (dict(splits={"train": "package:nosuchpackage"}), "no installed package 'nosuchpackage'"),
    (
      dict(splits={"train": "nosuchfolder/*.whl"}),
      "no file matches nosuchfolder.* `make data` fetches",
    ),
  ],
)
def test_a_mistake_is_reported(options, message, programs):
  with pytest.raises(UserError, match=message):
    source(**dict(splits=programs) | options)
