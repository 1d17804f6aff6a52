"""Sources in memory: files are read as written; errors name the place."""

import gzip
import json
import pathlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.common.errors import UserError
from train.data import sources, texts
from train.data.source import read_many, sample

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


@pytest.mark.parametrize("stream", [None, True])
@pytest.mark.parametrize("ending", ["jsonl", "json.gz"])  # C4's
def test_json_lines_are_documents(tmp_path, stream, ending):
  texts = ["one\n\ntwo", "three"]
  content = "".join(json.dumps(dict(url="x", text=text)) + "\n" for text in texts).encode()
  path = tmp_path / f"a.{ending}"
  path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
  spec = {"name": "text", "splits": {"train": f"{tmp_path}/a.*"}, "stream": stream}
  source = sources.open_split(spec, "train")
  examples = list(source) if stream is None else list(sample(source, 0))
  assert examples == [{"text": text} for text in texts]


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
  mark = "\ufeff"
  (tmp_path / "a.txt").write_text(f"{mark}a\n{mark}b\n", encoding="utf-8")
  assert documents(tmp_path / "a.txt") == ["a\nb"]


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
