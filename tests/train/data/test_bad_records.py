"""Damage in data is an error that says where, or left out, counted, told and limited."""

import contextlib
import gzip
import json
import multiprocessing
import os
import pathlib
import pickle
import re
import subprocess
import sys
import zipfile

import numpy as np
import po
import pytest
from absl import logging
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from test_sources import ToyPairs

from tests.train.test_main import assert_same_run
from train import evaluate, tasks
from train.common.errors import UserError
from train.common.files import cache_dir
from train.data import bad_records, sources, tokenizer
from train.data.bad_records import FEW, LEFT_OUT, MOST_BYTES
from train.record import workdir
from train.record.config import override
from train.resolve import load

ROOT = pathlib.Path(__file__).parents[3]
LONG = b"x" * (MOST_BYTES + 1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("SCRIPTORIUM_CACHE", str(tmp_path / "cache"))
  LEFT_OUT.clear()


@pytest.fixture
def told(monkeypatch):
  """What is logged as a warning."""
  lines = []
  monkeypatch.setattr(logging, "warning", lambda message, *values: lines.append(message % values))
  return lines


# Kind of data -> the file's name, what the source is besides, a good record with a number in it,
# and damage: what stands in its place, and what is said of it.
NOT_UTF8 = (b"a\xff", r"byte 2: 0xff is not UTF-8; convert")
TOO_LONG = (LONG, "more than 16,777,216 bytes")
COLUMNS = {"name": "files", "columns": ("source", "target")}
KINDS = {
  "tsv": (
    "x.tsv",
    COLUMNS,
    "a{}\tb",
    {
      "columns": (b"a", r"1 tab-separated columns, not the 2 \(source, target\)"),
      "bytes": (b"a\xff\tb", NOT_UTF8[1]),
      "long": TOO_LONG,
    },
  ),
  "jsonl": (
    "x.jsonl",
    COLUMNS,
    '{{"source": "a{}", "target": "b"}}',
    {
      "broken": (b'{"source": "a', r"column \d+: not JSON \(Unterminated string"),
      "deep": (b"[" * 100_000, "recursion"),
      "digits": (b'{"n": ' + b"1" * 5000 + b"}", "4300 digits"),
      "no object": (b"[1]", "a JSON object is needed, not list"),
      "no field": (b'{"source": "a", "tagret": "b"}', "no key 'target'; did you mean tagret"),
      "type": (b'{"source": "a", "target": 1}', "'target' must be text, not int"),
      "surrogate": (b'{"source": "a", "target": "\\ud800"}', "half a surrogate pair"),
      "bytes": NOT_UTF8,
      "long": TOO_LONG,
    },
  ),
  "lines": (
    "x.txt",
    {"name": "text", "unit": "line"},
    "line {}",
    {"bytes": NOT_UTF8, "long": TOO_LONG},
  ),
  "document": ("x.txt", {"name": "text", "unit": "file"}, "line {}", {"bytes": NOT_UTF8}),
  "documents": (
    "x.jsonl",
    {"name": "text"},
    '{{"text": "a{}"}}',
    {"type": (b'{"text": 3}', "'text' must be text, not int"), "bytes": NOT_UTF8},
  ),
  "conll": (
    "x.conll",
    {"name": "conll"},
    "w{}\tA\n",
    {
      "columns": (b"w\nw\tB\n", "columns 0 and -1 must be a word and its tag: 'w'"),
      "bytes": (b"w\xff\tB\nw\tB\n\xff\tB\n", NOT_UTF8[1]),
      "long": (LONG + b"\n", TOO_LONG[1]),
    },
  ),
}
CASES = [(kind, damage) for kind, (*_, found) in KINDS.items() for damage in found]


def write(path, kind, numbers, bad=()):
  """A file of the records of these numbers, with damage in place of those in `bad`: number ->
  name of damage."""
  *_, record, damages = KINDS[kind]
  lines = [damages[bad[n]][0] if n in bad else record.format(n).encode() for n in numbers]
  data = b"".join(line + b"\n" for line in lines)
  path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


def opened(folder, kind, **more):
  name, spec, *_ = KINDS[kind]
  return sources.open_split({**spec, "splits": {"train": str(folder / name)}, **more}, "train")


@pytest.mark.parametrize("kind, damage", CASES)
def test_a_bad_record_is_an_error_or_left_out(kind, damage, tmp_path, told):
  (tmp_path / "clean").mkdir()
  name, bad = KINDS[kind][0], {7: damage, 30: damage}
  write(tmp_path / name, kind, range(40), bad)
  write(tmp_path / "clean" / name, kind, [n for n in range(40) if n not in bad])
  line = 7 * (KINDS[kind][2].count("\n") + 1) + 1
  where = rf"{re.escape(str(tmp_path / name))}, line {line},? ?.*{KINDS[kind][-1][damage][1]}"
  with pytest.raises(UserError, match=where + ".*data.on_bad_record='skip'"):
    list(opened(tmp_path, kind))
  assert not told
  found = opened(tmp_path, kind, on_bad_record="skip")
  assert list(found) == list(opened(tmp_path / "clean", kind))
  assert found.fingerprint != opened(tmp_path / "clean", kind).fingerprint
  assert re.search(where, told[0])
  assert told[-1] == f"2 of 40 records of {tmp_path / name} were left out"
  assert LEFT_OUT[str(tmp_path / name)]["records"] == 2


@pytest.mark.parametrize("kind, damage", [(kind, next(iter(KINDS[kind][-1]))) for kind in KINDS])
def test_more_than_one_in_a_hundred_stop_the_run(kind, damage, tmp_path, told):
  name = KINDS[kind][0]
  for count, total in ((FEW, 40), (9, 900)):
    write(tmp_path / name, kind, range(total), dict.fromkeys(range(2, 2 + count), damage))
    assert list(opened(tmp_path, kind, on_bad_record="skip"))
    assert f"{count} of {total} records of" in told[-1]
    assert sum("left out: " in line for line in told) <= FEW + count
    told.clear()
    write(tmp_path / name, kind, range(total), dict.fromkeys(range(2, 3 + count), damage))
    with pytest.raises(UserError, match=rf"{count + 1} of {total} records .* 1% .*line \d+"):
      list(opened(tmp_path, kind, on_bad_record="skip"))
  write(tmp_path / name, kind, range(3), dict.fromkeys(range(3), damage))
  with pytest.raises(UserError, match="3 of 3 records cannot be read"):
    list(opened(tmp_path, kind, on_bad_record="skip"))


def test_what_was_left_out_is_told_again_of_a_cache(tmp_path, told):
  write(tmp_path / "x.tsv", "tsv", range(40), {7: "columns"})
  first = opened(tmp_path, "tsv", on_bad_record="skip")
  lines = list(told)
  opened(tmp_path, "tsv", on_bad_record="skip")
  assert told == lines  # once in a process
  LEFT_OUT.clear()
  assert opened(tmp_path, "tsv", on_bad_record="skip").folder == first.folder
  assert told == lines * 2
  with pytest.raises(UserError, match="line 8"):  # the settings share no cache
    opened(tmp_path, "tsv")
  write(tmp_path / "x.tsv", "tsv", range(40))
  assert len(opened(tmp_path, "tsv", on_bad_record="skip")) == 40
  assert not LEFT_OUT


def test_a_pair_is_left_out_where_either_line_is_bad(tmp_path, told):
  (tmp_path / "x.en").write_bytes(b"a\nb\xff\nc\nd\n")
  (tmp_path / "x.de").write_bytes(b"A\nB\xff\nC\n" + LONG + b"\n")
  files = {"source": str(tmp_path / "x.en"), "target": str(tmp_path / "x.de")}
  spec = {"name": "files", "splits": {"train": files}}
  with pytest.raises(UserError, match=r"x\.en, line 2, byte 2: 0xff"):
    sources.open_split(spec, "train")
  skip = {**spec, "on_bad_record": "skip"}
  assert [x["target"] for x in sources.open_split(skip, "train")] == ["A", "C"]
  places = [re.search(r"x\...", line)[0] for line in told[:-1]]
  assert places == ["x.en", "x.de", "x.de"]
  assert re.search(r"^2 of 4 records of .*/x\.en and .*/x\.de were left out", told[-1])
  (tmp_path / "x.en").write_bytes(b"a\nb\nc\nd\n")
  (tmp_path / "x.de").write_bytes(b"A\nB\n")  # nobody can tell which lines belong together
  for one in (spec, skip):
    with pytest.raises(UserError, match=r"x\.en has 4, .*x\.de has 2"):
      sources.open_split(one, "train")


@pytest.mark.parametrize("on_bad_record", bad_records.WAYS)
def test_what_breaks_off_is_an_error_in_both_ways(tmp_path, on_bad_record):
  write(tmp_path / "x.tsv.gz", "tsv", np.random.default_rng(0).integers(0, 10**9, 5000))
  whole = (tmp_path / "x.tsv.gz").read_bytes()
  half = len(whole) // 2
  more = {"on_bad_record": on_bad_record, "columns": ("source", "target")}
  for data in (whole[:half], whole[:half] + b"\0\0\0\0" + whole[half + 4 :]):
    (tmp_path / "x.tsv.gz").write_bytes(data)
    spec = {"name": "files", "splits": {"train": f"{tmp_path}/x.tsv.gz"}, **more}
    # a flipped byte may first of all make lines that are no rows
    with pytest.raises(UserError, match=r"x\.tsv\.gz: not a whole gzip .* after line|gzip -t says"):
      sources.open_split(spec, "train")
  for data in (b'{"data": [', b'{"data\xff": []}', b"[" * 100_000):
    (tmp_path / "x.json").write_bytes(data)
    spec = {"name": "squad", "splits": {"train": f"{tmp_path}/x.json"}}
    with pytest.raises(UserError, match=r"x\.json: not JSON"):
      list(sources.open_split({**spec, "on_bad_record": on_bad_record}, "train"))


def test_bad_questions(tmp_path, told):
  def ask(name, question="Who?"):
    return {"id": name, "question": question, "answers": [{"text": "a", "answer_start": 0}]}

  bad = [ask(1), ask("b", "\ud800"), {"id": "c", "question": "?", "answers": [{"text": "a"}]}]
  paragraphs = [{"context": "a", "qas": [ask(str(n)) for n in range(30)] + bad}, {"context": 3}]
  data = {"data": [{"paragraphs": paragraphs}, {}]}
  (tmp_path / "x.json").write_text(json.dumps(data))
  spec = {"name": "squad", "splits": {"train": f"{tmp_path}/x.json"}}
  with pytest.raises(UserError, match=r"x\.json, data\[1\]: SQuAD's JSON has a list 'paragraphs'"):
    list(sources.open_split(spec, "train"))
  found = sources.open_split({**spec, "on_bad_record": "skip"}, "train")
  assert [one["id"] for one in found] == [str(n) for n in range(30)]
  of = [re.search(r"data\S+(?=:)", line)[0] for line in told[:-1]]
  questions = [f"data[0].paragraphs[0].qas[{n}]" for n in (30, 31, 32)]
  assert of == ["data[1]", *questions, "data[0].paragraphs[1]"]
  assert told[-1].startswith("5 of 35 records of")
  data["data"].append({})
  (tmp_path / "x.json").write_text(json.dumps(data))
  with pytest.raises(UserError, match="6 of 36 records cannot be read"):
    list(sources.open_split({**spec, "on_bad_record": "skip"}, "train"))


def test_a_worker_does_not_tell_again(tmp_path, told, monkeypatch):
  write(tmp_path / "x.conll", "conll", range(40), {7: "columns"})
  source = opened(tmp_path, "conll", on_bad_record="skip")
  copy = pickle.loads(pickle.dumps(source))
  monkeypatch.setattr(multiprocessing, "parent_process", lambda: "this one")
  assert (len(copy), told) == (39, [])
  assert not LEFT_OUT
  monkeypatch.undo()


def test_what_is_made_of_another_source_skips_with_it(tmp_path):
  write(tmp_path / "x.tsv", "tsv", range(40), {7: "columns"})
  of = {**KINDS["tsv"][1], "splits": {"train": f"{tmp_path}/x.tsv"}}
  spec = {"name": "formatted", "of": of, "text": "{source}"}
  with pytest.raises(UserError, match="line 8"):
    sources.open_split(spec, "train")
  assert len(sources.open_split({**spec, "on_bad_record": "skip"}, "train")) == 39
  with pytest.raises(UserError, match=r"it is data\.on_bad_record that counts"):
    sources.open_split({**spec, "of": {**of, "on_bad_record": "skip"}}, "train")


@pytest.mark.parametrize("name", sources.SOURCES)
def test_every_source_knows_the_setting_and_refuses_another_value(name):
  with pytest.raises(UserError, match="on_bad_record is 'skp'; known: error, skip; did you mean"):
    sources.open_split({"name": name, "on_bad_record": "skp"}, "train")


CONFIGS = {path.stem for path in ROOT.glob("configs/[a-z]*.py")} - {"common", "sections"}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_config_has_the_setting(name):
  task = load(f"{ROOT}/configs/{name}.py:small").task
  parts = task.parts.values() if task.name == "mixture" else [task]
  assert [part.data.on_bad_record for part in parts] == ["error"] * len(parts)


def test_a_run_older_than_the_setting_goes_on(tmp_path):
  cfg = load(f"{ROOT}/configs/scan.py:small")
  workdir.open_run(tmp_path, cfg, ["test"]).close()
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  older = cfg.to_dict()
  del older["task"]["data"]["on_bad_record"]
  (tmp_path / "config.json").write_text(json.dumps(older))
  workdir.open_run(tmp_path, cfg, ["test"]).close()
  with pytest.raises(UserError, match=r"task\.data\.on_bad_record *'skip' *'error'"):
    workdir.open_run(tmp_path, override(cfg, ["task.data.on_bad_record=skip"]), ["test"])


@pytest.mark.parametrize("on_bad_record", bad_records.WAYS)
def test_a_damaged_wheel_is_an_error(tmp_path, on_bad_record):
  messages = {f"Save the file number {n}": f"Datei {n * n} wird gespeichert" for n in range(200)}
  po.write(tmp_path / "de" / "x.po", messages)
  with zipfile.ZipFile(tmp_path / "x.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
    wheel.write(tmp_path / "de" / "x.po", "de/x.po")
  data = bytearray((tmp_path / "x.whl").read_bytes())
  data[100:110] = b"\xff" * 10
  (tmp_path / "x.whl").write_bytes(data)
  spec = {"name": "gettext", "splits": {"train": f"{tmp_path}/x.whl"}, "language": "de"}
  with pytest.raises(UserError, match=r"x\.whl/de/x\.po cannot be read: .*; fetch it again"):
    list(sources.open_split({**spec, "on_bad_record": on_bad_record}, "train"))


# ArrayRecord


@pytest.mark.parametrize("kind", ["flipped", "cut", "note", "info", "gone"])
def test_a_damaged_cache_is_written_anew(tmp_path, told, kind):
  (tmp_path / "x.tsv").write_text("".join(f"a\tsize {n} b\n" for n in range(40)))
  before = opened(tmp_path, "tsv")
  examples, folder = list(before), pathlib.Path(before.folder)
  (shard,) = folder.glob("*.array_record*")
  if kind == "flipped":
    damage(shard, 17)
    # until then, whoever reads it says so
    copy = sources.Records(*before.__reduce__()[1])
    with pytest.raises(
      UserError, match=r"array_record\S*, record 17 .*hash mismatch.*same command"
    ):
      copy._getitems(range(40))
  elif kind == "cut":
    shard.write_bytes(shard.read_bytes()[:1000])
  elif kind == "gone":
    shard.unlink()
  else:
    path = folder / {"note": "written.json", "info": "dataset_info.json"}[kind]
    path.write_text(path.read_text()[:50])
  assert list(opened(tmp_path, "tsv")) == examples
  assert told == [f"{folder} is not as it was written, and is written anew"]
  assert [path for path in cache_dir("files").iterdir() if ".partial" not in path.name] == [folder]


@pytest.fixture
def toy(tmp_path, monkeypatch):
  """The spec of a TFDS data set of 700 records, and its file."""

  def splits(self, _):
    return {"train": self._generate_examples(700), "test": self._generate_examples(3)}

  monkeypatch.setattr(ToyPairs, "_split_generators", splits)
  ToyPairs(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
  spec = {"name": "tfds", "dataset": "toy_pairs", "data_dir": f"{tmp_path}/tfds"}
  (shard,) = (tmp_path / "tfds").rglob("*-train.array_record*")
  records = list(ArrayRecordDataSource([shard]))
  with contextlib.closing(ArrayRecordWriter(str(shard), "group_size:1,uncompressed")) as writer:
    for record in records:  # so that a record's text can be found
      writer.write(record)
  return spec | {"source": "de", "target": "more/en"}, shard


def damage(shard, *numbers):
  """Flips a bit of each of these records."""
  data = bytearray(shard.read_bytes())
  for number in numbers:
    data[re.search(rb"size %d\D" % number, data).start()] ^= 1
  shard.write_bytes(data)


def test_bad_records_of_a_dataset(toy, told):
  spec, shard = toy
  skip = {**spec, "on_bad_record": "skip"}
  clean = sources.open_split(spec, "train")
  whole = list(clean)
  assert sources.open_split(skip, "train").fingerprint == clean.fingerprint
  places, stored = (0, 1, 7, 300, 699), shard.read_bytes()
  damage(shard, *places)
  with pytest.raises(
    UserError, match=r"train\.array_record\S*, record 0 \(from 0\): .*hash mismatch"
  ):
    sources.open_split(spec, "train")
  found = sources.open_split(skip, "train")
  kept = [one for number, one in enumerate(whole) if number not in places]
  assert list(found) == found._getitems(range(len(found))) == kept
  assert found.fingerprint not in ("", clean.fingerprint)
  copy = sources.Records(*found.__reduce__()[1])
  assert copy[694] == kept[694]
  assert [re.search(r"record (\d+)", line)[1] for line in told[:-1]] == list(map(str, places))
  assert told[-1].startswith("5 of 700 records of")
  part = sources.open_split(skip, "train[5:302]")
  assert list(part) == whole[5:7] + whole[8:300] + whole[301:302]
  damage(shard, 100, 101, 102)
  with pytest.raises(UserError, match=r"train: 8 of 700 records cannot be read.*, record 0 "):
    sources.open_split(skip, "train")
  with pytest.raises(UserError, match="record 100 "):  # went bad after it was opened
    found._getitems(range(200))
  for cut in (stored[:1000], b""):
    shard.write_bytes(cut)
    for one in (spec, skip):
      with pytest.raises(UserError, match="array_record"):
        sources.open_split(one, "train")


def test_the_fingerprint_says_which_records_were_left_out(toy):
  spec, shard = toy
  whole, prints = shard.read_bytes(), set()
  for number in (697, 698):  # both behind the last example that the fingerprint reads
    shard.write_bytes(whole)
    damage(shard, number)
    prints.add(sources.open_split({**spec, "on_bad_record": "skip"}, "train").fingerprint)
  assert len(prints) == 2


def test_a_text_of_a_dataset_over_the_limit_or_not_utf8(toy, monkeypatch):
  spec, _ = toy
  found = sources.open_split(spec, "train")
  monkeypatch.setattr("train.data.records.MOST_BYTES", len("size 10"))
  with pytest.raises(UserError, match=r"record 0 .*: 'de' has 9 bytes, more than 7"):
    found[0]


def test_a_datasets_own_files_are_told(toy):
  spec, shard = toy
  for name in ("dataset_info.json", "features.json"):
    path = shard.parent / name
    text = path.read_text()
    for damaged in (text[:100], "", "[]"):
      path.write_text(damaged)
      with pytest.raises(UserError, match=r"toy_pairs.*\n.*\n.*\n  tfds build toy_pairs"):
        sources.open_split(spec, "train")
    path.write_text(text)


# Whole runs


def command(config, folder, *more):
  """`python -m train.main` in a process of its own, on one device."""
  env = os.environ | {"XLA_FLAGS": os.environ["SCRIPTORIUM_TEST_XLA_FLAGS"]}
  words = ["-m", "train.main", f"--config={config}", *more, f"--workdir={folder}"]
  return subprocess.Popen(
    [sys.executable, *words],
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def test_a_run_that_skips_is_the_run_without_those_lines(tmp_path):
  rows = [b"the dog number %d runs\t%s" % (n, b"even" if n % 2 == 0 else b"odd") for n in range(60)]
  bad = {7: b"a dog", 30: b"\xff\todd", 41: b"a\tb\tc"}
  folders = [tmp_path / name for name in ("skipped", "clean")]
  for folder in folders:
    folder.mkdir()
    lines = [bad.get(n, row) for n, row in enumerate(rows)]
    if folder.name == "clean":
      lines = [row for n, row in enumerate(rows) if n not in bad]
    (folder / "train.tsv").write_bytes(b"".join(line + b"\n" for line in lines))
  skip = "--config.task.data.on_bad_record=skip"
  more = ["--config.steps=6", "--config.evaluate.every=3", "--config.evaluate.decode_every=0"]
  more += ["--config.checkpoint.best_metric=loss", "--config.log_every=1"]
  runs = [
    command(f"configs/classify.py:small,dev=train,data={folder}", folder / "run", *more, *how)
    for folder, how in zip(folders, ([skip], []))
  ]
  outputs = [run.communicate(timeout=200)[0] for run in runs]
  assert [run.returncode for run in runs] == [0, 0], outputs
  file = f"{folders[0]}/train.tsv"
  assert f"left out: {file}, line 8: 1 tab-separated columns" in outputs[0]
  assert f"left out: {file}, line 31, byte 1: 0xff is not UTF-8" in outputs[0]
  assert outputs[0].count(f"3 of 60 records of {file} were left out") == 1
  (start,) = json.loads((folders[0] / "run" / "run.json").read_text())["starts"]
  assert (start["left_out"][file]["records"], start["left_out"][file]["of"]) == (3, 60)
  (other,) = json.loads((folders[1] / "run" / "run.json").read_text())["starts"]
  assert other["left_out"] == {}
  evaluate.main([f"--workdir={folders[0]}/run", "--split=validation"])
  assert json.loads((folders[0] / "run" / "results.json").read_text())["left_out"][file]["of"] == 60
  assert_same_run(folders[0] / "run", folders[1] / "run")


CONFIG = """
from configs import wmt14

def get_config():
  cfg = wmt14.get_config("small")
  cfg.task.data.update({data})
  cfg.task.tokenizer = dict(name="file", path="{folder}/tokenizer.json")
  cfg.evaluate.update(split="test", decode_every=0)
  cfg.workers = 1
  return cfg
"""


def test_a_record_that_a_worker_cannot_read_is_told(toy, tmp_path):
  spec, shard = toy
  text = "".join(f"{x['source']} {x['target']}\n" for x in sources.open_split(spec, "train"))
  tokenizer.train(dict(name="word"), text.splitlines()).save(tmp_path / "tokenizer.json")
  (tmp_path / "toy.py").write_text(CONFIG.format(data=spec, folder=tmp_path))
  cfg = load(f"{tmp_path}/toy.py")
  (tmp_path / "first").mkdir()
  for split in ("train", "test"):  # then all lengths are known, and only the worker reads on
    tasks.build(cfg.task, tmp_path / "first").items(split).lengths()
  damage(shard, *[number for number in range(100) if number % 7])  # the fingerprint's are whole
  run = command(f"{tmp_path}/toy.py", tmp_path / "run")
  output, _ = run.communicate(timeout=200)
  assert run.returncode == 2, output
  assert re.search(rf"error: {shard}, record \d+ \(from 0\): .*hash mismatch.*prepare the", output)
  assert "Traceback" not in output
