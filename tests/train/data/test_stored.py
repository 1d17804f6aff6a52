"""Examples of larger files: the same from the cache as from memory, with the same messages."""

import io
import itertools
import json
import pickle

import numpy as np
import pytest

from tests.train.data import po
from train.common.errors import UserError
from train.common.files import cache_dir
from train.data import json_stream, record_cache, source, sources, stored
from train.data.bad_records import LEFT_OUT, log_once

CONLL = "# sent_id = 1\n" + "".join(f"w{i}\tT{i % 3}\n" + "\n" * (i % 4 == 0) for i in range(100))
FILES = {"a.conll": CONLL, "b.conll": CONLL.replace("w10\t", "w10 ")}


def ask(number, text="word 5", start=0):
  answers = [{"text": text, "answer_start": start}] * (number % 3)
  return {"id": f"q{number}", "question": f"Which {number}?", "answers": answers}


def write_squad(path, articles=12, paragraphs=3):
  numbers = itertools.count()
  data = [
    {
      "paragraphs": [
        {"context": f"word {a} {p} word 5", "qas": [ask(next(numbers)) for _ in range(p + 2)]}
        for p in range(paragraphs)
      ]
    }
    for a in range(articles)
  ]
  data[3]["paragraphs"][1]["context"] = 3  # a bad record
  path.write_text(json.dumps({"version": "x", "data": data}))


def write_flat(path):
  lines = [ask(i) | {"context": f"word {i // 4} word 5", "title": str(i // 12)} for i in range(120)]
  path.write_text("\n\n".join(map(json.dumps, lines)) + "\n")


def specs(folder):
  """Yields the names of sources with their specs, all of which have something to report."""
  for name, text in FILES.items():
    (folder / name).write_text(text)
  conll = {"name": "conll", "on_bad_record": "skip"}
  yield "conll", conll | {"splits": {"train": [f"{folder}/a.conll", f"{folder}/b.conll"]}}
  yield "part of conll", conll | {"splits": {"train": f"{folder}/b.conll[30%:70%]"}}
  write_squad(folder / "a.json")
  write_flat(folder / "b.jsonl")
  squad = {"name": "squad", "on_bad_record": "skip"}
  yield "squad", squad | {"splits": {"train": f"{folder}/a.json", "test": f"{folder}/a.json"}}
  yield "part of squad", squad | {"splits": {"train": f"{folder}/a.json[25%:]"}}
  yield "flat squad", squad | {"splits": {"train": f"{folder}/b.jsonl[:90%]"}}
  messages = {f"Save the {i} files": f"Die {i} Dateien" for i in range(9)}
  po.write(folder / "de" / "x.po", messages)
  po.write(folder / "test" / "de" / "x.po", messages | {"Close all the files": "Alle zu"})
  splits = {"train": f"{folder}/de", "test": f"{folder}/test"}
  gettext = {"name": "gettext", "splits": splits, "language": "de"}
  yield "gettext", gettext | {"splits": splits}


KINDS = ("conll", "part of conll", "squad", "part of squad", "flat squad", "gettext")


def read(spec, split, warnings):
  """Returns examples, fingerprint, counts of bad records and warnings of a split."""
  log_once.cache_clear()
  LEFT_OUT.clear()
  warnings.clear()
  opened = sources.open_split(spec, split)
  return opened, (list(opened), opened.fingerprint, dict(LEFT_OUT), list(warnings))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_reads_as_the_files_do(kind, tmp_path, warnings, monkeypatch):
  spec = dict(specs(tmp_path))[kind]
  for split in spec["splits"]:
    _, expected = read(spec, split, warnings)
    assert expected[0]
    assert expected[3] or "part" in kind or kind in ("gettext", "flat squad")
    with monkeypatch.context() as patch:
      patch.setattr(stored, "IN_MEMORY", -1)
      for _ in range(2):  # written, then read
        opened, found = read(spec, split, warnings)
        assert isinstance(opened, stored.Stored)
        assert found == expected
      examples = expected[0]
      draw = np.random.default_rng(0).permutation(len(examples)).tolist()
      copy = pickle.loads(pickle.dumps(opened))
      assert copy._getitems(draw) == [examples[i] for i in draw]
      assert [copy[i] for i in draw] == [examples[i] for i in draw]
      assert len(pickle.dumps(opened)) < 400
      with pytest.raises(IndexError):
        copy[len(examples)]


def test_a_context_is_stored_once(tmp_path, monkeypatch, warnings):
  monkeypatch.setattr(stored, "IN_MEMORY", -1)
  context = "word 5 " * 100_000
  qas = [ask(i) for i in range(300)]
  data = {"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}
  (tmp_path / "a.json").write_text(json.dumps(data))
  opened = sources.open_split({"name": "squad", "splits": {"test": f"{tmp_path}/a.json"}}, "test")
  size = sum(path.stat().st_size for path in cache_dir("examples").rglob("*"))
  assert size < 4 * len(context)
  examples = opened._getitems(range(100))
  assert examples[0]["context"] is examples[99]["context"]
  assert len(opened) == 300


def test_a_damaged_cache_is_written_anew(tmp_path, monkeypatch, warnings):
  monkeypatch.setattr(stored, "IN_MEMORY", -1)
  spec = dict(specs(tmp_path))["conll"]
  opened, expected = read(spec, "train", warnings)
  (cache_dir("examples") / opened.folder / "0").write_bytes(b"x")
  with pytest.raises(UserError, match="run the same command again"):
    pickle.loads(pickle.dumps(opened))[0]
  warnings_before = expected[3]
  _, found = read(spec, "train", warnings)
  assert found[:3] == expected[:3]
  assert [line for line in found[3] if "is damaged" not in line] == warnings_before


def test_many_records_keep_their_order(tmp_path, monkeypatch, warnings):
  monkeypatch.setattr(stored, "IN_MEMORY", -1)
  monkeypatch.setattr(record_cache, "SHARD_RECORDS", 3)
  monkeypatch.setattr(record_cache, "SHARDS_BEFORE_DOUBLING", 20)
  spec = dict(specs(tmp_path))["conll"]
  opened, found = read(spec, "train", warnings)
  monkeypatch.setattr(stored, "IN_MEMORY", 10**6)
  assert read(spec, "train", warnings)[1] == found
  assert opened._getitems(range(len(opened))) == found[0]


def test_long_examples_are_read_a_few_at_a_time(monkeypatch):
  monkeypatch.setattr(source, "CHUNK_CHARACTERS", 100)
  texts = [{"text": "x" * size} for size in [1] * 50 + [60] * 5 + [300, 1, 1] + [1] * 40]
  chunks = list(source.read_in_chunks(texts))
  assert [example for _, chunk in chunks for example in chunk] == texts
  assert [first for first, _ in chunks] == [
    0,
    *itertools.accumulate(len(chunk) for _, chunk in chunks[:-1]),
  ]
  assert all(len(c) == 1 or sum(len(x["text"]) for x in c) <= 100 for _, c in chunks)
  assert max(len(chunk) for _, chunk in chunks) > 30


# JSON documents


def parse(text, monkeypatch, size):
  """Reads a text by the parts of a Document, so many bytes at a time."""
  monkeypatch.setattr(json_stream, "READ", size)
  document = json_stream.Document(io.BytesIO(text.encode()))
  first = document.peek()
  if first == "[":
    value = list(document.items())
  elif first == "{":
    value = {key: document.value() for key in document.members()}
  else:
    value = document.value()
  if document.peek():
    raise document.error("Extra data")
  return value


DOCUMENTS = (
  '\ufeff{"a": [1, 2.5e10, -3], "b\\u00e9": {"c": null}, "": "中文 \\" \\\\"}',
  " [ ] ",
  "{}",
  '[1234567890123456789012345678901234567890, "x", true , false, [], {}]',
  '{"long": "' + "é中" * 300 + '"}',
  "12345",
)


@pytest.mark.parametrize("size", [1, 2, 7, 40, 10**6])
@pytest.mark.parametrize("text", DOCUMENTS)
def test_a_document_is_read_in_parts_as_whole(text, size, monkeypatch):
  assert parse(text, monkeypatch, size) == json.loads(text.removeprefix("\ufeff"))


BROKEN = (
  "",
  "[1,]",
  '{"a" 1}',
  '{"a": 1',
  "{a: 1}",
  "[1 2]",
  '["x',
  "[1]\n [2]",
  '{"a": 1,}',
  "[tru]",
)


@pytest.mark.parametrize("size", [1, 5, 10**6])
@pytest.mark.parametrize("text", BROKEN)
def test_an_error_has_its_place_in_the_document(text, size, monkeypatch):
  text = "\n  \n " + text
  with pytest.raises(json.JSONDecodeError) as expected:
    json.loads(text)
  with pytest.raises(ValueError, match=r"line \d+ column \d+ \(char \d+\)") as found:
    parse(text, monkeypatch, size)
  place = str(expected.value).partition(": line")[2]
  assert abs(int(str(found.value).partition("line ")[2].split()[0]) - int(place.split()[0])) <= 1
