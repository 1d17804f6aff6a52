"""JSON lines as people have them: blank lines, byte order marks, line ends, numbers as labels."""

import gzip
import json

import pytest

from train.data import sources
from train.data.source import as_shards

ENDS = ("\n", "\r\n", "\n\n \t\n", "\n\ufeff")  # the last where files were joined


def open_lines(folder, rows, end, name, packed=False, **spec):
  content = "\ufeff" + end.join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n \n"
  path = folder / ("a.jsonl.gz" if packed else "a.jsonl")
  path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
  return sources.open_split({"name": name, "splits": {"train": str(path)}, **spec}, "train")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_labels_may_be_numbers(end, packed, tmp_path):
  rows = [
    {"text": "größer", "label": 1},
    {"label": -0.5, "text": "b\n"},
    {"text": 3, "label": True},
  ]
  rows += [{"text": "c", "label": 10**12, "more": None}]
  opened = open_lines(tmp_path, rows, end, "files", packed, columns=("text", "label"))
  texts, labels = ["größer", "b\n", "3", "c"], ["1", "-0.5", "true", "1000000000000"]
  assert [(x["text"], x["label"]) for x in opened] == list(zip(texts, labels))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_documents(end, stream, packed, tmp_path):
  rows = [{"text": "a\n\nb"}, {"text": 5, "id": 1}, {"id": [], "text": "日本"}]
  opened = open_lines(tmp_path, rows, end, "text", packed, stream=stream)
  if shards := as_shards(opened):
    blocks = (block for i in range(shards.num_shards) for block in shards.blocks(i))
    opened = [example for block in blocks for example in block.examples]
  assert list(opened) == [{"text": "a\n\nb"}, {"text": "5"}, {"text": "日本"}]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_questions(end, packed, tmp_path):
  answers = {"text": ["b"], "answer_start": [2]}
  rows = [dict(id=i, question="?", context="a b", title=7, answers=answers) for i in range(3)]
  opened = open_lines(tmp_path, rows, end, "squad", packed)
  assert [x["id"] for x in opened] == ["0", "1", "2"]
  assert opened[0]["answers"] == [{"text": "b", "answer_start": 2}]
