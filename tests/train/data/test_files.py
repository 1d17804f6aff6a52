"""Files are read by index as written; errors name file and line."""

import gzip
import json
import os
import subprocess
import sys
import textwrap

import pytest
import tensorflow_datasets as tfds

from train.common.errors import UserError
from train.common.files import cache_dir
from train.data import files, reading, record_cache, sources
from train.data.bad_records import log_once

ENGLISH = ["jump twice", "a line\u2028with a separator", "  edges ", "tab\there", "last"]
GERMAN = ["zweimal springen", "Größe\x0b\x85", "ß", "x", "ende"]
PAIRS = [{"source": s, "target": t} for s, t in zip(ENGLISH, GERMAN)]


def put(path, content):
  data = content if isinstance(content, bytes) else "".join(x + "\n" for x in content).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return str(path)


def put_parallel(tmp_path, source=ENGLISH, target=GERMAN, suffix=""):
  return {
    "source": put(tmp_path / f"x.en{suffix}", source),
    "target": put(tmp_path / f"x.de{suffix}", target),
  }


def open_files(value, split="train", **options):
  return sources.open_split({"name": "files", "splits": {split: value}, **options}, split)


def list_cache():
  return sorted(p.name for p in cache_dir("files").iterdir())


def python(script, *arguments):
  """Runs a script in a fresh Python and returns the finished process."""
  command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False)


# What is read


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_parallel_text_comes_back_line_by_line(tmp_path, suffix):
  assert list(open_files(put_parallel(tmp_path, suffix=suffix))) == PAIRS


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_tsv_and_jsonl_hold_the_same_examples(tmp_path, suffix):
  pairs = [pair for pair in PAIRS if "\t" not in pair["source"]]
  tsv = put(tmp_path / f"x.tsv{suffix}", ["\t".join(pair.values()) for pair in pairs])
  keys = ("source", "target")
  rows = [json.dumps({"id": 3, **pair}, ensure_ascii=len(pair["source"]) < 9) for pair in pairs]
  jsonl = put(tmp_path / f"x.jsonl{suffix}", rows)
  assert list(open_files(tsv)) == list(open_files(jsonl, columns=list(keys))) == pairs
  swapped = open_files(tsv, columns=["target", "source"])
  assert swapped[0] == {"target": pairs[0]["source"], "source": pairs[0]["target"]}


def test_a_mapping_is_aligned_text_with_any_file_name(tmp_path):
  path = put(tmp_path / "x.tsv", ["a\tb", "c"])
  assert list(open_files({"text": path})) == [{"text": "a\tb"}, {"text": "c"}]


def test_glob_reads_its_files_in_sorted_order(tmp_path):
  for name in "ba":
    put(tmp_path / f"{name}.en", [f"{name}{i}" for i in range(3)])
    put(tmp_path / f"{name}.de", [f"{name}{i}" for i in range(3)])
  source = open_files({"source": str(tmp_path / "*.en"), "target": str(tmp_path / "*.de")})
  assert [x["source"] for x in source] == ["a0", "a1", "a2", "b0", "b1", "b2"]
  assert all(x["source"] == x["target"] for x in source)


def test_only_newline_ends_a_line_and_carriage_return_and_byte_order_marks_go(tmp_path):
  content = "\ufeffa\r\nb\rc\r\n\ufeffd\ufeff\u2029e\x0c\n\nlast"
  path = put(tmp_path / "x.txt", content.encode())
  texts = [x["text"] for x in open_files({"text": path}, split="test")]
  assert texts == ["a", "b\rc", "d\ufeff\u2029e\x0c", "", "last"]


@pytest.mark.parametrize("pattern", ["y.txt", "*.txt", ""])
def test_a_link_to_a_file_that_is_gone_is_named(tmp_path, pattern):
  put(tmp_path / "x.txt", ["a"])
  (tmp_path / "y.txt").symlink_to(tmp_path / "gone")
  with pytest.raises(UserError, match=r"y\.txt is a link to .*/gone, which does not exist"):
    reading.find_files("data", str(tmp_path / pattern), (".txt",))


@pytest.mark.parametrize("name", ["dev", "val"])
def test_another_name_of_validation_is_understood(name):
  with pytest.raises(UserError, match=f"no '{name}'.*did you mean validation"):
    reading.get_split(name, dict(train="a", validation="b"))


def test_blank_sides_are_dropped_and_counted_in_train_only(tmp_path, warnings):
  value = put_parallel(tmp_path, ["a", "", "c", "d"], ["A", "B", " \t", "D"])
  for _ in range(2):  # written, then read from the cache
    log_once.cache_clear()
    assert [x["source"] for x in open_files(value)] == ["a", "d"]
  assert [line.split(" examples")[0] for line in warnings] == ["data.splits.train: 2"] * 2
  assert [x["source"] for x in open_files(value, "test")] == ["a", "", "c", "d"]
  assert len(warnings) == 2


def test_many_shards_keep_the_order(tmp_path, monkeypatch):
  monkeypatch.setattr(record_cache, "SHARD_RECORDS", 2)
  monkeypatch.setattr(record_cache, "SHARDS_BEFORE_DOUBLING", 3)
  texts = [str(i) for i in range(41)]
  source = open_files({"text": put(tmp_path / "x.txt", texts)})
  assert [x["text"] for x in source] == texts
  assert [x["text"] for x in source._getitems(range(40, -1, -1))] == texts[::-1]
  shards = tfds.builder_from_directory(source.folder).info.splits[files.SPLIT].shard_lengths
  assert shards == [2, 2, 2, 4, 4, 4, 8, 8, 7]


def test_tfds_opens_the_folder_and_decodes_the_same_text(tmp_path):
  source = open_files(put_parallel(tmp_path))
  decoded = tfds.builder_from_directory(source.folder).as_data_source(files.SPLIT)
  features = tfds.builder_from_directory(source.folder).info.features
  assert [{k: v.decode() for k, v in x.items()} for x in decoded] == list(source)
  ours, theirs = (
    files._serialize(("source", "target"), ENGLISH[:2]),
    dict(zip(PAIRS[0], ENGLISH[:2])),
  )
  assert features.deserialize_example_np(ours) == features.deserialize_example_np(
    features.serialize_example(theirs)
  )


# The cache


def test_the_key_is_the_content(tmp_path):
  first = open_files(put_parallel(tmp_path))
  (tmp_path / "moved").mkdir()
  assert open_files(put_parallel(tmp_path / "moved")).fingerprint == first.fingerprint
  assert list_cache() == [first.fingerprint]
  changed = open_files(put_parallel(tmp_path, ENGLISH[:4] + ["LAST"]))
  assert changed.fingerprint != first.fingerprint
  assert changed[4]["source"] == "LAST"
  assert first[4]["source"] == "last"


def test_the_second_opening_writes_nothing(tmp_path, monkeypatch):
  value = put_parallel(tmp_path)
  first = open_files(value)
  monkeypatch.setattr(files, "_write_records", None)
  assert list(open_files(value)) == list(first)


def test_a_failed_reading_leaves_no_cache(tmp_path):
  with pytest.raises(UserError):
    open_files(put_parallel(tmp_path, target=GERMAN[:4]))
  assert list_cache() == []


def test_a_killed_writer_leaves_no_half_cache(tmp_path):
  value = put_parallel(tmp_path)
  script = f"""
    import os
    from train.data import files
    record = files._serialize
    def kill(fields, row):
      if row[0] == "last": os.kill(os.getpid(), 9)
      return record(fields, row)
    files._serialize = kill
    files.prepare("train", {{"train": {value!r}}})
  """
  assert python(script).returncode == -9
  (left,) = list_cache()
  assert ".partial-" in left
  assert list(open_files(value)) == PAIRS
  os.utime(cache_dir("files") / left, (0, 0))
  other = open_files(value, "test")  # the next writing sweeps up what is a day old
  assert left not in list_cache()
  assert other.fingerprint in list_cache()


def test_writers_at_the_same_time_do_not_clash(tmp_path):
  value = put_parallel(tmp_path, ENGLISH * 200, GERMAN * 200)
  script = f"""
    import os, pathlib, time
    from train.data import files, sources
    write = files._write_records
    def meet(place):
      pathlib.Path({str(tmp_path)!r}, f"{{place}}-{{os.getpid()}}.met").touch()
      while len(list(pathlib.Path({str(tmp_path)!r}).glob(f"{{place}}-*.met"))) < 3:
        time.sleep(0.01)
    def write_together(*arguments):
      meet("before")  # all three find no cache before any has written it
      write(*arguments)
      meet("after")
    files._write_records = write_together
    source = sources.open_split({{"name": "files", "splits": {{"train": {value!r}}}}}, "train")
    assert list(source) == {PAIRS!r} * 200
  """
  command = [sys.executable, "-c", textwrap.dedent(script)]
  processes = [subprocess.Popen(command) for _ in range(3)]
  assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
  assert len(list_cache()) == 1


# What cannot be read


@pytest.mark.parametrize(
  "names, message",
  [
    ({"train.en": b""}, r"train\.en is empty"),
    ({"train.en.gz": b""}, r"train\.en\.gz is empty"),
    ({"train.en": b"a\nb\xff\n"}, r"train\.en, line 2, byte 2: 0xff is not UTF-8"),
    ({"x.tsv": b"a\tb\na\tb\tc\n"}, r"x\.tsv, line 2: 3 tab-separated columns, not the 2"),
    ({"x.tsv": b"a\tb\n\nc\n"}, r"x\.tsv, line 3: 1 tab-separated columns"),
    ({"x.csv": b'a,b\n"a\nb,c\n'}, r"x\.csv, line 2: not CSV \(a quote is not closed\)"),
    ({"x.csv": b'a,b\n"a\nb",c,d\n'}, r"x\.csv, line 2: 3 comma-separated columns, not the 2"),
    ({"x.csv": b"a\rb,c\n"}, r"x\.csv, line 1: not CSV \(new-line character"),
    ({"x.csv": b"a,b\n\xff,d\n"}, r"x\.csv, line 2, byte 1: 0xff is not UTF-8"),
    ({"x.jsonl": b'{"source": "a", "target": "b"}\n{"so\n'}, r"x\.jsonl, line 2, column \d+: not"),
    ({"x.jsonl": b"[1]\n"}, r"x\.jsonl, line 1: a JSON object is needed, not list"),
    ({"x.jsonl": b'{"source": "a", "tagret": "b"}\n'}, r"line 1: no key 'target'.*mean tagret"),
    ({"x.jsonl": b'{"source": "a", "target": [1]}\n'}, r"line 1: 'target' must be text.*not list"),
    ({"x.jsonl": b'\n{"source": "a", "target": null}'}, r"line 2: 'target' must be .*not null"),
    ({"x.jsonl": b'{"source": "a", "target": "\\ud800"}\n'}, r"line 1: 'target' holds half"),
    ({"x.txt": b"a\n"}, r"x\.txt must end in \.tsv or \.csv or \.jsonl"),
  ],
)
def test_bad_content_is_reported_with_file_and_line(tmp_path, names, message):
  ((name, content),) = names.items()
  path = put(tmp_path / name, content)
  with pytest.raises(UserError, match=message):
    open_files(path if name.startswith("x.") else {"source": path, "target": path})


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain"])
def test_a_damaged_gz_is_reported(tmp_path, damage):
  path = tmp_path / "x.en.gz"
  whole = gzip.compress("".join(f"line {i * i}\n" for i in range(3000)).encode())
  half = len(whole) // 2
  path.write_bytes(
    {"cut": whole[:half], "flipped": whole[:half] + b"\0" * half, "plain": b"a\n"}[damage]
  )
  with pytest.raises(UserError, match=r"x\.en\.gz: not a complete gzip file, broken after line"):
    open_files({"text": str(path)})


def test_different_line_counts_name_both_files_and_counts(tmp_path):
  with pytest.raises(UserError, match=r"x\.en has 5, .*x\.de has 3"):
    open_files(put_parallel(tmp_path, target=GERMAN[:3]))


def test_missing_files_are_reported_with_the_nearest(tmp_path):
  value = put_parallel(tmp_path, suffix=".gz")
  with pytest.raises(UserError, match=r"splits\.train\.source: there is no file .*mean x\.en\.gz"):
    open_files({**value, "source": str(tmp_path / "x.n.gz")})
  with pytest.raises(UserError, match="nor a folder"):
    open_files({**value, "source": str(tmp_path / "no" / "x.en.gz")})
  with pytest.raises(UserError, match=r"no file matches .*/y\*"):
    open_files({**value, "source": str(tmp_path / "y*")})
  with pytest.raises(UserError, match="is a folder"):
    open_files({**value, "source": str(tmp_path)})
  with pytest.raises(UserError, match=r"x\* matches 2, .*x\.de\.gz matches 1"):
    open_files({**value, "source": str(tmp_path / "x*")})


def test_only_blank_pairs_is_reported(tmp_path):
  with pytest.raises(UserError, match="all 2 training examples have a blank field"):
    open_files(put_parallel(tmp_path, ["a", ""], ["", "b"]))
