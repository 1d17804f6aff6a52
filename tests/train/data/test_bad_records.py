"""Damage in data is an error that names its place, or is skipped, counted, logged and limited."""

import contextlib
import gzip
import json
import multiprocessing
import pathlib
import pickle
import re
import zipfile

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from tests.train.data import po
from tests.train.data.helpers import (
  ToyPairs,
  assert_same_batches,
  read_shards,
  take,
  write_toy_pairs,
)
from train import evaluate, loop, tasks
from train.common.errors import UserError
from train.common.files import cache_dir
from train.data import bad_records, items, records, sources
from train.data.bad_records import FEW, LEFT_OUT, MAX_RECORD_BYTES
from train.data.batches import Batches, Layout
from train.data.tokenizer_training import train_tokenizer
from train.record import workdir
from train.record.config import override
from train.resolve import load

ROOT = pathlib.Path(__file__).parents[3]
LONG = b"x" * (MAX_RECORD_BYTES + 1)


@pytest.fixture(autouse=True)
def _nothing_left_out():
  LEFT_OUT.clear()


# Kind of data -> the file's name, the rest of the spec, a good record with a number in it, and
# damages: the bytes in a record's place, and a regex for the message.
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
      "type": (b'{"source": "a", "target": {}}', "'target' must be text.*not dict"),
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
    {"type": (b'{"text": null}', "'text' must be text.*not null"), "bytes": NOT_UTF8},
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
  """Writes a file of numbered records; `bad` maps some of the numbers to names of damages."""
  *_, record, damages = KINDS[kind]
  lines = [damages[bad[n]][0] if n in bad else record.format(n).encode() for n in numbers]
  data = b"".join(line + b"\n" for line in lines)
  path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


def open_kind(folder, kind, **more):
  name, spec, *_ = KINDS[kind]
  return sources.open_split({**spec, "splits": {"train": str(folder / name)}, **more}, "train")


@pytest.mark.parametrize("kind, damage", CASES)
def test_a_bad_record_is_an_error_or_skipped(kind, damage, tmp_path, warnings):
  (tmp_path / "clean").mkdir()
  name, bad = KINDS[kind][0], {7: damage, 30: damage}
  write(tmp_path / name, kind, range(40), bad)
  write(tmp_path / "clean" / name, kind, [n for n in range(40) if n not in bad])
  line = 7 * (KINDS[kind][2].count("\n") + 1) + 1
  where = rf"{re.escape(str(tmp_path / name))}, line {line},? ?.*{KINDS[kind][-1][damage][1]}"
  with pytest.raises(UserError, match=where + ".*data.on_bad_record='skip'"):
    list(open_kind(tmp_path, kind))
  assert not warnings
  found = open_kind(tmp_path, kind, on_bad_record="skip")
  assert list(found) == list(open_kind(tmp_path / "clean", kind))
  assert found.fingerprint != open_kind(tmp_path / "clean", kind).fingerprint
  assert re.search(where, warnings[0])
  assert warnings[-1] == f"2 of 40 records of {tmp_path / name} were skipped"
  assert LEFT_OUT[str(tmp_path / name)]["records"] == 2


@pytest.mark.parametrize("kind, damage", [(kind, next(iter(KINDS[kind][-1]))) for kind in KINDS])
def test_more_than_one_in_a_hundred_stop_the_run(kind, damage, tmp_path, warnings):
  name = KINDS[kind][0]
  for count, total in ((FEW, 40), (9, 900)):
    write(tmp_path / name, kind, range(total), dict.fromkeys(range(2, 2 + count), damage))
    assert list(open_kind(tmp_path, kind, on_bad_record="skip"))
    assert f"{count} of {total} records of" in warnings[-1]
    assert sum("skipped: " in line for line in warnings) <= FEW + count
    warnings.clear()
    write(tmp_path / name, kind, range(total), dict.fromkeys(range(2, 3 + count), damage))
    with pytest.raises(UserError, match=rf"{count + 1} of {total} records .* 1% .*line \d+"):
      list(open_kind(tmp_path, kind, on_bad_record="skip"))
  write(tmp_path / name, kind, range(3), dict.fromkeys(range(3), damage))
  with pytest.raises(UserError, match="3 of 3 records cannot be read"):
    list(open_kind(tmp_path, kind, on_bad_record="skip"))


def test_skipped_records_of_a_cache_are_reported_again(tmp_path, warnings):
  write(tmp_path / "x.tsv", "tsv", range(40), {7: "columns"})
  first = open_kind(tmp_path, "tsv", on_bad_record="skip")
  lines = list(warnings)
  open_kind(tmp_path, "tsv", on_bad_record="skip")
  assert warnings == lines  # once in a process
  LEFT_OUT.clear()
  assert open_kind(tmp_path, "tsv", on_bad_record="skip").folder == first.folder
  assert warnings == lines * 2
  with pytest.raises(UserError, match="line 8"):  # the settings share no cache
    open_kind(tmp_path, "tsv")
  write(tmp_path / "x.tsv", "tsv", range(40))
  assert len(open_kind(tmp_path, "tsv", on_bad_record="skip")) == 40
  assert not LEFT_OUT


def test_a_pair_is_skipped_if_either_line_is_bad(tmp_path, warnings):
  (tmp_path / "x.en").write_bytes(b"a\nb\xff\nc\nd\n")
  (tmp_path / "x.de").write_bytes(b"A\nB\xff\nC\n" + LONG + b"\n")
  files = {"source": str(tmp_path / "x.en"), "target": str(tmp_path / "x.de")}
  spec = {"name": "files", "splits": {"train": files}}
  with pytest.raises(UserError, match=r"x\.en, line 2, byte 2: 0xff"):
    sources.open_split(spec, "train")
  skip = {**spec, "on_bad_record": "skip"}
  assert [x["target"] for x in sources.open_split(skip, "train")] == ["A", "C"]
  places = [re.search(r"x\...", line)[0] for line in warnings[:-1]]
  assert places == ["x.en", "x.de", "x.de"]
  assert re.search(r"^2 of 4 records of .*/x\.en and .*/x\.de were skipped", warnings[-1])
  (tmp_path / "x.en").write_bytes(b"a\nb\nc\nd\n")
  (tmp_path / "x.de").write_bytes(b"A\nB\n")  # the lines no longer correspond
  for one in (spec, skip):
    with pytest.raises(UserError, match=r"x\.en has 4, .*x\.de has 2"):
      sources.open_split(one, "train")


@pytest.mark.parametrize("on_bad_record", bad_records.POLICIES)
def test_a_file_that_breaks_off_is_an_error_under_both_policies(tmp_path, on_bad_record):
  write(tmp_path / "x.tsv.gz", "tsv", np.random.default_rng(0).integers(0, 10**9, 5000))
  whole = (tmp_path / "x.tsv.gz").read_bytes()
  half = len(whole) // 2
  more = {"on_bad_record": on_bad_record, "columns": ("source", "target")}
  for data in (whole[:half], whole[:half] + b"\0\0\0\0" + whole[half + 4 :]):
    (tmp_path / "x.tsv.gz").write_bytes(data)
    spec = {"name": "files", "splits": {"train": f"{tmp_path}/x.tsv.gz"}, **more}
    # a flipped byte may first of all make lines that are no rows
    with pytest.raises(UserError, match=r"x\.tsv\.gz: not a complete .* after line|gzip -t says"):
      sources.open_split(spec, "train")
  for data in (b'{"data": [', b'{"data\xff": []}', b"[" * 100_000):
    (tmp_path / "x.json").write_bytes(data)
    spec = {"name": "squad", "splits": {"train": f"{tmp_path}/x.json"}}
    with pytest.raises(UserError, match=r"x\.json: not JSON"):
      list(sources.open_split({**spec, "on_bad_record": on_bad_record}, "train"))


def test_bad_questions(tmp_path, warnings):
  def ask(name, question="Who?"):
    return {"id": name, "question": question, "answers": [{"text": "a", "answer_start": 0}]}

  bad = [ask(1.5), ask("b", "\ud800"), {"id": "c", "question": "?", "answers": [{"text": "a"}]}]
  paragraphs = [{"context": "a", "qas": [ask(str(n)) for n in range(30)] + bad}, {"context": 3}]
  data = {"data": [{"paragraphs": paragraphs}, {}]}
  (tmp_path / "x.json").write_text(json.dumps(data))
  spec = {"name": "squad", "splits": {"train": f"{tmp_path}/x.json"}}
  with pytest.raises(UserError, match=r"x\.json, data\[1\]: SQuAD's JSON has a list 'paragraphs'"):
    list(sources.open_split(spec, "train"))
  found = sources.open_split({**spec, "on_bad_record": "skip"}, "train")
  assert [one["id"] for one in found] == [str(n) for n in range(30)]
  of = [re.search(r"data\S+(?=:)", line)[0] for line in warnings[:-1]]
  questions = [f"data[0].paragraphs[0].qas[{n}]" for n in (30, 31, 32)]
  assert of == ["data[1]", *questions, "data[0].paragraphs[1]"]
  assert warnings[-1].startswith("5 of 35 records of")
  data["data"].append({})
  (tmp_path / "x.json").write_text(json.dumps(data))
  with pytest.raises(UserError, match="6 of 36 records cannot be read"):
    list(sources.open_split({**spec, "on_bad_record": "skip"}, "train"))


def test_a_worker_does_not_report_again(tmp_path, warnings, monkeypatch):
  write(tmp_path / "x.conll", "conll", range(40), {7: "columns"})
  source = open_kind(tmp_path, "conll", on_bad_record="skip")
  copy = pickle.loads(pickle.dumps(source))
  assert LEFT_OUT
  assert warnings
  LEFT_OUT.clear()
  warnings.clear()
  monkeypatch.setattr(multiprocessing, "parent_process", lambda: "this one")
  assert (len(copy), warnings) == (39, [])
  assert not LEFT_OUT
  monkeypatch.undo()


def test_a_formatted_source_skips_with_its_source(tmp_path):
  write(tmp_path / "x.tsv", "tsv", range(40), {7: "columns"})
  of = {**KINDS["tsv"][1], "splits": {"train": f"{tmp_path}/x.tsv"}}
  spec = {"name": "formatted", "of": of, "text": "{source}"}
  with pytest.raises(UserError, match="line 8"):
    sources.open_split(spec, "train")
  assert len(sources.open_split({**spec, "on_bad_record": "skip"}, "train")) == 39
  with pytest.raises(UserError, match=r"set data\.on_bad_record"):
    sources.open_split({**spec, "of": {**of, "on_bad_record": "skip"}}, "train")


@pytest.mark.parametrize("name", sources.SOURCES)
def test_every_source_has_the_setting_and_refuses_other_values(name):
  with pytest.raises(UserError, match="on_bad_record is 'skp'; known: error, skip; did you mean"):
    sources.open_split({"name": name, "on_bad_record": "skp"}, "train")


CONFIGS = {path.stem for path in ROOT.glob("configs/[a-z]*.py")} - {
  "common",
  "corpora",
  "sections",
  "smaller",
  "stored",
}


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


@pytest.mark.parametrize("on_bad_record", bad_records.POLICIES)
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
def test_a_damaged_cache_is_written_anew(tmp_path, warnings, kind):
  (tmp_path / "x.tsv").write_text("".join(f"a\tsize {n} b\n" for n in range(40)))
  before = open_kind(tmp_path, "tsv")
  examples, folder = list(before), pathlib.Path(before.folder)
  (shard,) = folder.glob("*.array_record*")
  if kind == "flipped":
    damage(shard, 17, text="size {} b")
    # until then, reading the record is an error
    copy = records.Records(*before.__reduce__()[1])
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
  assert list(open_kind(tmp_path, "tsv")) == examples
  (warning,) = warnings
  assert warning.startswith(f"{folder} is damaged")
  assert [path for path in cache_dir("files").iterdir() if ".partial" not in path.name] == [folder]


@pytest.fixture
def toy(tmp_path, monkeypatch):
  """Returns the spec of a TFDS dataset of 700 records, and its file."""
  monkeypatch.setattr(ToyPairs, "sizes", {"train": 700, "test": 3})
  spec = write_toy_pairs(tmp_path / "tfds")
  (shard,) = (tmp_path / "tfds").rglob("*-train.array_record*")
  records = list(ArrayRecordDataSource([shard]))
  with contextlib.closing(ArrayRecordWriter(str(shard), "group_size:1,uncompressed")) as writer:
    for record in records:  # so that a record's text can be found
      writer.write(record)
  return spec, shard


def damage(shard, *numbers, text="size {}"):
  """Flips a bit of each of these records; its text is found by the length stored before it."""
  data = bytearray(shard.read_bytes())
  for number in numbers:
    stored = text.format(number).encode()
    data[data.index(bytes((len(stored), *stored))) + 1] ^= 1
  shard.write_bytes(data)


def test_bad_records_of_a_dataset(toy, warnings):
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
  copy = records.Records(*found.__reduce__()[1])
  assert copy[694] == kept[694]
  assert [re.search(r"record (\d+)", line)[1] for line in warnings[:-1]] == list(map(str, places))
  assert warnings[-1].startswith("5 of 700 records of")
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


def test_bad_records_of_a_streamed_dataset(toy):
  spec, shard = toy
  whole, stored = list(sources.open_split(spec, "train")), shard.read_bytes()
  damage(shard, 7, 300, 301)
  stream = {**spec, "stream": True}
  where = r"train\.array_record\S*, record 7 \(from 0\): .*hash mismatch.*on_bad_record='skip'"
  with pytest.raises(UserError, match=where):
    read_shards(sources.open_split(stream, "train"))
  shards = sources.open_split({**stream, "on_bad_record": "skip"}, "train")
  assert read_shards(shards) == [x for number, x in enumerate(whole) if number not in (7, 300, 301)]
  blocks = [block for number in range(shards.num_shards) for block in shards.blocks(number)]
  places = [re.search(r"record (\d+) ", line)[1] for block in blocks for line in block.bad]
  assert places == ["7", "300", "301"]
  assert all(line.startswith(f"{shard}, ") for block in blocks for line in block.bad)
  for cut in (stored[:1000], b""):
    shard.write_bytes(cut)
    for one in (stream, {**stream, "on_bad_record": "skip"}):
      with pytest.raises(UserError, match="array_record"):
        sources.open_split(one, "train")


def test_the_fingerprint_depends_on_the_skipped_records(toy):
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
  monkeypatch.setattr("train.data.records.MAX_RECORD_BYTES", len("size 10"))
  with pytest.raises(UserError, match=r"record 0 .*: 'de' has 9 bytes, more than 7"):
    found[0]


def test_a_datasets_own_files_are_reported(toy):
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


def test_a_run_that_skips_has_the_batches_without_those_lines(tmp_path, warnings):
  rows = [b"the dog number %d runs\t%s" % (n, b"even" if n % 2 == 0 else b"odd") for n in range(60)]
  bad = {7: b"a dog", 30: b"\xff\todd", 41: b"a\tb\tc"}
  changes = ["steps=2", "evaluate.every=2", "evaluate.decode_every=0", "schedule.warmup_steps=1"]
  changes += ["checkpoint.best_metric=loss"]

  def load_config(name, lines, *more):
    (tmp_path / name).mkdir()
    (tmp_path / name / "train.tsv").write_bytes(b"".join(line + b"\n" for line in lines))
    return load(f"{ROOT}/configs/classify.py:small,dev=train,data={tmp_path / name}", more)

  def make_batches(cfg, folder):
    task = tasks.build(cfg.task, folder)
    with Batches(task.items("train"), tasks.layout(task, cfg.batch_size), seed=0) as batches:
      return take(batches, 6)

  run = tmp_path / "run"
  skip = [*changes, "task.data.on_bad_record=skip"]
  cfg = load_config("skipped", [bad.get(n, row) for n, row in enumerate(rows)], *skip)
  with workdir.open_run(run, cfg, ["test"]) as opened:
    loop.train(cfg, opened)
  file = f"{tmp_path}/skipped/train.tsv"
  assert sum(f"{file}, line 8: 1 tab-separated columns" in line for line in warnings) == 1
  assert sum(f"{file}, line 31, byte 1: 0xff is not UTF-8" in line for line in warnings) == 1
  assert sum(line.startswith(f"3 of 60 records of {file}") for line in warnings) == 1
  (start,) = json.loads((run / "run.json").read_text())["starts"]
  assert (start["left_out"][file]["records"], start["left_out"][file]["of"]) == (3, 60)
  assert (start["tokenizer_sample"]["whole"], start["tokenizer_sample"]["examples"]) == (True, 57)
  evaluate.main([f"--workdir={run}", "--split=validation"])
  assert json.loads((run / "results.json").read_text())["left_out"][file]["of"] == 60
  LEFT_OUT.clear()
  clean = load_config("clean", [row for n, row in enumerate(rows) if n not in bad], *changes)
  expected = make_batches(clean, tmp_path / "clean")
  assert not LEFT_OUT
  assert_same_batches(make_batches(cfg, run), expected)
  assert (run / "tokenizer.json").read_bytes() == (tmp_path / "clean/tokenizer.json").read_bytes()


def test_a_record_that_a_worker_cannot_read_is_reported(toy):
  spec, shard = toy
  source = sources.open_split(spec, "train")
  texts = [f"{example['source']} {example['target']}" for example in source]
  pairs = items.Pairs(source, train_tokenizer(dict(name="word"), texts), 16, 16)
  pairs.lengths()  # cached, so that only the worker reads on
  damage(shard, *[number for number in range(100) if number % 7])  # the fingerprint's are whole
  pairs = items.Pairs(sources.open_split(spec, "train"), pairs.tokenizer, 16, 16)
  message = rf"^{shard}, record \d+ \(from 0\): .*hash mismatch.*prepare the"
  batches = Batches(pairs, Layout(64, 16, 16), seed=0, workers=1)
  with batches, pytest.raises(UserError, match=message):
    take(batches, 20)
