"""A checkpoint that is no longer what was written is named, set aside, and never read."""

import json
import random
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import pytest

from tests.helpers import FIXTURES
from train import checkpoints
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.record import checksums, config, workdir


class Position:
  def get_state(self):
    return {"position": 1, "carried": []}


@pytest.fixture
def run(tmp_path):
  """A workdir with checkpoints of three steps; the second has the best score, the highest."""
  policy = dict(keep_latest=3, best_metric="bleu", best_mode="max")
  cfg = json.loads((FIXTURES / "formats" / "2" / "translation" / "config.json").read_text())
  cfg["checkpoint"] |= policy
  (tmp_path / "config.json").write_text(json.dumps(cfg))
  with Checkpoints(tmp_path, **policy) as checkpoints:
    for step, bleu in ((1, 0.1), (2, 0.3), (3, 0.2)):
      params = {"w": jnp.full(1000, float(step)), "b": jnp.arange(3.0)}
      state = dict(step=jnp.int32(step), params=params, opt_state={"m": jnp.ones(1000)})
      checkpoints.save(state, Position())
      checkpoints.score(step, dict(bleu=bleu))
  return tmp_path


def files(folder):
  return sorted(file for file in folder.rglob("*") if file.is_file())


def test_each_checkpoint_has_checksums_and_is_sound(run):
  folder = run / "checkpoints"
  assert checksums.steps(folder) == [1, 2, 3]
  assert [checksums.problems(folder / str(step)) for step in (1, 2, 3)] == [[], [], []]
  written = json.loads((run / "checksums/3.json").read_text())
  assert written["format"] == 1
  assert len(written["files"]) == len(files(folder / "3"))


def test_checksums_go_with_their_checkpoints(run):
  with Checkpoints(run, keep_latest=1) as checkpoints:
    state = dict(step=jnp.int32(4), params={"w": jnp.ones(3)}, opt_state={})
    checkpoints.save(state, Position())
  assert [file.name for file in files(run / "checksums")] == ["4.json"]


def test_a_checkpoint_written_again_gets_other_checksums(run):
  shutil.rmtree(run / "checkpoints/3")
  with Checkpoints(run, keep_latest=3) as checkpoints:
    state = dict(step=jnp.int32(3), params={"w": jnp.ones(3)}, opt_state={})
    checkpoints.save(state, Position())
  assert checksums.problems(run / "checkpoints/3") == []


def hurts(folder):
  """name -> what to do to a file, and what is said of it."""

  def flip(file):
    content = bytearray(file.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 16
    file.write_bytes(content)

  return {
    "flipped": (flip, "other bytes than"),
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "bytes instead of"),
    "deleted": (lambda file: file.unlink(), "is missing"),
  }


@pytest.mark.parametrize("hurt", ["flipped", "truncated", "deleted"])
def test_whatever_happens_to_a_file_is_seen(hurt, run):
  """To each file that has bytes, one at a time."""
  folder = run / "checkpoints/3"
  do, told = hurts(folder)[hurt]
  tried = [
    file for file in files(folder) if file.stat().st_size and file.name != checksums.COMMITTED
  ]
  assert len(tried) > 5
  for file in tried:
    before = file.read_bytes()
    do(file)
    (wrong,) = checksums.problems(folder)
    assert wrong.startswith(file.relative_to(folder).as_posix())
    assert told in wrong
    file.write_bytes(before)
  assert checksums.problems(folder) == []


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("bits", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_no_flipped_bit_gives_other_weights(bits, recorded, run):
  """Single bits of the last checkpoint, finished or not, and of its record."""
  rng, record = random.Random(0), run / "checksums/3.json"
  if not recorded:  # killed before it was written
    record.unlink()
  tried = [file for file in files(run / "checkpoints/3") if file.stat().st_size]
  tried += [record] * recorded
  for _ in range(bits):
    file = rng.choice(tried)
    before = file.read_bytes()
    content = bytearray(before)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    policy = dict(keep_latest=3, best_metric="bleu", best_mode="max")
    with Checkpoints(run, **policy) as checkpoints:
      params, (step,) = checkpoints.read("latest")
      assert set(params["w"].tolist()) == {float(step)}
      assert step == 2 or file.name == checksums.COMMITTED
      (best,) = checkpoints.read("best")[1]
      assert best == 2
    file.write_bytes(before)


def test_a_file_too_many_is_seen(run):
  (run / "checkpoints/3/params/more").write_text("x")
  assert checksums.problems(run / "checkpoints/3") == ["params/more was added"]


def test_damaged_ones_are_set_aside_until_one_is_sound(run, caplog):
  for step in (2, 3):
    data = next(file for file in files(run / f"checkpoints/{step}/params") if "d" in file.parts)
    data.write_bytes(b"")
  with Checkpoints(run) as checkpoints:
    with pytest.raises(UserError, match=r"3 is damaged: params/"):
      checkpoints.params("3")
    params, steps = checkpoints.read("latest")  # as training would continue
    assert (steps, float(params["w"][0])) == ([1], 1)
  checksums.set_damaged_aside(run)
  assert checksums.steps(run / "checkpoints") == [1]
  assert sorted(re.sub("-.*", "", folder.name) for folder in (run / "damaged").iterdir()) == [
    "2",
    "3",
  ]
  assert [file.name for file in files(run / "checksums")] == ["1.json"]
  with Checkpoints(run) as checkpoints:
    assert checkpoints.latest == 1
    assert float(checkpoints.params("latest")["w"][0]) == 1
  checksums.set_damaged_aside(run)  # nothing more to do
  assert checksums.steps(run / "checkpoints") == [1]


def test_a_run_goes_on_after_the_last_sound_step(tmp_path):
  cfg = config.frozen({"steps": 3})
  workdir.open_run(tmp_path, cfg, ["first"]).close()
  with Checkpoints(tmp_path, keep_latest=3) as saved:
    for step in (2, 3):
      state = dict(step=jnp.int32(step), params={"w": jnp.ones(3)}, opt_state={})
      saved.save(state, Position())
  (tmp_path / "checkpoints/3/data/data.json").unlink()
  with workdir.open_run(tmp_path, config.frozen({"steps": 5}), ["second"]) as run:
    assert (run.last_step, run.steps_before, run.raised_after) == (2, 3, 2)


def test_a_checkpoint_without_checksums_is_unfinished(run, caplog):
  """A kill between commit and checksums leaves one."""
  (run / "checksums/3.json").unlink()
  with Checkpoints(run) as checkpoints:
    assert checkpoints.steps("latest") == [2]
  checksums.set_damaged_aside(run)
  assert checksums.committed(run / "checkpoints") == [1, 2]
  assert "checksums/3.json is missing: it was removed, or saving was interrupted" in caplog.text


def test_where_none_is_sound_the_run_starts_anew_and_its_lines_are_kept(run, caplog):
  (run / "metrics.jsonl").write_text('{"step": 3}\n')
  shutil.rmtree(run / "checksums")
  with Checkpoints(run) as checkpoints, pytest.raises(UserError, match="step 3 has no checksums"):
    checkpoints.read("latest")
  checksums.set_damaged_aside(run)
  messages = [record.getMessage() for record in caplog.records]
  assert [message.rpartition(", and the run ")[2] for message in messages[-3:]] == [
    "goes on from the checkpoint before",
    "goes on from the checkpoint before",
    "starts anew",
  ]
  (kept,) = (run / "damaged").glob("metrics-*.jsonl")
  assert kept.read_text() == '{"step": 3}\n'


def test_a_copy_under_another_step_is_seen(run):
  shutil.rmtree(run / "checkpoints/3")
  shutil.copytree(run / "checkpoints/2", run / "checkpoints/3")
  shutil.copy(run / "checksums/2.json", run / "checksums/3.json")
  assert checksums.problems(run / "checkpoints/3") == ["it is a copy of step 2"]
  assert not checksums.problems(run / "checkpoints/2")


def test_one_of_an_older_format_is_accepted_without_checksums_and_gets_them(run):
  (run / "checksums/3.json").unlink()
  file = run / "checkpoints/3" / checksums.METADATA
  text = file.read_text()
  file.write_text(text.replace('"format": 3', '"format": 2'))
  assert file.read_text() != text
  checksums.set_damaged_aside(run)
  with Checkpoints(run, clean=True) as checkpoints:
    assert checkpoints.latest == 3
  assert checksums.problems(run / "checkpoints/3") == []
  (run / "checksums/3.json").unlink()
  (run / "checkpoints/3/params/_METADATA").unlink()
  assert checksums.problems(run / "checkpoints/3") == ["params/_METADATA is missing"]


def test_of_older_checkpoints_names_and_sizes_are_compared(run):
  data = next(file for file in files(run / "checkpoints/1/params") if "d" in file.parts)
  data.write_bytes(data.read_bytes()[:-1])
  checksums.set_damaged_aside(run)
  assert checksums.steps(run / "checkpoints") == [2, 3]


def test_one_that_is_not_to_be_kept_is_there_until_the_next(run):
  with Checkpoints(run, keep_latest=1, keep_best=1, best_metric="score") as saved:
    for step, keep in ((4, False), (5, True), (6, False)):
      state = dict(step=jnp.int32(step), params={"w": jnp.ones(3)}, opt_state={})
      saved.save(state, Position(), keep)
      saved.score(step, dict(score=-step))  # the lowest is the best
      saved.wait()
      assert step in checksums.steps(run / "checkpoints")
    # 6 is the newest, 5 the latest and the best to be kept
    assert checksums.steps(run / "checkpoints") == [5, 6]
    assert saved.steps("best") == saved.steps("average:1") == [5]
    saved.save(state, Position(), keep=True)  # the same step
    saved.wait()
    assert saved.steps("best") == [6]
    assert checksums.steps(run / "checkpoints") == [6]


def test_one_is_removed_when_another_is_finished(run, monkeypatch):
  seen, write = [], checksums.write

  def record(checkpoint, **facts):
    seen.append(checksums.steps(run / "checkpoints"))
    write(checkpoint, **facts)

  monkeypatch.setattr(checksums, "write", record)
  with Checkpoints(run, keep_latest=1) as saved:
    for step in (4, 5):
      state = dict(step=jnp.int32(step), params={"w": jnp.ones(3)}, opt_state={})
      saved.save(state, Position())
  assert seen == [[1, 2, 3], [4]]


def test_what_is_removed_while_it_is_read_is_read_anew(run, monkeypatch):
  with Checkpoints(run) as saved:
    load = Checkpoints.load

    def lose(self, step, parts):
      if step == 3:
        checksums.remove(run / "checkpoints/3")
      return load(self, step, parts)

    monkeypatch.setattr(Checkpoints, "load", lose)
    params, steps = saved.read("latest")
    assert (steps, float(params["w"][0])) == ([2], 2)
    with pytest.raises(UserError, match=r"no checkpoint '3'; .* steps \[1, 2\]"):
      saved.params("3")


@pytest.mark.parametrize(
  "text", ["{", "[]", '{"files": [1]}', '{"files": {"a": 1}}', '{"files": {"a": []}}']
)
def test_damaged_checksums_are_reported(run, text):
  (run / "checksums/3.json").write_text(text)
  (wrong,) = checksums.problems(run / "checkpoints/3")
  assert wrong.endswith("3.json is damaged itself")


@pytest.mark.parametrize("clean", [False, True])
def test_only_who_trains_removes_a_save_in_progress(clean, run):
  progress = run / "checkpoints/10.orbax-checkpoint-tmp"
  (progress / "params").mkdir(parents=True)
  with Checkpoints(run, clean=clean) as checkpoints:
    state = dict(step=jnp.int32(4), params={"w": jnp.ones(3)}, opt_state={})
    checkpoints.save(state, Position())  # waits for the cleaning
  assert progress.exists() == (not clean)


# The command line


def asked(capsys, *words):
  status = checkpoints.main(list(map(str, words)))
  return status, " ".join(capsys.readouterr().out.split())


def test_check_names_what_is_damaged(run, capsys):
  status, told = asked(capsys, "check", run)
  assert (status, told.count(": sound")) == (0, 3)
  (run / "checkpoints/2/data/data.json").unlink()
  (run / "checksums/1.json").unlink()
  status, told = asked(capsys, "check", run)
  assert status == 1
  assert "step 2: data/data.json is missing" in told
  assert "checksums/1.json is missing" in told
  assert "step 3: sound" in told


def test_list_tells_steps_and_sizes(run, capsys):
  status, told = asked(capsys, "list", run)
  assert status == 0
  for step in (1, 2, 3):
    assert f"│ {step} │" in told


def test_diff_tells_which_weights_differ_and_by_how_much(run, capsys):
  assert asked(capsys, "diff", run, f"{run}@3") == (0, "the same weights")
  status, told = asked(capsys, "diff", f"{run}@1", f"{run}@3")
  assert status == 1
  assert "│ w │ (1000,) │ (1000,) │ 2 │" in told
  assert "│ b │" not in told  # it is the same


def test_diff_takes_the_best_by_the_metric_of_the_run(run, capsys):
  assert asked(capsys, "diff", f"{run}@best", f"{run}@2") == (0, "the same weights")


def test_list_names_the_run_and_diff_names_whole_weights(run, capsys):
  assert asked(capsys, "list", run)[1].startswith(f"{run} ")
  name = "/".join(["part"] * 20)
  with Checkpoints(run, keep_latest=3) as saved:
    for step in (4, 5):
      state = dict(step=jnp.int32(step), params={name: jnp.full(3, step)}, opt_state={})
      saved.save(state, Position())
  assert name in "".join(re.findall(r"[\w/]+", asked(capsys, "diff", f"{run}@4", f"{run}@5")[1]))


@pytest.mark.parametrize(
  "words, message",
  [
    (["check", "/nowhere"], "no such folder"),
    (["check", "EMPTY"], "holds no finished checkpoints"),
    (["check", "RUN@3"], "leave out @"),
    (["diff", "RUN"], "diff compares two"),
  ],
)
def test_what_cannot_be_asked(words, message, run):
  empty = run / "empty"
  empty.mkdir()
  shutil.copy(run / "config.json", empty)
  folders = {"RUN": str(run), "EMPTY": str(empty)}
  with pytest.raises(UserError, match=message):
    checkpoints.main([re.sub("RUN|EMPTY", lambda m: folders[m[0]], word) for word in words])


def test_whoever_waits_for_a_save_returns_when_it_is_finished(tmp_path, monkeypatch):
  """The main thread and the one that leaves after a signal may wait for the same save."""

  def write_slowly(path, **facts):
    time.sleep(0.5)
    write(path, **facts)

  write = checksums.write
  monkeypatch.setattr(checksums, "write", write_slowly)
  with Checkpoints(tmp_path) as saved:
    saved.save(dict(step=jnp.int32(1), params={"w": jnp.ones(3)}, opt_state={}), Position())

    def wait():
      saved.wait()
      return (tmp_path / "checksums/1.json").exists()

    with ThreadPoolExecutor(2) as threads:
      assert all(waited.result() for waited in [threads.submit(wait) for _ in range(2)])
