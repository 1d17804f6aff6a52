"""Questions with answers in SQuAD's forms; errors name the place."""

import gzip
import itertools
import json
import re

import pytest

from train.common.errors import UserError
from train.data import questions, reading, sources
from train.data.bad_records import LEFT_OUT, log_once
from train.data.source import digest


@pytest.fixture(autouse=True)
def _nothing_reported():
  LEFT_OUT.clear()
  log_once.cache_clear()


def read(path, split="train", **options):
  spec = {"name": "squad", "splits": {split: str(path)}, **options}
  return list(sources.open_split(spec, split))


def write_squad(tmp_path, data, name="a.json"):
  content = json.dumps({"version": "2.0", "data": data}).encode()
  (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
  return tmp_path / name


def read_squad(tmp_path, data, name="a.json"):
  return read(write_squad(tmp_path, data, name))


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


def without(record, key):
  return {k: v for k, v in record.items() if k != key}


QA = question("a", [("cat", 4)])
OFF = article(
  question("right", [("cat", 4)]),
  question("shifted", [("sat", 9)]),
  question("half", [("dog", 4), ("sat", 8)]),
  question("negative", [("sat.", -4)]),
  question("absent", [("dog", 4)]),
  question("twice", [("at", 1)]),
)


def test_training_moves_an_answer_or_leaves_its_question_out(tmp_path, warnings):
  found = {one["id"]: one["answers"] for one in read_squad(tmp_path, OFF)}
  assert list(found) == ["right", "shifted", "half", "negative"]
  assert found["shifted"] == found["half"] == [{"text": "sat", "answer_start": 8}]
  assert found["negative"] == [{"text": "sat.", "answer_start": 8}]
  assert any(re.search("2 questions, answers .*: shifted, negative$", line) for line in warnings)
  (name,) = LEFT_OUT
  assert name == f"{tmp_path}/a.json (questions to learn from)"
  assert (LEFT_OUT[name]["records"], LEFT_OUT[name]["of"]) == (2, 6)
  assert re.search("question absent: .*'dog'", LEFT_OUT[name]["first"][0])


def test_evaluation_counts_all_questions(tmp_path, warnings):
  write_squad(tmp_path, OFF)
  found = {one["id"]: one["answers"] for one in read(tmp_path / "a.json", "test")}
  assert list(found) == ["right", "shifted", "half", "negative", "absent", "twice"]
  assert [x["text"] for x in found["half"]] == ["sat", "dog"]
  assert found["absent"] == [{"text": "dog", "answer_start": questions.NOWHERE}]
  assert found["twice"] == [{"text": "at", "answer_start": questions.NOWHERE}]
  assert any(re.search("3 questions, answers .*: half, absent, twice$", line) for line in warnings)
  assert not LEFT_OUT


def test_the_fingerprint_changes_only_where_the_reading_did(tmp_path):
  def fingerprint(data, split="train"):
    path = write_squad(tmp_path, data)
    file = f".json {reading.file_digest(path)}"
    spec = {"name": "squad", "splits": {split: str(path)}}
    return sources.open_split(spec, split).fingerprint, digest("questions", 0, 100, file)

  for data in (article(QA), article(QA, question("b", [("dog", 4)]))):
    now, before = fingerprint(data)
    assert now == before
  now, before = fingerprint(article(QA), "test")
  assert now == before
  for data, split in ((OFF, "train"), (OFF, "test"), (article(question("b", [("a", 0)])), "test")):
    now, before = fingerprint(data, split)
    assert now != before


HF = {"text": ["cat", "The cat"], "answer_start": [4, 0]}
CAT = [{"text": "cat", "answer_start": 4}, {"text": "The cat", "answer_start": 0}]


@pytest.mark.parametrize("answers, expected", [(HF, CAT), ({"text": [], "answer_start": []}, [])])
@pytest.mark.parametrize("form", ["squad", "data", "list", "lines", "lines.json", "one"])
def test_hugging_faces_form_is_read(tmp_path, form, answers, expected):
  rows = [
    {"id": name, "title": "t", "context": "The cat sat.", "question": "a?", "answers": answers}
    for name in "ab"
  ]
  lines = "\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n \n"
  contents = {
    "squad": ("a.json", json.dumps({"data": article(*rows)})),
    "data": ("a.json", json.dumps({"data": rows})),
    "list": ("a.json", json.dumps(rows)),
    "lines": ("a.jsonl", lines),
    "lines.json": ("a.json", lines),
    "one": ("a.json", json.dumps(rows[0])),
  }
  name, content = contents[form]
  (tmp_path / name).write_text("\ufeff" + content.removeprefix("\ufeff"))
  found = read(tmp_path / name)
  assert [one["id"] for one in found] == ["a", "b"][: len(found)]
  assert len(found) == (1 if form == "one" else 2)
  for one in found:
    assert one == {
      "id": one["id"],
      "question": "a?",
      "context": "The cat sat.",
      "answers": expected,
    }


ONE = {"text": ["a"], "answer_start": [0]}


@pytest.mark.parametrize("titles", [1, 12])
def test_parts_of_flat_questions_share_no_context(tmp_path, titles):
  rows = [
    {"context": f"a {i // 3}", "title": str(i // 3 % titles), "question": "b?", "answers": ONE}
    for i in range(36)
  ]
  (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
  parts = [read(f"{tmp_path}/a.jsonl{part}") for part in ("[:70%]", "[70%:]", "")]
  assert parts[0] + parts[1] == parts[2]
  contexts = [{one["context"] for one in part} for part in parts]
  assert [len(part) for part in contexts] == [8, 4, 12]


def test_ids_may_be_numbers_or_missing(tmp_path):
  data = article({**QA, "id": 262}, without(QA, "id"), {**QA, "id": None})
  ids = [one["id"] for one in read_squad(tmp_path, data)]
  assert ids == ["262", "data[0].paragraphs[0].qas[1]", "data[0].paragraphs[0].qas[2]"]


def test_a_file_without_answers_is_read_but_not_learned(tmp_path, warnings):
  data = article(without(QA, "answers"), {**QA, "answers": None}, QA)
  write_squad(tmp_path, data)
  found = read(tmp_path / "a.json", "test")
  assert ["answers" in one for one in found] == [False, False, True]
  assert [one["question"] for one in found] == ["a?"] * 3
  assert len(read(tmp_path / "a.json")) == 1
  assert "2 of 3 records" in warnings[-1]


@pytest.mark.parametrize(
  "data, message",
  [
    ([{"title": "x"}], r"data\[0\]: SQuAD's JSON has a list 'paragraphs' here"),
    ([{"paragraphs": [{"qas": []}]}], r"paragraphs\[0\]: .* a str 'context'"),
    ([{"paragraphs": [{"context": "x"}]}], r"paragraphs\[0\]: .* a list 'qas'"),
    ([{"paragraphs": ["x"]}], r"paragraphs\[0\]: .* 'context'"),
    (article(QA, QA | {"id": 2.5}), r"qas\[1\]: .* 'id'"),
    (article(QA, QA | {"id": True}), r"qas\[1\]: .* 'id'"),
    (article(without(QA, "question")), r"qas\[0\]: .* 'question'"),
    (article({**QA, "answers": "cat"}), r"qas\[0\]: .* a list 'answers'"),
    (article({**QA, "answers": {"text": ["a"]}}), r"qas\[0\]: .* a list 'answer_start'"),
    (article({**QA, "answers": {"text": ["a"], "answer_start": []}}), "different lengths"),
    (article({**QA, "answers": [{"text": "cat", "answer_start": True}]}), "'answer_start'"),
    (
      article({**QA, "is_impossible": "false"}),
      r"qas\[0\]: 'is_impossible' is 'false'; write true",
    ),
    (article({**QA, "is_impossible": 0}), r"qas\[0\]: 'is_impossible' is 0; write"),
    ([QA | {"context": 3}], r"data\[0\]: .* a str 'context'"),
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
  [
    (b'{"data": [', "a.json: not JSON .*line 1"),
    (b"\xff", "not JSON"),
    (b"[]", "a list 'data'"),
    (b"null", "a list 'data'"),
    (b'{"question": "a"}\n{"question"', "a.json, line 2: not JSON"),
  ],
)
def test_a_broken_squad_file_is_reported(tmp_path, content, message):
  (tmp_path / "a.json").write_bytes(content)
  with pytest.raises(UserError, match=message):
    read(tmp_path / "a.json")
  (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'{"data": []}' * 50)[:-9])
  with pytest.raises(UserError, match=r"b\.json\.gz: not JSON"):
    read(tmp_path / "b.json.gz")
  (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'{"data": []}')[:10] + b"\xff" * 20)
  with pytest.raises(UserError, match=r"b\.json\.gz: not JSON"):
    read(tmp_path / "b.json.gz")


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
  parts = [read(f"{tmp_path}/a.json{part}") for part in ("[:90%]", "[90%:]", "")]
  assert parts[0] + parts[1] == parts[2]
  assert min(map(len, parts)) > 0
  contexts = [{one["context"] for one in part} for part in parts]
  assert not contexts[0] & contexts[1]
  if articles == 10:  # the last article and nothing else
    assert contexts[1] == {one["context"] for one in groups[-1] if one["qas"]}
