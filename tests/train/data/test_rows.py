"""Rows of large tables and of line-aligned files: streamed, they are those that are listed."""

import collections
import gzip
import json
import pickle

import pytest

from train.common.errors import UserError
from train.data import chunks, rows, sources

PAIRS = [(f"source {i} " + "x" * (i % 40), f"ziel {i} é" if i % 25 else " ") for i in range(1200)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """Makes chunks of a few rows."""
  monkeypatch.setattr(chunks, "CHUNK_BYTES", 900)
  monkeypatch.setattr(rows, "LINES", 64)


def write(folder, kind):
  """Writes PAIRS and returns the value of a split."""
  pack = gzip.compress if kind.endswith(".gz") else bytes
  if kind.startswith("aligned"):
    split = {}
    for field, column in zip(("source", "target"), zip(*PAIRS)):
      path = folder / f"x.{field}{'.gz' * kind.endswith('.gz')}"
      path.write_bytes(pack("".join(f"{text}\n" for text in column).encode()))
      split[field] = str(path)
    return split
  lines = {
    ".tsv": ["source\ttarget", *map("\t".join, PAIRS)],
    ".csv": ["source,target", *(f'"{a}","{b}"' for a, b in PAIRS)],
    ".jsonl": [json.dumps(dict(source=a, target=b)) for a, b in PAIRS],
  }[kind.removesuffix(".gz")]
  (folder / f"x{kind}").write_bytes(pack("\n".join(lines).encode()))
  return str(folder / f"x{kind}")


def open_rows(split, stream, name="train", **options):
  spec = dict(name="files", splits={name: split}, stream=stream, **options)
  return sources.open_split(spec, name, ("source", "target"))


def blocks(source):
  return [block for shard in range(source.num_shards) for block in source.blocks(shard)]


def examples(source):
  return [example for block in blocks(source) for example in block.examples]


KINDS = ("aligned", ".tsv", ".csv", ".jsonl", "aligned.gz", ".tsv.gz", ".csv.gz", ".jsonl.gz")


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_rows_are_those_that_are_listed(tmp_path, kind):
  split = write(tmp_path, kind)
  streamed, listed = open_rows(split, True), open_rows(split, False)
  assert examples(streamed) == list(listed)
  assert sum(block.dropped for block in blocks(streamed)) == 1200 // 25
  assert max(len(block.examples) for block in blocks(streamed)) <= 64
  again = pickle.loads(pickle.dumps(streamed))
  for shard in range(streamed.num_shards):
    whole = list(streamed.blocks(shard))
    for first in range(min(len(whole), 3) + 1):
      assert list(again.blocks(shard, first)) == whole[first:]
  apart = kind in ("aligned", ".tsv", ".jsonl")
  assert (streamed.num_shards > 10) == apart
  assert len(blocks(streamed)) > 10


@pytest.mark.parametrize("kind", ["aligned", ".tsv", ".jsonl"])
def test_parts_are_disjoint_and_everything(tmp_path, kind):
  split = write(tmp_path, kind)

  def part(text):
    value = {k: v + text for k, v in split.items()} if kind == "aligned" else split + text
    return examples(open_rows(value, True))

  seen = collections.Counter(
    x["source"] for text in ("[:30%]", "[30%:31%]", "[31%:]") for x in part(text)
  )
  assert seen == collections.Counter(x["source"] for x in examples(open_rows(split, True)))
  assert 0.25 < len(part("[:30%]")) / seen.total() < 0.35


@pytest.mark.parametrize("kind", [".csv", "aligned.gz"])
def test_parts_of_what_is_read_in_order_are_refused(tmp_path, kind):
  split = write(tmp_path, kind)
  value = {k: v + "[:30%]" for k, v in split.items()} if "aligned" in kind else split + "[:30%]"
  with pytest.raises(UserError, match="no part"):
    open_rows(value, True)


@pytest.mark.parametrize("kind", ["aligned", ".tsv", ".tsv.gz"])
def test_bad_rows_are_named_by_their_lines(tmp_path, kind):
  split = write(tmp_path, kind)
  bad = split["target"] if kind == "aligned" else split
  pack, unpack = (gzip.compress, gzip.decompress) if kind.endswith("gz") else (bytes, bytes)
  with open(bad, "rb") as file:
    lines = unpack(file.read()).split(b"\n")
  lines[703] = b"\xff" + lines[703]
  with open(bad, "wb") as file:
    file.write(pack(b"\n".join(lines)))
  with pytest.raises(UserError, match=r"line 704, byte 1"):
    examples(open_rows(split, True))
  skipped = open_rows(split, True, on_bad_record="skip")
  assert len(examples(skipped)) == len(PAIRS) - 1200 // 25 - 1
  (message,) = [message for block in blocks(skipped) for message in block.bad]
  assert "line 704, byte 1" in message


def test_line_aligned_files_of_unequal_length_are_refused(tmp_path):
  split = write(tmp_path, "aligned")
  with open(split["target"], "a") as file:
    file.write("one more\n")
  with pytest.raises(UserError, match=r"x\.source has 1200, .*x\.target has 1201"):
    examples(open_rows(split, True))


@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "a\nb", "\n\n"])
def test_lines_are_counted_as_they_are_read(tmp_path, text):
  for field in ("source", "target"):
    (tmp_path / field).write_text(text)
  split = {field: str(tmp_path / field) for field in ("source", "target")}
  table = rows.Table("aligned", tuple(tmp_path / field for field in split))
  source = rows.AlignedFiles((table,), tuple(split), False, "f", "error", (0, 100))
  expected = text.removesuffix("\n").split("\n") if text else []
  assert [x["source"] for x in examples(source)] == expected


def test_large_files_are_streamed_by_their_size(tmp_path, monkeypatch):
  split = write(tmp_path, ".tsv")
  assert not hasattr(open_rows(split, None), "num_shards")
  monkeypatch.setattr("train.data.source.LARGE", 1000)
  assert open_rows(split, None).num_shards > 10
  assert len(open_rows(split, None, "validation")) == 1200  # a sample, which is all here


@pytest.mark.parametrize("kind", [".tsv", ".jsonl"])
def test_parts_of_streamed_splits_share_nothing(tmp_path, kind):
  path = write(tmp_path, kind)
  spec = dict(name="files", stream=True)
  spec["splits"] = {"train": f"{path}[:70%]", "validation": f"{path}[70%:]"}
  train, validation = (sources.open_split(spec, split) for split in spec["splits"])
  rows_of = {x["source"]: x for x in examples(train)}
  assert not rows_of.keys() & {x["source"] for x in validation}
  assert len(rows_of) + len(validation) == 1200 - 1200 // 25
  assert [*validation] == sorted(validation, key=lambda x: int(x["source"].split()[1]))


def test_aligned_lines_are_counted_exactly(tmp_path):
  source = open_rows(write(tmp_path, "aligned"), True)
  assert source.num_examples == 1200
