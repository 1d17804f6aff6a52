"""train.prepare: interrupted = uninterrupted, any order of files = one order, duplicates, and runs
on what it wrote. Tests of Beam's part run where Beam is installed."""

import importlib.util
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import corpus as texts
from tests.helpers import train_config
from tests.train.data.helpers import Docs, prepare
from train import prepare as command
from train import resolve
from train.common import paths
from train.common.errors import UserError
from train.data import sources, token_corpus
from train.data.tokenizer_training import train_tokenizer
from train.preparing import duplicates, pipeline
from train.preparing.corpus import check_settings

ROOT = pathlib.Path(__file__).parents[2]
BEAM = importlib.util.find_spec("apache_beam") is not None


def needs_beam(test):
  """Marks a test that starts Beam's workers."""
  skip = pytest.mark.skipif(not BEAM, reason="needs requirements-prepare.txt")
  return pytest.mark.slow(skip(test))


BYTES = train_tokenizer({"name": "byte"}, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Writes 4 MB of text, 31 chunks."""
  path = tmp_path_factory.mktemp("corpus")
  texts.write(path, 4_000_000)
  return path


def spec_of(folder, **options):
  return {
    "name": "text",
    "splits": {"train": str(folder)},
    "unit": "line",
    "stream": True,
  } | options


def contents(folder):
  """Returns the bytes of each file of a prepared corpus."""
  paths = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_order_of_files_changes_no_byte(folder, tmp_path):
  source = sources.open_split(spec_of(folder), "train")
  prepare(tmp_path / "a", source, BYTES, drop=True)
  prepare(tmp_path / "b", source, BYTES, drop=True, order=lambda x: reversed(list(x)))
  written = contents(tmp_path / "a")
  assert written == contents(tmp_path / "b")
  assert len([name for name in written if name.endswith(".array_record")]) == 31


SCRIPT = """
import pathlib, sys
from tests.train.data.helpers import prepare
from tests.train.test_prepare import BYTES, spec_of
from train.data import sources
prepare(pathlib.Path(sys.argv[2]), sources.open_split(spec_of(sys.argv[1]), "train"), BYTES)
"""


def wait_for_files(process, out, count):
  """Waits until so many files are finished."""
  for _ in range(3000):
    if len(list(out.glob("train/part-*.json"))) >= count:
      return
    assert process.poll() is None, "ended before it was killed"
    time.sleep(0.02)
  raise AssertionError("no file was finished")


def test_a_kill_changes_no_byte(folder, tmp_path):
  source = sources.open_split(spec_of(folder), "train")
  prepare(tmp_path / "whole", source, BYTES)
  out = tmp_path / "killed"
  process = subprocess.Popen([sys.executable, "-c", SCRIPT, folder, out], cwd=ROOT)
  wait_for_files(process, out, 3)
  process.kill()
  process.wait()
  before = {path: path.stat().st_mtime_ns for path in out.glob("train/part-*.json")}
  assert 3 <= len(before) < 31
  assert not (out / "manifest.json").exists()
  (out / "train" / ".part-00030-of-00031.array_record.0.partial").write_bytes(b"left by a kill")
  (out / "train" / ".part-00030-of-00031.json.1.tmp").write_bytes(b"left by a kill")
  prepare(out, source, BYTES)
  assert contents(out) == contents(tmp_path / "whole")
  assert before == {path: path.stat().st_mtime_ns for path in before}  # not written again


def test_a_file_that_was_removed_or_cut_is_written_again(folder, tmp_path):
  source, out = sources.open_split(spec_of(folder), "train"), tmp_path / "out"
  prepare(out, source, BYTES)
  before = contents(out)
  for number, endings in (("00007", ("json", "array_record")), ("00003", ("array_record",))):
    for ending in endings:
      (out / "train" / f"part-{number}-of-00031.{ending}").unlink()
  os.truncate(out / "train/part-00009-of-00031.array_record", 1000)
  prepare(out, source, BYTES)
  assert contents(out) == before


@pytest.mark.slow
def test_a_bucket_has_what_a_disk_has(google, folder, tmp_path):
  source = sources.open_split(spec_of(folder), "train")
  spec = prepare(tmp_path, source, BYTES, drop=True)
  place = paths.of(f"{google.prefix}/prepared")
  spec_there = prepare(place, source, BYTES, drop=True)
  written = contents(tmp_path)
  assert paths.contents(place, digests=False).keys() == written.keys()
  for name in ("manifest.json", "train/part-00003-of-00031.array_record"):
    assert (place / name).read_bytes() == written[name]
  here, there = (sources.open_split(x, "train") for x in (spec, spec_there))
  for shard in range(here.num_shards):
    blocks = zip(here.blocks(shard), there.blocks(shard), strict=True)
    for block, other in blocks:
      assert [x["text"].tolist() for x in block.examples] == [
        x["text"].tolist() for x in other.examples
      ]
  path = place / "train/part-00003-of-00031.array_record"
  content = path.read_bytes()
  path.write_bytes(content[:-1])
  with pytest.raises(UserError, match=r"part-00003.*has .* bytes, and manifest.json names"):
    sources.open_split(spec_there, "train")
  path.write_bytes(content[:1000] + bytes(len(content) - 1000))
  damaged = sources.open_split(spec_there, "train")
  with pytest.raises(UserError, match=r"part-00003\S*, record 0 .* is damaged"):
    list(damaged.blocks(3))


@pytest.mark.slow
def test_a_config_finds_a_prepared_corpus_in_a_bucket(google):
  place = paths.of(f"{google.prefix}/corpus")
  assert resolve.load(f"configs/mlm.py:data={place},small").task.data.name == "text"
  (place / "manifest.json").write_text("{}")
  data = resolve.load(f"configs/mlm.py:data={place},small").task.data
  assert (data.name, data.folder) == ("prepared", str(place))


def test_a_manifest_that_lacks_something_is_named(tmp_path):
  spec = prepare(tmp_path / "prepared", Docs(["a text"] * 30), BYTES)
  path = tmp_path / "prepared/manifest.json"
  manifest = json.loads(path.read_text())
  del manifest["splits"]["train"]["files"], manifest["tokenizer"]
  path.write_text(json.dumps(manifest))
  with pytest.raises(UserError, match=r"manifest.json lacks splits.train.files, tokenizer"):
    sources.open_split(spec, "train")
  path.write_text(json.dumps(manifest | dict(splits=["train"])))
  with pytest.raises(UserError, match=r"manifest.json: splits is .* it must be dict"):
    sources.open_split(spec, "train")


@pytest.mark.parametrize("path", ["https://example.com/a.txt", "abfs://container/a.txt"])
def test_a_url_of_another_kind_is_refused(path):
  with pytest.raises(UserError, match=r"only gs:// and s3:// can be read beside disks"):
    paths.of(path)


# Duplicates


def test_the_first_of_equal_documents_stays(tmp_path, monkeypatch):
  monkeypatch.setattr(duplicates, "RANGE", 500)  # several ranges of hashes
  rng = random.Random(0)
  rows = Docs([f"{rng.randrange(2000)} words" for _ in range(5000)])
  spec = prepare(tmp_path / "a", rows, BYTES, drop=True)
  kept = dict.fromkeys(row["text"] for row in rows)
  source = sources.open_split(spec, "train")
  assert [bytes_of(example["text"]) for example in source] == list(kept)
  totals = token_corpus.read_manifest(tmp_path / "a")["splits"]["train"]["totals"]
  assert totals["documents"] == len(kept) < 2000
  assert totals["duplicates"] == 5000 - len(kept)
  assert source.fingerprint != rows.fingerprint
  assert len(list((tmp_path / "a" / "train.duplicates").glob("duplicates-*"))) > 5


def bytes_of(ids):
  return BYTES.decode(ids.tolist()).removeprefix(" ")


def test_pairs_are_duplicates_if_both_texts_are(tmp_path):
  rows = Docs([])
  rows += [{"source": a, "target": b} for a, b in ("ab", "ab", "ac", "ba", "ab")]
  spec = prepare(tmp_path / "out", rows, BYTES, fields=("source", "target"), drop=True)
  assert len(sources.open_split(spec, "train")) == 3


def test_without_duplicates_the_corpus_is_the_raw_one(tmp_path):
  rows = Docs([f"{i} words" for i in range(600)])
  spec = prepare(tmp_path / "out", rows, BYTES, drop=True)
  source = sources.open_split(spec, "train")
  assert len(source) == 600
  assert source.fingerprint == rows.fingerprint


# What is refused


def test_other_settings_and_other_data_are_refused(folder, tmp_path):
  settings = {"data": spec_of(folder), "drop_duplicates": False}
  check_settings(tmp_path, settings)
  check_settings(tmp_path, settings)
  other = {"data": spec_of(folder, unit="file"), "drop_duplicates": True}
  assert check_settings(tmp_path, other) == other  # nothing was made with the others
  check_settings(tmp_path, settings)
  (tmp_path / "tokenizer.json").touch()
  with pytest.raises(UserError, match=r"(?s)data.unit: 'line' there, 'file' here.*drop_dup"):
    check_settings(tmp_path, other)
  prepare(tmp_path, Docs(["a"], "one"), BYTES)
  with pytest.raises(UserError, match=r"train was begun with other data \(fingerprint"):
    prepare(tmp_path, Docs(["a"], "other"), BYTES)


def test_bad_records_are_counted_and_limited(tmp_path):
  lines = [json.dumps({"text": f"line {i}"}) for i in range(700)]
  lines[3] = lines[650] = "{"
  path = tmp_path / "a.jsonl"
  path.write_text("\n".join(lines))
  with pytest.raises(UserError, match=r"a\.jsonl, line 4"):
    prepare(tmp_path / "out", sources.open_split(spec_of(path), "train"), BYTES)
  spec = spec_of(path, on_bad_record="skip")
  prepare(tmp_path / "skipped", sources.open_split(spec, "train"), BYTES)
  split = token_corpus.read_manifest(tmp_path / "skipped")["splits"]["train"]
  assert split["totals"]["bad"] == 2
  assert split["totals"]["documents"] == 698
  lines[:20] = ["{"] * 20
  path.write_text("\n".join(lines))
  with pytest.raises(UserError, match="21 of 700 records"):
    prepare(tmp_path / "many", sources.open_split(spec, "train"), BYTES)


@pytest.mark.skipif(BEAM, reason="Beam is installed")
def test_without_beam_the_command_names_what_installs_it(folder, tmp_path):
  text = f"{ROOT}/configs/mlm.py:data={folder},small"
  with pytest.raises(UserError, match=r"Apache Beam.*requirements-prepare\.txt"):
    command.main(["--config", text, "--out", str(tmp_path / "out")])


def test_what_cannot_be_prepared_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(pipeline, "make_options", lambda *given: None)
  out = ["--out", str(tmp_path / "out")]
  rows = "".join(f"text {i}\t{i % 2}\n" for i in range(40))
  for name in ("train", "dev", "test"):
    (tmp_path / f"{name}.tsv").write_text(rows)
  text = f"{ROOT}/configs/classify.py:data={tmp_path},small"
  with pytest.raises(UserError, match="pre-training, translation"):
    command.main(["--config", text, *out])
  spec = prepare(tmp_path / "prepared", Docs(["a text"]), BYTES)
  text = f"{ROOT}/configs/mlm.py:data={spec['folder']},small"
  with pytest.raises(UserError, match="prepared corpus already"):
    command.main(["--config", text, *out])


# Runs


@pytest.fixture
def in_process(monkeypatch):
  """Replaces Beam by a loop."""

  def run(task, numbers, folder, options):
    for number in numbers:
      pipeline.call(task, number, folder)

  monkeypatch.setattr(pipeline, "make_options", lambda *given: None)
  monkeypatch.setattr(pipeline, "run", run)


def test_a_run_on_a_prepared_corpus_is_that_on_the_raw_one(corpus, tmp_path, in_process):
  out = tmp_path / "prepared"
  text = f"{ROOT}/configs/mlm.py:data={corpus}/prose,small"
  assert not command.main(["--config", text, "--out", str(out)])
  splits = token_corpus.read_manifest(out)["splits"]
  assert [*splits] == ["train", "validation"]
  raw = train_config("mlm.py:data={folder}/prose,small", corpus, tmp_path / "raw")
  ours = train_config(f"mlm.py:data={out},small", corpus, tmp_path / "ours")
  for name, weight in raw.items():
    np.testing.assert_array_equal(ours[name], weight, name)
  assert metrics(tmp_path / "raw") == metrics(tmp_path / "ours")


def metrics(run):
  """Returns the loss and the chrF of each line that a run has logged."""
  lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
  return [(line["loss"], line.get("chrf")) for line in lines]


@pytest.mark.slow
def test_a_translator_learns_and_is_scored_on_a_prepared_corpus(corpus, tmp_path, in_process):
  out = tmp_path / "prepared"
  assert not command.main(
    ["--config", f"{ROOT}/configs/multi30k.py:data={corpus},small", "--out", str(out)]
  )
  changes = {"evaluate.decode_every": 2, "checkpoint.best_metric": "bleu"}
  raw = train_config("multi30k.py:data={folder},small", corpus, tmp_path / "raw", **changes)
  ours = train_config(f"multi30k.py:data={out},small", corpus, tmp_path / "ours", **changes)
  for name, weight in raw.items():
    np.testing.assert_array_equal(ours[name], weight, name)
  assert metrics(tmp_path / "raw") == metrics(tmp_path / "ours")
  assert metrics(tmp_path / "raw")[-1][1] > 0


def test_another_tokenizer_is_refused_before_training(corpus, tmp_path):
  spec = prepare(tmp_path / "prepared", Docs(["a text"] * 30), BYTES)
  text = f"mlm.py:data={spec['folder']},small"
  with pytest.raises(UserError, match=r"vocabulary has no <mask>"):
    train_config(text, corpus, tmp_path / "run")
  other = {"task.tokenizer": {"name": "char"}}
  with pytest.raises(UserError, match=f"{spec['folder']} holds tokens"):
    train_config(text, corpus, tmp_path / "other", **other)


# Beam


def start(folder, out, *flags):
  tokenizer = pathlib.Path(folder).parent / "tokenizer.json"
  if not tokenizer.exists():
    words = (folder / "part-00000.txt").read_text()[:50_000].splitlines()
    train_tokenizer({"name": "bpe", "vocab_size": 400, "special": ("<mask>",)}, words).save(
      tokenizer
    )
  words = ["--config", f"{ROOT}/configs/mlm.py:data={folder},small", "--out", str(out)]
  words += ["--config.task.data.stream=True", "--config.task.data.unit=line", "--split=train"]
  words += ["--config.task.tokenizer.name=file", f"--config.task.tokenizer.path={tokenizer}"]
  arguments = [sys.executable, "-m", "train.prepare", *words, *flags]
  pipes = dict(stderr=subprocess.PIPE, text=True, start_new_session=True)
  return subprocess.Popen(arguments, cwd=ROOT, **pipes)


def finish(process):
  _, errors = process.communicate(timeout=300)
  assert not process.returncode, errors
  return errors


@needs_beam
def test_any_number_of_beams_workers_writes_the_same_bytes(folder, tmp_path):
  errors = finish(start(folder, tmp_path / "two", "--drop_duplicates", "--direct_num_workers=2"))
  assert "tokens in 30 files" in errors
  one = ["--drop_duplicates", "--direct_num_workers=1", "--direct_running_mode=in_memory"]
  finish(start(folder, tmp_path / "one", *one))
  assert contents(tmp_path / "one") == contents(tmp_path / "two")


@needs_beam
@pytest.mark.parametrize("number, status", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_beam_goes_on_after_a_kill(folder, tmp_path, number, status):
  out = tmp_path / "out"
  process = start(folder, out)
  wait_for_files(process, out, 3)
  os.killpg(process.pid, number)
  assert process.wait(60) == status
  assert len(list(out.glob("train/part-*.json"))) < 30
  finish(start(folder, out))
  finish(start(folder, tmp_path / "whole"))
  assert contents(out) == contents(tmp_path / "whole")


@needs_beam
def test_beam_names_a_bad_record_and_unknown_flags(folder, tmp_path):
  (tmp_path / "raw").mkdir()
  (tmp_path / "raw" / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
  (tmp_path / "raw" / "part-00000.txt").write_text("a text with words\n")
  process = start(tmp_path / "raw", tmp_path / "out")
  _, errors = process.communicate(timeout=300)
  assert process.returncode == 2
  assert "error: " in errors
  assert "a.jsonl, line 2" in errors.splitlines()[-1]
  process = start(folder, tmp_path / "other", "--direct_num_worker=2")
  _, errors = process.communicate(timeout=300)
  assert process.returncode == 2
  assert "did you mean --direct_num_workers" in errors
  assert not (tmp_path / "other").exists()
