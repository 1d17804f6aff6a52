"""train/record/workdir.py: one run, one folder, one process."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import jax
import pytest
from ml_collections import ConfigDict

from train.common import files
from train.common.errors import UserError
from train.record import data_files, provenance, workdir
from train.record.config import frozen, override

PLAIN = {"seed": 0, "log_every": 10, "data": {"workers": 2, "langs": ("en", "de")}, "lr": 1.0}


def config(**changes):
  found = frozen(PLAIN)
  return override(found, [f"{key.replace('__', '.')}={changes[key]}" for key in changes])


def refusal(function, *args):
  with pytest.raises(UserError) as error:
    function(*args)
  return str(error.value)


class Device:
  """As jax.devices() of an H200 gives."""

  platform, device_kind = "gpu", "NVIDIA H200"

  def __str__(self):
    return "cuda:0"


def test_an_accelerator_is_written_down_with_its_kind():
  assert provenance.device_name(Device()) == "NVIDIA H200, cuda:0"
  (cpu,) = jax.devices("cpu")[:1]
  assert provenance.device_name(cpu) == str(cpu)


def test_a_run_is_written_down_and_each_start_appended(tmp_path):
  folder = tmp_path / "a" / "b"
  for words in (["first"], ["second", "--x"]):
    with workdir.open_run(folder, config(), words, devices=["cpu:0"]):
      assert workdir.load_config(folder) == config()
  starts = json.loads((folder / "run.json").read_text())["starts"]
  assert [start["command"] for start in starts] == [["first"], ["second", "--x"]]
  assert starts[0]["devices"] == ["cpu:0"]
  assert starts[0]["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
  assert starts[0]["versions"]["jax"] == __import__("jax").__version__
  text = (folder / "config.json").read_bytes()
  assert starts[0]["config_sha256"] == hashlib.sha256(text).hexdigest()
  assert {*os.listdir(folder)} - {"patches"} == {".lock", "config.json", "run.json"}


def test_git_commit_and_changes_are_told(tmp_path, monkeypatch):
  def git(*words):
    names = ["-c", "user.name=n", "-c", "user.email=e@e"]
    done = subprocess.run(["git", "-C", tmp_path, *names, *words], capture_output=True, check=True)
    return done.stdout.decode().strip()

  (tmp_path / "train").mkdir()
  monkeypatch.setattr(provenance, "__file__", str(tmp_path / "train" / "record" / "provenance.py"))
  git("init", "-q")
  assert provenance.git() is None  # no commit yet
  git("commit", "-q", "--allow-empty", "-m", "x")
  assert provenance.git() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
  (tmp_path / "new").write_text("")
  assert provenance.git()["dirty"]
  assert provenance.patch().splitlines() == ["# not in the commit: new"]
  start = provenance.describe_start(["x"], "{}", [])
  assert provenance.differences(start) == ["the code has uncommitted changes, now and before"]
  (tmp_path / "old").write_text("one\n")
  git("add", "old")
  git("commit", "-q", "-m", "y")
  (tmp_path / "old").write_text("two\n")
  (tmp_path / "new").unlink()
  text = provenance.patch()
  git("checkout", "old")
  (tmp_path / "x.patch").write_text(text)
  git("apply", "x.patch")
  assert (tmp_path / "old").read_text() == "two\n"
  start["versions"]["jax"] = "0.1"
  commit, _, package = provenance.differences(start)
  now, before = git("rev-parse", "HEAD"), start["git"]["commit"]
  assert commit == f"the code is commit {now[:12]}, before it was {before[:12]}"
  assert package == f"jax is {provenance.versions()['jax']}, before it was 0.1"


def saved(tmp_path):
  """A run with a checkpoint."""
  workdir.open_run(tmp_path, config(), []).close()
  (tmp_path / "checkpoints" / "10").mkdir(parents=True)


def test_a_start_that_saved_nothing_is_forgotten(tmp_path):
  """Its mistakes are not held against the next: neither the config nor what it made of its data."""
  workdir.open_run(tmp_path, config(), []).close()
  (tmp_path / "checkpoints" / "10.orbax-checkpoint-tmp").mkdir(parents=True)
  for name in ("tokenizer.json", "labels.json"):
    (tmp_path / name).write_text("{}")
  workdir.open_run(tmp_path, config(seed=1), []).close()
  assert workdir.load_config(tmp_path).seed == 1
  assert not (tmp_path / "tokenizer.json").exists()
  assert not (tmp_path / "labels.json").exists()
  assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2


@pytest.mark.parametrize("name", workdir.MADE_OF_DATA)
def test_a_file_that_another_took_the_place_of_is_named(name, tmp_path, caplog):
  for file in workdir.MADE_OF_DATA:
    (tmp_path / file).write_text('["a", "b"]')
  (tmp_path / "checkpoints" / "10").mkdir(parents=True)
  (tmp_path / "config.json").write_text(workdir.config_json(config()))
  with workdir.open_run(tmp_path, config(), []) as run:
    data_files.check(tmp_path)  # an older run has no digests
    run.note(files=data_files.digests(tmp_path))
    data_files.check(tmp_path)
  (tmp_path / name).write_text('["b", "a"]')
  assert f"{tmp_path / name} is another" in refusal(data_files.check, tmp_path)
  (tmp_path / name).unlink()
  assert f"{tmp_path / name} is missing" in refusal(data_files.check, tmp_path)
  (tmp_path / name).mkdir()
  assert f"{tmp_path / name} is missing" in refusal(data_files.check, tmp_path)
  (tmp_path / "run.json").unlink()
  data_files.check(tmp_path)
  assert "run.json is missing: whether" in caplog.text


def test_another_run_is_refused_with_the_difference(tmp_path):
  saved(tmp_path)
  before = (tmp_path / "config.json").read_text(), (tmp_path / "run.json").read_text()
  message = refusal(workdir.open_run, tmp_path, config(seed=1, lr=2.5, log_every=3), [])
  rows = [line.split() for line in message.splitlines()]
  assert ["seed", "1", "0"] in rows
  assert ["lr", "2.5", "1.0"] in rows
  assert "log_every" not in message
  assert before == ((tmp_path / "config.json").read_text(), (tmp_path / "run.json").read_text())
  fewer = frozen({key: PLAIN[key] for key in PLAIN if key != "lr"})
  assert ["lr", "(absent)", "1.0"] in [
    line.split() for line in refusal(workdir.open_run, tmp_path, fewer, []).splitlines()
  ]
  workdir.open_run(tmp_path, config(), []).close()  # a refused start leaves no lock behind


def test_one_and_one_point_nought_are_two_settings(tmp_path):
  saved(tmp_path)
  other = frozen({**PLAIN, "lr": 1})
  assert ["lr", "1", "1.0"] in [
    line.split() for line in refusal(workdir.open_run, tmp_path, other, []).splitlines()
  ]


def test_what_changes_no_number_may_change(tmp_path):
  workdir.open_run(tmp_path, config(), []).close()
  changed = config(log_every=99, data__workers=0)
  workdir.open_run(tmp_path, changed, []).close()
  assert workdir.load_config(tmp_path) == changed


HOLD = """
import sys, time
from train.record import config, workdir
workdir.open_run(sys.argv[1], config.frozen({"seed": 0}), ["hold"])
print("held", flush=True)
time.sleep(60)
"""


def test_a_living_process_keeps_others_out_and_a_killed_one_does_not(tmp_path):
  command = [sys.executable, "-c", HOLD, str(tmp_path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
    assert holder.stdout.readline() == "held\n"
    message = refusal(workdir.open_run, tmp_path, frozen({"seed": 0}), [])
    assert f"process {holder.pid} on " in message
    holder.send_signal(signal.SIGKILL)
    holder.wait()
  workdir.open_run(tmp_path, frozen({"seed": 0}), []).close()


def test_the_same_process_is_kept_out_too_until_it_closes(tmp_path):
  first = workdir.open_run(tmp_path, config(), [])
  assert f"process {os.getpid()}" in refusal(workdir.open_run, tmp_path, config(), [])
  first.close()
  workdir.open_run(tmp_path, config(), []).close()


def test_other_processes_of_a_run_write_and_lock_nothing(tmp_path):
  with workdir.open_run(tmp_path / "run", config(), [], primary=False) as other:
    assert other.path == tmp_path / "run"
  assert not other.path.exists()


@pytest.mark.parametrize("inside", ["file", "file/below"])
def test_a_path_that_is_no_folder_is_told(tmp_path, inside):
  (tmp_path / "file").write_text("")
  assert str(tmp_path / inside) in refusal(workdir.open_run, tmp_path / inside, config(), [])
  assert str(tmp_path / inside) in refusal(workdir.load_config, tmp_path / inside)


def test_a_full_or_read_only_disk_is_told(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, "No space left on device", "config.json")

  monkeypatch.setattr(os, "replace", full)
  assert "No space left" in refusal(workdir.open_run, tmp_path, config(), [])
  assert not list(tmp_path.glob(".*.tmp"))


def test_no_run_names_a_near_one(tmp_path):
  workdir.open_run(tmp_path / "scan", config(), []).close()
  near = f"did you mean {tmp_path / 'scan'}?"
  assert near in refusal(workdir.load_config, tmp_path / "scn")
  assert near in refusal(workdir.load_config, tmp_path)
  (tmp_path / "scan" / "config.json").write_text("{")
  assert "config.json" in refusal(workdir.load_config, tmp_path / "scan")
  (tmp_path / "scan" / "config.json").write_text("[1]")
  assert "config.json" in refusal(workdir.load_config, tmp_path / "scan")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", int])
def test_a_value_json_cannot_hold_is_told(tmp_path, value):
  bad = ConfigDict({"model": {"x": value}})
  assert "config key model.x" in refusal(workdir.open_run, tmp_path, bad, [])


CADENCE = dict(evaluate=dict(every=5), checkpoint=dict(every=5, keep_best=1), log_every=5, seed=0)


def test_steps_and_cadence_may_change_when_a_run_goes_on(tmp_path, caplog):
  before = frozen(dict(CADENCE, steps=10, patience=0))
  with workdir.open_run(tmp_path, before, []):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
  words = ["steps=20", "patience=3", "evaluate.every=2", "checkpoint.keep_best=4", "log_every=1"]
  with workdir.open_run(tmp_path, override(before, words), []):
    pass
  for key, now, was in (
    ("patience", 3, 0),
    ("evaluate.every", 2, 5),
    ("checkpoint.keep_best", 4, 1),
    ("log_every", 1, 5),
  ):
    assert f"{key} is {now}, before it was {was}: " in caplog.text
  assert "seed" in refusal(workdir.open_run, tmp_path, override(before, ["seed=1"]), [])


def test_a_setting_of_a_later_version_has_its_default_unless_the_config_was_changed(tmp_path):
  before = frozen(dict(CADENCE, model=dict(dim=8)))
  with workdir.open_run(tmp_path, before, []):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
  now = frozen(dict(CADENCE, model=dict(dim=8, novel=0.5)))
  assert "model.novel" in refusal(workdir.open_run, tmp_path, now, [])
  other = frozen(dict(CADENCE, model=dict(dim=8, novel=0.7)))
  defaults = {"model.novel": 0.5, "model.dim": 16}
  assert "model.novel" in refusal(workdir.open_run, tmp_path, other, [], (), True, defaults)
  file, text = tmp_path / "config.json", (tmp_path / "config.json").read_text()
  file.write_text(text + " ")
  assert "model.novel" in refusal(workdir.open_run, tmp_path, now, [], (), True, defaults)
  file.write_text(text)
  workdir.open_run(tmp_path, now, [], (), True, defaults).close()


@pytest.mark.parametrize(
  "start", [dict(steps=[30, 30]), dict(steps=[30], after=0), dict(steps=[], after=0)]
)
def test_a_start_with_wrong_steps_is_named(tmp_path, start):
  (tmp_path / "run.json").write_text(json.dumps(dict(starts=[start])))
  message = refusal(workdir.starts, tmp_path)
  assert str(tmp_path / "run.json") in message
  assert f"steps {start['steps']}" in message


def test_a_missing_config_beside_checkpoints_is_named(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  assert "config.json is missing beside" in refusal(workdir.load_config, tmp_path)


def test_an_interrupted_write_leaves_the_old_text(tmp_path, monkeypatch):
  file = tmp_path / "a.json"
  files.write_atomically(file, "old")

  def stop(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "fsync", stop)
  with pytest.raises(KeyboardInterrupt):
    files.write_atomically(file, "new")
  assert (os.listdir(tmp_path), file.read_text()) == (["a.json"], "old")
