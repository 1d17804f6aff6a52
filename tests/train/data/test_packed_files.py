"""Packed files are read as the plain ones; one that breaks off or expands too far is named."""

import functools
import gzip
import json

import pyarrow as pa
import pytest

from train.common.errors import UserError
from train.data import bad_records, reading, sources

PACK = {
  "": bytes,
  ".gz": gzip.compress,
  ".zst": functools.partial(pa.Codec("zstd").compress, asbytes=True),
}
PACKED = (".gz", ".zst")
LINES = [f"line {i * i} Größe" for i in range(3000)]
ERROR = bad_records.BadRecords("error")

QUESTION = {"id": "1", "question": "Who?", "answers": [{"text": "cat", "answer_start": 2}]}
ARTICLES = {"data": [{"paragraphs": [{"context": "a cat sat", "qas": [QUESTION]}]}]}
FILES = {
  "x.tsv": ("files", dict(columns=("a", "b")), "a\tb\nc\td\n"),
  "x.csv": ("files", dict(columns=("a", "b")), 'a,"b\n"\nc,d\n'),
  "x.jsonl": ("files", dict(columns=("a",)), '{"a": "b"}\n{"a": 3}\n'),
  "x.txt": ("text", {}, "a text\n\nof lines\n"),
  "x.md": ("text", dict(unit="line"), "a\nb\n"),
  "x.conllu": ("conll", {}, "1\ta\t_\tDET\n2\tcat\t_\tNOUN\n"),
  "x.json": ("squad", {}, json.dumps(ARTICLES)),
}


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("name", FILES)
def test_packed_files_are_read_as_plain_ones(tmp_path, name, ending):
  kind, options, text = FILES[name]
  examples = []
  for last in ("", ending):
    folder = tmp_path / f"packed{last}"
    folder.mkdir()
    (folder / f"{name}{last}").write_bytes(PACK[last](text.encode()))
    place = folder / f"{name}{last}" if kind == "files" else folder  # found by its ending
    spec = {"name": kind, "splits": {"test": str(place)}, **options}
    examples.append(list(sources.open_split(spec, "test")))
  assert examples[0] == examples[1] != []


@pytest.mark.parametrize("ending", PACKED)
def test_several_streams_in_a_file_are_one_text(tmp_path, ending):
  parts = ["\n".join(LINES[:1000]) + "\n", "\n".join(LINES[1000:])]
  path = tmp_path / f"x.txt{ending}"
  path.write_bytes(b"".join(PACK[ending](part.encode()) for part in parts))
  assert list(reading.read_lines(path, ERROR)) == LINES


@pytest.mark.parametrize("ending, format", list(zip(PACKED, ("gzip", "zstd"))))
@pytest.mark.parametrize("damage", ["cut", "flipped", "plain", "short"])
def test_a_damaged_file_is_reported(tmp_path, ending, format, damage):
  whole = PACK[ending]("\n".join(LINES).encode())
  half = len(whole) // 2
  path = tmp_path / f"x.txt{ending}"
  damaged = {"cut": whole[:half], "flipped": whole[:half] + b"\0" * half, "plain": b"a line\n"}
  path.write_bytes((damaged | {"short": whole[:-3]})[damage])
  with pytest.raises(UserError, match=rf"x\.txt{ending}: not a complete {format} file, broken"):
    list(reading.read_lines(path, ERROR))
  path.rename(tmp_path / f"x.json{ending}")
  spec = {"name": "squad", "splits": {"train": f"{tmp_path}/x.json{ending}"}}
  with pytest.raises(UserError, match=rf"x\.json{ending}: not JSON"):
    list(sources.open_split(spec, "train"))


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("text", ["x" * 3_000_000, "x\n" * 1_500_000])
def test_a_bomb_is_refused(tmp_path, monkeypatch, text, ending):
  monkeypatch.setattr(reading, "MOST_PACKED", 100_000)
  path = tmp_path / f"a.txt{ending}"
  path.write_bytes(PACK[ending](text.encode()))
  with pytest.raises(UserError, match=rf"a.txt{ending}: unpacks to more than 200 times"):
    list(reading.read_lines(path, ERROR))
  monkeypatch.setattr(reading, "MOST_PACKED", 3_000_000)
  assert sum(len(line) + 1 for line in reading.read_lines(path, ERROR)) >= 3_000_000


@pytest.mark.parametrize("ending, command", list(zip(PACKED, ("gzip -t", "zstd -t"))))
def test_a_bad_line_names_the_check_of_the_file(tmp_path, ending, command):
  path = tmp_path / f"x.txt{ending}"
  path.write_bytes(PACK[ending](b"a\xff"))
  with pytest.raises(UserError, match=rf"x\.txt{ending}, line 1, byte 2: .*{command}"):
    list(reading.read_lines(path, ERROR))
