"""Sources in memory: files are read as written; errors name the place."""

import gzip
import itertools
import json
import pathlib
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.common.errors import UserError
from train.data import sources, texts
from train.data.source import read_many

SHARED = pathlib.Path(__file__).parents[4] / "shared" / "data"


def read(path, name="text", **options):
  spec = {"name": name, "splits": {"train": str(path)}, **options}
  source = sources.open_split(spec, "train")
  return [source[i] for i in range(len(source))]


def documents(path, **options):
  return [example["text"] for example in read(path, **options)]


# Documents


TEXT = "One two\nthree.\n\n  \nFour five,\nsix.\n"


@pytest.mark.parametrize(
  "unit, expected",
  [
    ("file", [TEXT.removesuffix("\n")]),
    ("paragraph", ["One two\nthree.", "Four five,\nsix."]),
    ("line", ["One two", "three.", "Four five,", "six."]),
  ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz"])
def test_a_file_is_one_document_or_its_paragraphs_or_lines(tmp_path, unit, expected, name):
  data = TEXT.replace("\n", "\r\n").encode()
  (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
  assert documents(tmp_path / name, unit=unit) == expected


def test_each_line_of_json_is_a_document(tmp_path):
  rows = ["one\n\ntwo", "", "drei"]
  (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
  for unit in texts.UNITS:
    assert documents(tmp_path / "a.jsonl", unit=unit) == rows
  (tmp_path / "b.jsonl").write_text('{"txt": "x"}\n')
  with pytest.raises(UserError, match=r"b.jsonl, line 1: no key 'text'; did you mean txt"):
    documents(tmp_path / "b.jsonl")


def test_files_come_from_folders_globs_lists_and_packages(tmp_path, monkeypatch):
  folder = tmp_path / "plays"
  (folder / "deep").mkdir(parents=True)
  for name in ("b.txt", "deep/a.md", "c.py"):
    (folder / name).write_text(name)
  (folder / "d.txt.gz").write_bytes(gzip.compress(b"d.txt.gz"))
  expected = ["b.txt", "d.txt.gz", "deep/a.md"]
  assert documents(folder) == expected
  assert documents(f"{folder}/*.txt*") == ["b.txt", "d.txt.gz"]
  spec = {"name": "text", "splits": {"train": [f"{folder}/*.py", str(folder / "deep")]}}
  assert [one["text"] for one in sources.open_split(spec, "train")._examples] == [
    "c.py",
    "deep/a.md",
  ]
  (tmp_path / "some_plays").mkdir()
  (tmp_path / "some_plays" / "__init__.py").write_text("1 / 0  # nobody imports it")
  folder.rename(tmp_path / "some_plays" / "plays")
  monkeypatch.syspath_prepend(tmp_path)
  assert documents("package:some_plays/plays") == expected
  assert documents("package:some_plays/plays/deep/*.md") == ["deep/a.md"]
  assert documents("package:some_plays/plays[:50%]") == ["b.", "d.tx", "deep"]


LINES = st.lists(st.sampled_from(["a", "bc", "déf", "日本"]), min_size=1, max_size=40)


@given(lines=LINES, cut=st.integers(1, 99), unit=st.sampled_from(["file", "line"]))
def test_percentages_part_a_file(tmp_path_factory, lines, cut, unit):
  path = tmp_path_factory.mktemp("texts") / "a.txt"
  path.write_text("\n".join(lines))
  whole = documents(path, unit=unit)
  parts = [documents(f"{path}{part}", unit=unit) for part in (f"[:{cut}%]", f"[{cut}%:]")]
  if len(whole) > 1:
    assert [*parts[0], *parts[1]] == whole
    assert len(parts[0]) == len(whole) * cut // 100
  else:
    assert ["".join(part[0] for part in parts)] == whole
  assert documents(f"{path}[0%:100%]", unit=unit) == whole


def test_a_source_pickles_as_its_files_names_and_its_fingerprint_is_their_content(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("a line\n" * 1000)

  def source(part="", unit="line"):
    spec = {"name": "text", "splits": {"train": f"{path}{part}"}, "unit": unit}
    return sources.open_split(spec, "train")

  first = source()
  assert len(first) == 1000
  copy = pickle.loads(pickle.dumps(first))
  assert len(pickle.dumps(first)) < 500
  assert read_many(copy, [3, 1]) == [first[3], first[1]]
  others = [source("[:50%]"), source("[50%:]"), source(unit="file")]
  path.write_text("another line\n" * 1000)
  prints = {one.fingerprint for one in [first, *others, source()]}
  assert len(prints) == 5
  assert copy.fingerprint == first.fingerprint


@pytest.mark.parametrize(
  "spec, message",
  [
    ({"splits": {"train": "{}/a.txt"}, "unit": "word"}, "data.unit is 'word'"),
    ({"splits": {"trian": "{}/a.txt"}}, "data.splits has no 'train'.*did you mean trian"),
    ({"splits": "{}/a.txt"}, "data.splits is .*a.txt"),
    ({"splits": {"train": 3}}, "data.splits.train is 3"),
    ({"splits": {"train": [3]}}, r"data.splits.train is \[3\]"),
    ({"splits": {"train": "{}/b.txt"}}, "there is no file .*b.txt; did you mean a.txt"),
    ({"splits": {"train": "{}/empty"}}, "has no .txt or .md or .jsonl file"),
    ({"splits": {"train": "{}/a.txt[50%:40%]"}}, r"a.txt\[50%:40%\] is no part"),
    ({"splits": {"train": "{}/a.txt[:101%]"}}, r"\[:101%\] is no part"),
    ({"splits": {"train": "package:no_such_one/x"}}, "no installed package 'no_such_one'"),
    ({"splits": {"train": "package:/x"}}, "no installed package ''"),
  ],
)
def test_wrong_specs_are_reported(tmp_path, spec, message):
  (tmp_path / "a.txt").write_text("x\n")
  (tmp_path / "empty").mkdir()
  spec = json.loads(json.dumps(spec).replace("{}", str(tmp_path)))
  with pytest.raises(UserError, match=message):
    sources.open_split({"name": "text", **spec}, "train")


# Sentences with tags


def sentences(tmp_path, content, name="a.conll", **options):
  (tmp_path / name).write_text(content)
  found = read(tmp_path / name, "conll", **options)
  return [list(zip(one["words"], one["tags"])) for one in found]


@pytest.mark.parametrize("separator", ["", "\t", " ", "\t\t"])
@pytest.mark.parametrize("between", ["\t", " ", "\tx\t"])
def test_sentences_end_at_lines_without_text(tmp_path, separator, between):
  rows = [["EU", "B-ORG"], ["#rejects", "O"], [], [], ["Peter", "B-PER"]]
  lines = [between.join(row) if row else separator for row in rows]
  expected = [[("EU", "B-ORG"), ("#rejects", "O")], [("Peter", "B-PER")]]
  for end in ("", "\n", "\n\n"):
    assert sentences(tmp_path, "\n".join(lines) + end) == expected


def test_columns_are_chosen_and_document_starts_skipped(tmp_path):
  content = "-DOCSTART- -X- O O\n\nU.N. NNP I-NP B-ORG\n\n"
  assert sentences(tmp_path, content) == [[("U.N.", "B-ORG")]]
  assert sentences(tmp_path, content, tag=1) == [[("U.N.", "NNP")]]
  assert sentences(tmp_path, content, word=2, tag=1) == [[("I-NP", "NNP")]]


CONLLU = """\
# text = Don't go
1-2\tDon't\t_\t_\t_
1\tDo\tdo\tAUX\tVBP
2\tn't\tnot\tPART\tRB
2.1\tyou\tyou\tPRON\tPRP
3\tgo\tgo\tVERB\tVB

# text = Go on
1\tGo on\tgo\tVERB\tVB
"""


@pytest.mark.parametrize("name", ["a.conllu", "a.conllu.gz"])
def test_conllu_gives_its_words_and_nothing_else(tmp_path, name):
  data = CONLLU.encode()
  (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
  found = [list(zip(one["words"], one["tags"])) for one in read(tmp_path / name, "conll")]
  expected = [[("Do", "AUX"), ("n't", "PART"), ("go", "VERB")], [("Go on", "VERB")]]
  assert found == expected


@pytest.mark.parametrize(
  "content, options, message",
  [
    ("EU B-ORG\nrejects\n", {}, "a.conll, line 2: columns 0 and -1 must be a word and its tag"),
    ("EU B-ORG\n\nx\t\n", {}, "line 3: .*'x.t'"),
    ("\tO\n", {}, "line 1"),
    ("a b\n", {"tag": 2}, "line 1: columns 0 and 2"),
    (CONLLU.replace("3\tgo", "three\tgo"), {"name": "a.conllu"}, "a.conllu, line 6: .*three"),
    (CONLLU.replace("\tVERB\tVB\n\n", "\n\n"), {"name": "a.conllu"}, "a.conllu, line 6"),
  ],
)
def test_a_word_without_a_tag_is_reported_with_its_line(tmp_path, content, options, message):
  with pytest.raises(UserError, match=message):
    sentences(tmp_path, content, **options)


# Questions


def read_squad(tmp_path, data, name="a.json"):
  content = json.dumps({"version": "2.0", "data": data}).encode()
  (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
  return read(tmp_path / name, "squad")


def article(*qas, context="The cat sat."):
  return [{"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}]


def question(name, answers, **more):
  answers = [{"text": text, "answer_start": start} for text, start in answers]
  return {"id": name, "question": f"{name}?", "answers": answers, **more}


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_squads_two_versions_are_read(tmp_path, name):
  none = question("c", [], is_impossible=True, plausible_answers=[{"text": "x"}])
  data = article(
    question("a", [("cat", 4), ("The cat", 0)]), question("b", [("sat", 8)])
  ) + article(none, question("d", [("é", 1)], is_impossible=False), context=" é")
  found = read_squad(tmp_path, data, name)
  assert [one["id"] for one in found] == list("abcd")
  cat = [{"text": "cat", "answer_start": 4}, {"text": "The cat", "answer_start": 0}]
  assert found[0] == {"id": "a", "question": "a?", "context": "The cat sat.", "answers": cat}
  assert [one["answers"] for one in found[2:]] == [[], [{"text": "é", "answer_start": 1}]]


def test_an_answer_that_is_not_in_its_context_is_left_out_and_named(tmp_path, caplog):
  data = article(
    question("right", [("cat", 4)]),
    question("shifted", [("cat", 5)]),
    question("half", [("dog", 4), ("sat", 8)]),
    question("negative", [("sat.", -4)]),
  )
  found = read_squad(tmp_path, data)
  assert [one["id"] for one in found] == ["right", "half"]
  assert found[1]["answers"] == [{"text": "sat", "answer_start": 8}]
  assert re.search("3 questions .*: shifted, half, negative$", caplog.text)


def without(record, key):
  return {k: v for k, v in record.items() if k != key}


QA = question("a", [("cat", 4)])


@pytest.mark.parametrize(
  "data, message",
  [
    ([{"title": "x"}], r"data\[0\]: SQuAD's JSON has a list 'paragraphs' here"),
    ([{"paragraphs": [{"qas": []}]}], r"paragraphs\[0\]: .* a str 'context'"),
    ([{"paragraphs": [{"context": "x"}]}], r"paragraphs\[0\]: .* a list 'qas'"),
    ([{"paragraphs": ["x"]}], r"paragraphs\[0\]: .* 'context'"),
    (article(QA, without(QA, "id")), r"qas\[1\]: .* 'id'"),
    (article(without(QA, "question")), r"qas\[0\]: .* 'question'"),
    (article(without(QA, "answers")), r"qas\[0\]: .* a list 'answers'"),
    (article({**QA, "answers": [{"text": "cat"}]}), r"qas\[0\]: .* a int 'answer_start'"),
    (article({**QA, "answers": [{"text": "cat", "answer_start": "4"}]}), "'answer_start'"),
    ({"x": 1}, "a list 'data'"),
  ],
)
def test_missing_parts_of_a_squad_file_are_reported(tmp_path, data, message):
  with pytest.raises(UserError, match=f"a.json.*{message}"):
    read_squad(tmp_path, data)


@pytest.mark.parametrize(
  "content, message",
  [(b'{"data": [', "a.json: not JSON .*line 1"), (b"\xff", "not JSON"), (b"[]", "a list 'data'")],
)
def test_a_broken_squad_file_is_reported(tmp_path, content, message):
  (tmp_path / "a.json").write_bytes(content)
  with pytest.raises(UserError, match=message):
    read(tmp_path / "a.json", "squad")
  (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'{"data": []}' * 50)[:-9])
  with pytest.raises(UserError, match=r"b\.json\.gz: not JSON"):
    read(tmp_path / "b.json.gz", "squad")
  (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'{"data": []}')[:10] + b"\xff" * 20)
  with pytest.raises(UserError, match=r"b\.json\.gz: not JSON"):
    read(tmp_path / "b.json.gz", "squad")


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
  mark = "\ufeff".encode()
  data = json.dumps({"data": article(QA)}).encode()
  (tmp_path / "a.json").write_bytes(mark + data)
  assert [one["id"] for one in read(tmp_path / "a.json", "squad")] == ["a"]
  (tmp_path / "a.conll").write_bytes(mark + b"a X\n\n" + mark + b"b Y\n")
  assert [one["words"] for one in read(tmp_path / "a.conll", "conll")] == [["a"], ["b"]]
  (tmp_path / "a.txt").write_bytes(mark + b"a\n" + mark + b"b\n")
  assert [one["text"] for one in read(tmp_path / "a.txt", "text")] == ["a\nb"]


# Real files


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not on this machine")
def test_published_files_have_their_published_counts():
  tagged = {
    "wnut17/train.conll": 3394,
    "wnut17/dev.conll": 1009,
    "wnut17/test.conll": 1287,
    "ud_ewt/dev.conllu.gz": 2001,
    "ud_ewt/test.conllu.gz": 2077,
  }
  for name, count in tagged.items():
    assert len(read(SHARED / name, "conll")) == count, name
  questions = read(SHARED / "squadshifts" / "new_wiki.json.gz", "squad")
  assert len(questions) == 7938
  assert all(one["answers"] for one in questions)
  classes = {
    "sst2": {"train": 6920, "dev": 872, "test": 1821},
    "trec": {"train": 5452, "test": 500},
  }
  for name, splits in classes.items():
    for split, count in splits.items():
      spec = {"name": "files", "columns": ("text", "label")}
      paths = {"train": str(SHARED / name / f"{split}.tsv")}
      source = sources.open_split({**spec, "splits": paths}, "train")
      assert len(source) == count, (name, split)
      labels = {one["label"] for one in source._getitems(range(100))}
      assert 2 <= len(labels) <= (6 if name == "trec" else 2)


@pytest.mark.parametrize("articles", [2, 10])
def test_parts_of_questions_share_no_article_or_paragraph(articles, tmp_path):
  paragraphs = []
  for number in range(20):
    asks = [
      {"id": f"{number} {i}", "question": "what?", "answers": [{"text": "a", "answer_start": 0}]}
      for i in range(number % 3)
    ]
    paragraphs.append({"context": f"a {number}", "qas": asks})
  cuts = [0, 1, *(2 * number for number in range(2, articles)), 20]
  groups = [paragraphs[start:stop] for start, stop in itertools.pairwise(cuts)]
  squad = {"data": [{"paragraphs": group} for group in groups]}
  (tmp_path / "a.json").write_text(json.dumps(squad))
  parts = [read(f"{tmp_path}/a.json{part}", "squad") for part in ("[:90%]", "[90%:]", "")]
  assert parts[0] + parts[1] == parts[2]
  assert min(map(len, parts)) > 0
  contexts = [{one["context"] for one in part} for part in parts]
  assert not contexts[0] & contexts[1]
  if articles == 10:  # the last article and nothing else
    assert contexts[1] == {one["context"] for one in groups[-1] if one["qas"]}


@pytest.mark.parametrize("name", ["b.txt", "b.txt.gz"])
def test_an_empty_file_is_an_empty_document(tmp_path, name):
  (tmp_path / "a.txt").write_text("one")
  (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
  assert documents(tmp_path) == ["one", ""]


def test_the_ending_is_part_of_the_fingerprint(tmp_path):
  for name in ("a.txt", "a.jsonl"):
    (tmp_path / name).write_text('{"text": "one"}\n')
  found = [
    sources.open_split({"name": "text", "splits": {"train": f"{tmp_path}/{name}"}}, "train")
    for name in ("a.txt", "a.jsonl")
  ]
  assert [one[0]["text"] for one in found] == ['{"text": "one"}', "one"]
  assert found[0].fingerprint != found[1].fingerprint
