"""Tokens of languages are placed in the frame of each example, or an error names the nearest."""

import pickle

import pytest

from tests.train.interop.helpers import open_fixture
from train.common.errors import UserError
from train.data import items, languages, sources
from train.data.tokenizer import Tokenizer
from train.data.tokenizer_training import train_tokenizer

# fixture -> two languages, and the source and the decoder's inputs of the ids [7, 8] between them
DIRECTIONS = {
  "nllb": ("fra_Latn", "deu_Latn", ["fra_Latn", 7, 8, 2], [2, "deu_Latn", 9]),
  "m2m_100": ("fr", "de", ["__fr__", 7, 8, 2], [2, "__de__", 9]),
  "mbart50": ("fr_XX", "af_ZA", ["fr_XX", 7, 8, 2], [2, "af_ZA", 9]),
  "mbart": ("fr_XX", "de_DE", [7, 8, 2, "fr_XX"], ["de_DE", 9]),
}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_each_family_has_its_own_places(name):
  source, target, *expected = DIRECTIONS[name]
  one = open_fixture(name).tokenizer
  inner = one.copy_inner()
  framed, inputs = (
    [inner.token_to_id(x) if isinstance(x, str) else x for x in row] for row in expected
  )
  roles = languages.frame(one, source, target)
  assert roles.source([7, 8]) == framed
  assert [roles.start, *roles.target([9])[:-1]] == inputs
  assert languages.prompt(roles) == inputs[:-1]
  by_name = languages.frame(one, *(inner.id_to_token(one.languages[x]) for x in (source, target)))
  assert by_name == roles
  other = one.framed(roles)
  assert other.fingerprint == one.fingerprint
  assert pickle.loads(pickle.dumps(other)).roles == roles


def test_a_cut_leaves_the_languages():
  roles = languages.frame(open_fixture("mbart").tokenizer, "fr_XX", "de_DE")
  assert len(roles.source(range(50), 10)) == 10
  assert roles.source(range(50), 10)[-2:] == roles.source([])


class Examples(list):
  fingerprint = ""


def test_items_have_the_languages_of_their_examples():
  one, rows = open_fixture("mbart").tokenizer, Examples()
  pairs = [("fr_XX", "de_DE"), ("de_DE", "fr_XX"), ("", "")]
  for source, target in pairs:
    rows.append(dict(source="The fox", target="dog", source_lang=source, target_lang=target))
  read = items.Pairs(rows, one, 64, 64).read(range(3), range(3))
  ids = one.languages
  assert [item["source"][-1] for item in read] == [ids["fr_XX"], ids["de_DE"], ids["en_XX"]]
  assert [item["inputs"][0] for item in read] == [ids["de_DE"], ids["fr_XX"], ids["ro_RO"]]
  assert all(item["inputs"][1:] == item["target"][:-1] for item in read)


@pytest.mark.parametrize(
  "language, near",
  [("deu_Latin", "deu_Latn"), ("de", "deu_Latn"), ("eng", "eng_Latn"), ("klingon", None)],
)
def test_an_unknown_language_is_an_error_with_the_nearest(language, near):
  one = open_fixture("nllb").tokenizer
  with pytest.raises(
    UserError, match=r"source_lang is .* none of the model's 5 languages"
  ) as error:
    languages.frame(one, language, "deu_Latn")
  assert f"did you mean {near}?" in str(error.value) or near is None
  with pytest.raises(UserError, match="target_lang is 'de', but the vocabulary has no tokens"):
    languages.frame(train_tokenizer(dict(name="byte"), []), target_lang="de")


def test_a_language_that_is_needed_and_not_given_is_an_error(tmp_path):
  one = open_fixture("nllb").tokenizer
  one = one.framed(languages.undirected(one.roles))
  one.save(tmp_path / "tokenizer.json")
  one = Tokenizer.load(tmp_path / "tokenizer.json")
  with pytest.raises(UserError, match=r"5 languages, and source_lang is not given.*--source_lang"):
    languages.frames(one, [dict(source="The fox", target_lang="deu_Latn")])
  (roles,) = languages.frames(one, [dict(source="", source_lang="deu_Latn")], "fra_Latn")
  assert not languages.lacks(roles, "source_lang")


def test_a_source_may_begin_with_its_targets_language():
  one = train_tokenizer({"name": "word", "special": ("<2de>", "<2fr>")}, ["save the file"])
  examples = [dict(source="save"), dict(source="<2fr> save"), dict(source="save", target_lang="fr")]
  framed = [roles.source_first for roles in languages.frames(one, examples, "de")]
  assert framed == [(one.languages["de"],), (), (one.languages["fr"],)]
  assert languages.frames(one, examples[:1])[0].source_first == ()
  with pytest.raises(UserError, match="name target_lang alone"):
    languages.frame(one, "de")


def test_sources_of_several_directions_are_joined(tmp_path):
  for name, texts in dict(a="1 2 3", b="4 5").items():
    (tmp_path / name).write_text("".join(f"{x}\n" for x in texts.split()))
  parts = {}
  for name in "ba":
    files = dict(name="files", splits={"train": dict.fromkeys(("source", "target"), "")})
    files["splits"]["train"] = dict.fromkeys(("source", "target"), f"{tmp_path}/{name}")
    if name == "a":
      files["splits"]["test"] = files["splits"]["train"]
    fields = dict(source="{source}", target="{target}", target_lang=name)
    parts[name] = dict(name="formatted", of=files, **fields)
  joined = sources.open_split(dict(name="concat", of=parts), "train", ("source", "target"))
  pairs = [(x["source"], x["target_lang"]) for x in joined]
  assert pairs == [("1", "a"), ("2", "a"), ("3", "a"), ("4", "b"), ("5", "b")]
  assert [x["source"] for x in joined._getitems([4, 0, 3])] == ["5", "1", "4"]
  assert len(sources.open_split(dict(name="concat", of=parts), "test")) == 3
  with pytest.raises(UserError, match=r"no such split|has no"):
    sources.open_split(dict(name="concat", of=parts), "validation")
  one = sources.open_split(dict(name="concat", of=dict(a=parts["a"])), "train")
  assert one.fingerprint != joined.fingerprint
