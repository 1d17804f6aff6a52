"""Runs in buckets, on servers on loopback: the same runs as on a disk, whatever happens to them."""

import gzip
import json
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from experiments import compare
from experiments.analysis import buckets as measuring
from tests import helpers
from tests.helpers import assert_same_arrays
from train import api, checkpoints, evaluate, export, inference, predict, resolve
from train.checkpoint import Checkpoints
from train.common import buckets, paths
from train.common.errors import UserError
from train.common.trees import flatten
from train.data import reading, sources
from train.data.bad_records import BadRecords
from train.record import checksums, lock, staging, workdir
from train.record.writer import read_metrics

TIMED = {"time", "tokens_per_second", "stall_share", "padding_share", "compiles", "seconds"}
TIMED |= {"step_ms", "mfu", "recompiles", "host_memory_gb", "device_memory_gb"}


@pytest.fixture
def folder(google, request):
  """Returns a new folder of a test in a bucket."""
  google.requests.clear()
  yield paths.of(f"{google.prefix}/{request.node.name}")
  google.delay, google.broken, google.denied, google.breaks_at = 0.0, False, False, ""


CHANGES = {"steps": 4, "log_every": 1, "checkpoint.every": 2, "evaluate.every": 4}
CHANGES |= {"evaluate.decode_every": 0, "checkpoint.best_metric": "loss", "workers": 0}
CHANGES |= {"schedule.warmup_steps": 1, "checkpoint.keep_latest": 1, "checkpoint.keep_best": 1}


def settings(**changes):
  return api.config(f"{helpers.ROOT}/configs/scan.py:small", CHANGES | changes)


def numbers(path):
  return [{k: v for k, v in x.items() if k not in TIMED} for x in read_metrics(path)]


def weights(path):
  with Checkpoints(path, keep_latest=9) as saved:
    parts = saved.load(saved.latest, dict(params=None, optimizer=None))
    return {name: np.asarray(x) for name, x in flatten(parts).items()}


def assert_same(first, second):
  assert numbers(first) == numbers(second)
  assert_same_arrays(weights(first), weights(second))


def files(path):
  return set(paths.contents(path, digests=False))


@pytest.fixture(scope="session")
def on_disk(tmp_path_factory):
  """Returns a run of four steps on a disk."""
  path = tmp_path_factory.mktemp("disk") / "run"
  api.train(settings(), path)
  return path


def ended_by(error, after):
  """Returns `checksums.write` that raises after some records."""
  write, count = checksums.write, 0

  def counted(*args, **kwargs):
    nonlocal count
    count += 1
    if count > after:
      raise error
    write(*args, **kwargs)

  return counted


def train_with_a_pause(path):
  """Trains four steps, but the record of the second save is not written at the first try."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checksums, "write", ended_by(UserError("the end"), after=1))
    with pytest.raises(UserError, match="the end"):
      api.train(settings(), path)
  assert files(path / "checksums") == {"2.json"}
  assert (path / "checkpoints" / "4" / checksums.COMMITTED).exists()
  api.train(settings(), str(path))


def test_a_run_in_a_bucket_is_the_run_on_a_disk(folder, on_disk):
  train_with_a_pause(folder)
  assert_same(folder, on_disk)
  written = {name for name in files(on_disk) if "checkpoints" not in name and name != ".lock"}
  assert {name.partition(".")[0] for name in written} <= {
    name.partition(".")[0] for name in files(folder)
  }
  assert len([name for name in files(folder) if name.startswith("tensorboard")]) == 2
  assert not checksums.problems(folder / "checkpoints" / "4")
  assert not [name for name in files(folder) if name.startswith("checkpoints/2/")]


@pytest.mark.slow
def test_a_run_in_a_bucket_of_amazon_is_the_run_on_a_disk(amazon, on_disk):
  path = paths.of(f"{amazon.prefix}/run")
  train_with_a_pause(path)
  assert_same(path, on_disk)
  with workdir.open_run(path, settings(), []), pytest.raises(UserError, match="in use by process"):
    workdir.open_run(path, settings(), [])
  assert not checksums.problems(path / "checkpoints" / "4")


def test_data_are_read_in_a_bucket(folder, tmp_path):
  for place in (tmp_path, folder):
    for name, content in (("a.txt", b"one\n"), ("deep/b.txt.gz", gzip.compress(b"two\nthree\n"))):
      (place / name).parent.mkdir(exist_ok=True)
      (place / name).write_bytes(content)
    found = reading.find_files("data", f"{place}/**/*.txt*")
    assert [path.relative_to(place).as_posix() for path in found] == ["a.txt", "deep/b.txt.gz"]
    assert reading.find_files("data", str(place), (".txt",)) == found
    assert reading.find_files("data", f"{place}/a.txt") == found[:1]
    lines = [list(reading.read_lines(path, BadRecords("error"))) for path in found]
    assert lines == [["one"], ["two", "three"]]
    with pytest.raises(UserError, match=f"there is no file {place}/b.txt; did you mean a.txt"):
      reading.find_files("data", f"{place}/b.txt")
  files = [place / "deep" / "b.txt.gz" for place in (tmp_path, folder)]
  assert reading.file_digest(files[0]) == reading.file_digest(files[1])
  assert pickle.loads(pickle.dumps(files[1])) == files[1]  # for data workers


@pytest.mark.slow
def test_commands_read_and_write_in_a_bucket(folder, google, tmp_path, capsys):
  api.train(settings(), folder)
  evaluate.main(["--workdir", str(folder), "--split", "test", "--limit", "8"])
  results = json.loads((folder / "results.json").read_text())
  assert results["steps"] == [4]
  written = files(folder / "evaluations")
  assert written == {f"test-first8-latest-beam1{end}" for end in (".json", ".jsonl")}, written
  predictor = inference.load(str(folder))
  assert len(predictor(["jump twice", "walk"])) == 2
  predict.main(["--workdir", str(folder), "jump twice"])
  capsys.readouterr()
  assert not checkpoints.main(["check", str(folder)])
  assert "step 4: sound" in capsys.readouterr().out
  assert not checkpoints.main(["list", str(folder)])
  assert not checkpoints.main(["diff", f"{folder}@4", str(folder)])
  assert resolve.load_again(str(folder)) == settings()
  init = f"{helpers.ROOT}/configs/scan.py:small"
  changes = CHANGES | {"init_from.workdir": str(folder), "task.tokenizer.name": "file"}
  changes |= {"task.tokenizer.path": f"{folder}/tokenizer.json", "steps": 2}
  api.train(api.config(init, changes), tmp_path / "from")
  name = "tokenizer.json"
  assert (tmp_path / "from" / name).read_text() == (folder / name).read_text()
  compare.main([str(folder), str(tmp_path / "from"), "--out", str(tmp_path / "compared")])
  assert str(folder) in (tmp_path / "compared" / "compare.md").read_text()
  with pytest.raises(UserError, match=f"{folder.name}x: .*no such folder.*did you mean {folder}"):
    workdir.load_config(f"{folder}x")


def held(folder, number=3, **facts):
  """Writes a lease that a process holds, which is not of this machine unless `facts` say so."""
  content = dict(holder="process 7 on there", machine="there", pid=7, started="1", id="x")
  text = json.dumps(content | dict(renewed=time.time()) | facts)
  (folder / ".lock" / str(number)).write_bytes(text.encode())


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(lock, "LEASE", 1.0)
  monkeypatch.setattr(lock, "RENEW", 0.1)
  monkeypatch.setattr(lock, "POLL", 0.05)
  monkeypatch.setattr(staging, "EVERY", 0.1)


def test_a_run_is_locked_for_one_process(folder, quick):
  with workdir.open_run(folder, settings(), []):
    words = rf"{folder}: in use by process {os.getpid()} on .*use another --workdir"
    with pytest.raises(UserError, match=words):
      workdir.open_run(folder, settings(), [])
  workdir.open_run(folder, settings(), []).close()
  assert files(folder / ".lock") == {"2"}


def test_the_lease_of_a_process_that_has_ended_is_free(folder, quick):
  here = dict(machine=lock._machine(), started=lock._started(os.getpid()))
  for number, facts in enumerate((dict(pid=2**22 + 1), dict(pid=os.getpid()))):
    held(folder, 3 + 2 * number, **here | facts)
    began = time.monotonic()
    lock.lock(folder).close()
    assert time.monotonic() - began < lock.LEASE
  held(folder, 9, renewed=time.time() - 2 * lock.LONG_AGO)
  lock.lock(folder).close()


def test_a_lease_of_another_machine_is_waited_for(folder, quick):
  held(folder)
  began = time.monotonic()
  taken = lock.lock(folder)
  assert time.monotonic() - began > lock.LEASE
  taken.close()
  held(folder, 9)
  renewing = threading.Timer(0.3, held, [folder, 9], dict(renewed=1e12))
  renewing.start()
  with pytest.raises(UserError, match="in use by process 7 on there"):
    lock.lock(folder)
  renewing.join()


def test_one_of_two_takes_a_free_lease(folder, quick):
  held(folder, released=True)
  results = []

  def take():
    try:
      results.append(lock.lock(folder))
    except UserError as error:
      results.append(error)

  threads = [threading.Thread(target=take) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  (winner,) = (result for result in results if isinstance(result, lock.Lease))
  winner.close()


def test_a_run_that_was_taken_over_writes_no_more(folder, quick):
  run = workdir.open_run(folder, settings(), [])
  (run.local / "metrics.jsonl").write_text("ours")
  run.upload()
  (folder / ".lock" / "9").write_text(json.dumps(dict(holder="process 7 on there")))
  (folder / "metrics.jsonl").write_text("theirs")
  run.lock.thread.join(10)
  (run.local / "metrics.jsonl").write_text("ours again")
  with pytest.raises(UserError, match="process 7 on there has taken over"):
    run.upload()
  with pytest.raises(UserError, match="has taken over"):
    run.close()
  assert (folder / "metrics.jsonl").read_text() == "theirs"


def test_what_is_appended_is_uploaded_and_fetched_again(folder, quick):
  run = workdir.open_run(folder, settings(), [])
  (run.local / "metrics.jsonl").write_text("1")
  (run.local / "tensorboard").mkdir()
  (run.local / "tensorboard" / "events").write_text("x")
  for _ in range(200):  # the thread does it
    if {"metrics.jsonl", "tensorboard/events"} <= files(folder):
      break
    time.sleep(0.05)
  (run.local / "metrics.jsonl").write_text("12")
  run.close()
  assert (folder / "metrics.jsonl").read_text() == "12"
  with workdir.open_run(folder, settings(), []) as again:
    assert (again.local / "metrics.jsonl").read_text() == "12"
    assert again.local.name == folder.name  # the title of its pictures
    assert staging.destination(again.local / "a" / "b") == folder / "a" / "b"
    (again.local / "metrics.jsonl").unlink()
  assert not (folder / "metrics.jsonl").exists()


def checkpoint(folder, step, record=True):
  """Writes files as of a checkpoint."""
  path = folder / "checkpoints" / str(step)
  metadata = dict(custom_metadata=dict(format=3))
  (path / "params" / "weights").write_bytes(b"w" * step)
  (path / checksums.METADATA).write_text(json.dumps(metadata))
  (path / checksums.COMMITTED).write_text("")
  if record:
    checksums.write(path)
  return path


def test_damage_is_found_and_set_aside(folder):
  first, second = (checkpoint(folder, step) for step in (1, 2))
  assert checksums.steps(folder / "checkpoints") == [1, 2]
  (second / "params" / "weights").write_bytes(b"xx")
  assert checksums.problems(second) == ["params/weights has other bytes than were written"]
  assert not checksums.problems(second, quick=True)
  unmarked = checkpoint(folder, 3)
  (unmarked / checksums.COMMITTED).unlink()  # a kill in a save, or as it was removed
  checksums.set_damaged_aside(folder)
  assert checksums.steps(folder / "checkpoints") == [1]
  assert not unmarked.exists()
  (aside,) = (folder / "damaged").iterdir()
  assert files(aside) == {"params/weights", checksums.METADATA, checksums.COMMITTED}
  assert files(folder / "checksums") == {"1.json"}
  checksums.remove(first)
  assert not checksums.steps(folder / "checkpoints")
  assert not files(folder / "checksums")


def test_a_run_may_be_copied_out_of_a_bucket_and_into_one(folder, tmp_path):
  path = checkpoint(folder, 2)
  for name in files(folder):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  copied = tmp_path / "checkpoints" / "2"
  assert not checksums.problems(copied)
  (copied / "params" / "weights").write_bytes(b"xx")
  assert checksums.problems(copied) == ["params/weights has other bytes than were written"]
  (copied / "params" / "weights").write_bytes(b"ww")
  checksums.write(copied)  # with SHA-256
  record = tmp_path / "checksums" / "2.json"
  (folder / "checksums" / "2.json").write_bytes(record.read_bytes())
  assert not checksums.problems(path)
  (path / "params" / "weights").write_bytes(b"xx")
  assert checksums.problems(path) == ["params/weights has other bytes than were written"]


def test_a_bucket_without_permission_is_named(folder, google):
  google.denied = True
  with pytest.raises(Exception) as caught:
    workdir.open_run(folder, settings(), [])
  message = buckets.trouble(caught.value)
  assert "no permission" in message
  assert "gcloud auth application-default login" in message


def test_a_bucket_that_is_not_there_is_named(google):
  with pytest.raises(UserError, match="no such bucket"):
    workdir.open_run("gs://another-bucket/run", settings(), [])


@pytest.mark.slow
def test_a_network_that_fails_for_a_while_is_waited_for(folder, google, on_disk, caplog):
  def mend():
    while not google.broken:
      time.sleep(0.05)
    time.sleep(40)  # gcsfs itself tries for half a minute
    google.breaks_at, google.broken = "", False

  google.breaks_at = f"{folder.name}%2Fcheckpoints%2F2%2F"
  threading.Thread(target=mend, daemon=True).start()
  api.train(settings(), folder)
  assert "the bucket cannot be reached" in caplog.text
  assert_same(folder, on_disk)


@pytest.mark.slow
def test_a_network_that_fails_for_good_ends_the_run_which_can_go_on(folder, google, on_disk):
  google.breaks_at = f"{folder.name}%2Fcheckpoints%2F4%2F"
  failed = train_as_a_command(folder)
  assert failed.returncode == 2, failed.stderr
  last = failed.stderr.splitlines()[-1]
  assert last.startswith(f"error: {folder}: the bucket could not be reached for 5 s"), failed.stderr
  assert "start the same command again" in last
  google.breaks_at, google.broken = "", False
  ended = train_as_a_command(folder)
  assert ended.returncode == 0, ended.stderr
  assert "going on after step 2 of 4" in ended.stderr
  assert_same(folder, on_disk)


def train_as_a_command(folder):
  command = [sys.executable, "-m", "train.main", "--workdir", str(folder)]
  command += ["--config", "configs/scan.py:small"]
  command += [f"--config.{key}={value}" for key, value in CHANGES.items()]
  environment = os.environ | dict(SCRIPTORIUM_BUCKET_SECONDS="5")
  options = dict(cwd=helpers.ROOT, env=environment, capture_output=True, text=True, timeout=300)
  return subprocess.run(command, check=False, **options)


@pytest.mark.parametrize("place", ["gs://", "gs:///run", "s3://*/run", "gs://b[ab]/run"])
def test_a_path_without_the_name_of_a_bucket_is_refused(place):
  spec = {"name": "text", "splits": {"train": place}}
  for use in (lambda: paths.of(place), lambda: sources.open_split(spec, "train")):
    with pytest.raises(UserError, match=r"names no bucket: write .*://BUCKET/"):
      use()


def test_what_is_only_on_a_disk_is_refused_in_a_bucket(google):
  with pytest.raises(UserError, match=f"--out {google.prefix}/export .*disk"):
    export.main(["--workdir", "run", "--out", f"{google.prefix}/export"])
  for given in ({"folder": "gs://b/d"}, {"splits": {"train": "gs://b/d/*.arrow"}}):
    with pytest.raises(UserError, match=r"gs://b/d.* disk .*Parquet"):
      sources.open_split({"name": "arrow", "columns": ("text",), **given}, "train")


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  buckets.file_system.cache_clear()
  with pytest.raises(UserError, match=r"gs://.*gcsfs.*requirements-buckets.txt"):
    paths.of("gs://bucket/run").exists()
  buckets.file_system.cache_clear()


@pytest.mark.slow
def test_a_disk_and_a_bucket_are_compared(folder, tmp_path, capsys):
  command = ["--workdirs", str(tmp_path), str(folder), "--repeats", "1"]
  measuring.main([*command, "--steps", "30", "--every", "10"])
  rows = capsys.readouterr().out.splitlines()
  assert [row.split(" | ")[0].strip("| ") for row in rows[-2:]] == [str(tmp_path), str(folder)]
