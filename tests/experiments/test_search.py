"""Searches: the space, the study that workers share, and what is left when one is killed."""

import fcntl
import json
import math
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from experiments import search
from experiments.tools import runs, space
from experiments.tools.launch import launchers
from experiments.tools.search import findings, study, worker
from experiments.tools.space import Choice, Float, Int
from tests.experiments import fake_worker
from train.common.errors import UserError
from train.record import config
from train.record.writer import read_metrics
from train.resolve import load

ROOT = pathlib.Path(__file__).parents[2]
CHANGES = {"task.data.holdout": 20, "evaluate.decode_every": 0, "loggers": ()}
CHANGES |= {"schedule.warmup_steps": 1, "log_every": 5}
FILE = f"""
from experiments.tools.runs import Run
from experiments.tools.space import Choice, Float, Int, Search

def runs(scale):
  yield Run("scan", "configs/scan.py:small", {CHANGES | {"evaluate.every": 1}})

SEARCH = Search(
  run=next(runs("small")),
  space={{"model.dropout": Float(0.0, 0.5), "model.num_heads": Choice(2, 4, 8)}},
  metric="accuracy",
  trials=6,
)
"""


def wait_for(condition, seconds=300):
  """Waits as long as a busy machine may take."""
  until = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < until, "it did not come"
    time.sleep(0.01)


@pytest.fixture
def here(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.fixture
def fake(tmp_path, monkeypatch, here):
  """The arguments of a search whose trainings are fake_train.py, and main for them."""
  (tmp_path / "mine.py").write_text(FILE)
  monkeypatch.setattr(space, "check", lambda one, text: load(text, runs.overrides(one.run)))
  monkeypatch.setattr(worker, "POLL_SECONDS", 0.01)
  monkeypatch.setattr(findings, "draw", lambda *_: None)  # a second or two
  monkeypatch.setattr(findings, "importance", lambda *_: {})

  def main(*more):
    given = [str(tmp_path / "mine.py"), "--root", str(tmp_path), "--grace", "0.4"]
    return search.main([*given, *more], start=main.start)

  main.folder = tmp_path / "mine" / "small" / "search"
  main.start = fake_worker.start
  return main


def trials_of(folder, name="mine-small"):
  known = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/study.db")
  return known.get_trials()


def a_search(**changes):
  run = runs.Run("scan", "configs/scan.py:small", CHANGES)
  given = dict(run=run, space={"model.dropout": Float(0.0, 0.3)}, metric="loss", mode="min")
  return space.Search(**given | changes)


@pytest.mark.parametrize(
  "tried, told",
  [
    (
      {"model.num_head": Choice(2, 4)},
      r"num_head'\] may be 2, but .* did you mean model.num_heads",
    ),
    ({"model.dropout": Float(0.0, 1.2)}, r"dropout'\] may be 1.2, but .*at least 0 and below 1"),
    ({"model.num_heads": Choice(4, 7)}, r"num_heads'\] may be 7, but .*no multiple of"),
    ({"model.num_heads": Int(1, 5)}, r"num_heads'\] may be 5, but"),
    ({"batch_size": Choice(4, "many")}, r"batch_size'\] may be 'many', but .*expects int"),
    ({"batch_size": Float(4, 16)}, r"batch_size'\] may be 4.0, but .*expects int"),
    ({"batch_size": Int(0, 16)}, r"batch_size'\] may be 0, but .*at least 1"),
    ({"schedule.warmup_steps": Int(1, 90)}, r"warmup_steps'\] may be 90, but"),
    ({"optimizer.name": Choice("adamw", "adamwe")}, r"may be 'adamwe', but .*did you mean adamw"),
    ({"task.source_len": Int(0, 40)}, r"source_len'\] may be 0, but .*no use"),
    ({"model.dropout": Float(0.3, 0.1)}, r"dropout'\]: .*low is more than high"),
    ({"schedule.peak": Float(0, 0.1, log=True)}, r"peak'\]: .*above 0"),
    ({"schedule.peak": Float(0.1, math.inf)}, r"peak'\]: .*finite"),
    ({"schedule.peak": Float("a", 0.1)}, r"peak'\]: .*finite"),
    ({"batch_size": Int(4, 16.5)}, r"batch_size'\]: .*whole"),
    ({"batch_size": Choice()}, r"batch_size'\]: .*nothing to choose"),
    ({"batch_size": Choice(4, 4)}, r"batch_size'\]: .*4 twice"),
    ({"batch_size": (4, 8)}, r"known: Float, Int, Choice"),
    ({}, "the space is empty"),
    # the other, whose usual value is right, is not blamed
    ({"batch_size": Int(4, 16), "model.num_heads": Choice(8, 3)}, r"^SEARCH: space\['model.num_"),
  ],
)
def test_what_cannot_run_is_told_before_the_first_trial(tried, told, here):
  with pytest.raises(UserError, match=told):
    space.check(a_search(space=tried), "configs/scan.py:small")


@pytest.mark.parametrize(
  "wrong, told",
  [
    (dict(mode="maxx"), "SEARCH: mode is 'maxx'; known: min, max"),
    (dict(pruner="medium"), "did you mean median"),
    (dict(run=runs.Run("a", "", {"model.num_heads": 5})), "model: .*no multiple"),
    (dict(run=runs.Run("a", "", {"model.heads": 5})), "no such key"),
  ],
)
def test_and_so_is_a_search_that_is_none(wrong, told, here):
  with pytest.raises(UserError, match=told):
    space.check(a_search(**wrong), "configs/scan.py:small")


def test_what_can_run_is_not_refused(here):
  tried = {
    "schedule.peak": Float(1e-4, 1e-2, log=True),
    "model.dropout": Choice(0.0, 0.3),
    "model.num_heads": Choice(1, 2, 3),  # 36 is no multiple of the config's own 8
    "batch_size": Int(8, 64, log=True),
    "optimizer.b2": Float(0.9, 0.999),
    "task.label_smoothing": Int(0, 0),
    "optimizer.rates": Choice((("^encoder", 0.5), (".", 1.0)), ()),
  }
  run = runs.Run("scan", "", {"model.dim": 36})
  space.check(a_search(space=tried, run=run), "configs/scan.py:small")


def test_a_search_finds_what_is_best_and_says_how_to_run_it(fake, capsys, monkeypatch):
  assert fake() == 0
  told = capsys.readouterr().out
  trials = trials_of(fake.folder)
  values = {one.number: one.value for one in trials if one.state == TrialState.COMPLETE}
  best = max(values, key=values.get)
  assert len(trials) == 6
  assert values[best] == pytest.approx(10 * (1 - abs(trials[best].params["model.dropout"] - 0.1)))
  rows = [line for line in told.splitlines() if line.startswith("| ")]
  assert rows[0] == "| trial | accuracy | model.dropout | model.num_heads |"
  assert rows[1].startswith(f"| {best} | ")
  assert re.search(r"^6 trials: .*complete.*; 0 resumed", told, re.MULTILINE)
  *_, line = (fake.folder / "best.sh").read_text().splitlines()
  assert line in told
  python, *words = shlex.split(line)
  assert (python, *words[:2]) == ("python", "-m", "train.main")
  texts, overrides, rest = config.split(words[2:])
  cfg = load(config.only(texts), overrides)
  assert rest == ["--workdir", str(fake.folder.parent / "best")]
  assert cfg.model.dropout == trials[best].params["model.dropout"]
  assert cfg.task.data.holdout == 20
  # the same command has nothing left to do; --report starts nothing, whatever --trials says
  for more in ([], ["--report", "--trials", "9"]):
    assert fake(*more) == 0
    assert capsys.readouterr().out == told[told.index("| trial") :]
  assert len(trials_of(fake.folder)) == 6


def test_two_pictures_are_drawn(tmp_path):
  known = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
  for at in range(12):
    trial = known.ask()
    value = trial.suggest_float("a", 0, 1) + 0.01 * trial.suggest_int("b", 0, 3)
    trial.report(value, 1)
    known.tell(trial, **({"state": TrialState.PRUNED} if at % 4 == 3 else {"values": value}))
  weighed = findings.importance(known)
  assert weighed["a"] > 0.9 > 0.1 > weighed["b"]
  findings.draw(known, "loss", tmp_path, importances=True)
  for name in ("history", "importance"):
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
  assert findings.importance(optuna.create_study()) == {}


def test_jobs_are_workers_of_the_same_command(fake, capsys, monkeypatch):
  seen = []
  monkeypatch.setattr(search, "run_workers", lambda *given: seen.append(given) or 0)
  assert fake("--trials", "3", "--jobs", "2") == 0
  ((words, jobs),) = seen
  assert jobs == 2
  assert words[words.index("-m") :][:2] == ["-m", "experiments.search"]
  monkeypatch.setattr(search, "run_workers", None)
  assert "0 trials" in capsys.readouterr().out
  assert fake(*words[words.index("experiments.search") + 2 :]) == 0
  assert study.tally(trials_of(fake.folder))["complete"] == 3
  assert "3 trials" not in capsys.readouterr().out  # whoever waits for them tells it


def test_jobs_are_waited_for_and_stopped_together(tmp_path):
  word = f"import os; open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w')"
  assert search.run_workers([sys.executable, "-S", "-c", word], 2) == 0
  assert len(list(tmp_path.iterdir())) == 2
  assert search.run_workers([sys.executable, "-S", "-c", "raise SystemExit(2)"], 2) == 2

  def stop():
    wait_for(lambda: len(list(tmp_path.iterdir())) == 4)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=stop).start()
  command = [sys.executable, "-S", "-c", f"{word}; import time; time.sleep(900)"]
  assert search.run_workers(command, 2) == 143


def test_a_search_by_one_worker_repeats_itself(fake, tmp_path, monkeypatch):
  monkeypatch.setattr(study, "make_pruner", lambda *_: optuna.pruners.NopPruner())
  (tmp_path / "mine.py").write_text(FILE.replace("trials=6", "random=2, trials=4"))
  fake()
  first = [one.params for one in trials_of(fake.folder)]
  fake("--root", str(tmp_path / "again"))
  again = tmp_path / "again" / "mine" / "small" / "search"
  assert [one.params for one in trials_of(again)] == first
  assert len({params["model.dropout"] for params in first}) == 4


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_is_worse_than_others_were_is_stopped_early(pruner, fake, tmp_path, monkeypatch):
  (tmp_path / "mine.py").write_text(FILE.replace("trials=6", f"pruner={pruner!r}"))
  fake("--trials", "10")
  trials = trials_of(fake.folder)
  pruned = [one for one in trials if one.state == TrialState.PRUNED]
  assert pruned
  for one in pruned:
    lines = read_metrics(fake.folder / "trials" / str(one.number))
    assert one.last_step < 10
    assert one.value == pytest.approx(lines[one.last_step - 1]["accuracy"])
  assert len(trials) == 10


@pytest.mark.slow
def test_a_training_that_is_pruned_saves_and_leaves(tmp_path, here, monkeypatch):
  """The real one: where others were at 0.1 by step 5, it is at 3."""
  file = FILE.replace("'evaluate.every': 1", "'evaluate.every': 5, 'steps': 5000")
  file = file.replace('"accuracy",', '"loss", mode="min",')
  (tmp_path / "mine.py").write_text(file)
  one = runs.load(str(tmp_path / "mine.py")).search
  folder = tmp_path / "mine" / "small" / "search"
  folder.mkdir(parents=True)
  storage = study.open_storage(f"sqlite:///{folder}/study.db")
  known = study.open_study("mine-small", one, storage, (5, 5000))
  for _ in range(5):
    known.add_trial(optuna.create_trial(value=0.01, intermediate_values={5: 0.1, 5000: 0.01}))
  monkeypatch.setattr(findings, "report", lambda *_: None)
  search.main([str(tmp_path / "mine.py"), "--root", str(tmp_path)])
  (last,) = trials_of(folder)[5:]
  assert last.state == TrialState.PRUNED
  workdir = folder / "trials" / "5"
  assert read_metrics(workdir)[-1]["step"] < 5000
  assert "terminated: step" in (workdir / "log.txt").read_text()
  assert list(workdir.glob("checkpoints/*/commit_success.txt"))


def test_a_trial_that_fails_is_told_and_the_others_go_on(fake, capsys, monkeypatch):
  monkeypatch.setenv("FAKE", "sometimes")
  monkeypatch.setattr(worker, "MOST_FAILURES", 99)
  assert fake("--trials", "5") == 0
  told, trials = capsys.readouterr().out, trials_of(fake.folder)
  failed = [one for one in trials if one.state == TrialState.FAIL]
  assert failed
  assert len(trials) == 5 + len(failed)  # they do not count
  assert f"failed: trial {failed[0].number} (exit status 1)" in told
  assert "error: it is all wrong" in told
  assert f"{len(failed)} failed" in told


def test_when_all_fail_it_ends(fake, monkeypatch):
  fake("--trials", "1")
  monkeypatch.setenv("FAKE", "mistake")
  with pytest.raises(UserError, match=r"(?s)3 trials failed one after another; .*it is all wrong"):
    fake("--trials", "9")
  assert len(trials_of(fake.folder)) == 4


def test_a_mistake_in_the_first_trial_ends_it(fake, monkeypatch):
  monkeypatch.setenv("FAKE", "mistake")
  with pytest.raises(UserError, match=r"(?s)the first trial ended .*error: it is all wrong"):
    fake()
  assert [one.state for one in trials_of(fake.folder)] == [TrialState.FAIL]


def test_a_training_that_diverges_counts_as_a_bad_one(fake, monkeypatch, capsys):
  monkeypatch.setenv("FAKE", "diverges")
  assert fake("--trials", "4") == 0
  assert {one.state for one in trials_of(fake.folder)} == {TrialState.PRUNED}
  assert "diverged; counted as pruned" in capsys.readouterr().out


def test_a_metric_that_is_none_names_the_nearest(fake, tmp_path, monkeypatch):
  monkeypatch.setenv("FAKE_SECONDS", "900")
  (tmp_path / "mine.py").write_text(FILE.replace('"accuracy"', '"acuracy"'))
  with pytest.raises(UserError, match="reports accuracy, loss; did you mean accuracy"):
    fake()
  assert len(read_metrics(fake.folder / "trials" / "0")) == 1  # at the first evaluation


def test_a_worker_told_to_stop_puts_its_trial_back_for_the_next(fake, monkeypatch, capsys):
  monkeypatch.setenv("FAKE_SECONDS", "900")  # it waits after the first step
  workdir = fake.folder / "trials" / "0"

  def stop():
    wait_for(lambda: (workdir / "saved").exists() and (workdir / "saved").read_text())
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=stop).start()
  assert fake("--trials", "2") == 143
  assert "trial 0: interrupted; put back" in capsys.readouterr().out
  assert [one.state for one in trials_of(fake.folder)] == [TrialState.FAIL, TrialState.WAITING]
  monkeypatch.delenv("FAKE_SECONDS")
  assert fake("--trials", "2") == 0
  told = capsys.readouterr().out
  first, again, other = trials_of(fake.folder)
  assert (again.params, again.user_attrs["of"]) == (first.params, 0)
  assert first.intermediate_values.items() <= again.intermediate_values.items()
  assert other.number == 2
  assert [line["step"] for line in read_metrics(workdir)] == list(range(1, 11))  # each once
  start, later = json.loads((workdir / "run.json").read_text())
  assert start == 0 < later
  assert not (fake.folder / "trials" / "1").exists()
  assert "2 trials: 2 complete; 1 resumed after an interruption" in told


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_the_trial_of_a_dead_worker_is_taken_up(fake, kind, tmp_path):
  url = {"sqlite": f"sqlite:///{tmp_path}/a.db", "journal": f"journal:{tmp_path}/a.log"}[kind]
  one = runs.load(str(tmp_path / "mine.py")).search
  known = study.open_study("mine-small", one, study.open_storage(url), (1, 40))
  dead = study.ask(known, one, 9)
  dead.report(0.9, 1)
  assert fake("--trials", "2", "--storage", url) == 0
  first, second, third = known.get_trials()
  assert first.state == TrialState.FAIL
  assert study.attempts([first, second, third]).keys() == {0, 1}
  again = next(one for one in (second, third) if one.user_attrs.get("of") == 0)
  assert again.params == dead.params
  assert len(read_metrics(fake.folder / "trials" / "0")) == 10


def test_a_heartbeat_stops_when_it_no_longer_changes(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(time, "monotonic", lambda: clock[0])
  heartbeats = study.Heartbeats(grace=5)
  for beat in (1, 2, 3, 4):
    assert not heartbeats.stopped(7, beat)
    clock[0] += 3
  assert not heartbeats.stopped(7, 4)
  clock[0] += 3
  assert heartbeats.stopped(7, 4)
  assert not heartbeats.stopped(7, 5)
  assert not heartbeats.stopped(8, None)  # it has not begun to beat


def test_a_worker_that_was_taken_for_dead_leaves_the_trial_to_the_other(fake, monkeypatch, capsys):
  monkeypatch.setenv("FAKE_SECONDS", "900")  # it waits after the first step
  saved = fake.folder / "trials" / "0" / "saved"

  def take():
    wait_for(lambda: saved.exists() and saved.read_text())
    monkeypatch.delenv("FAKE_SECONDS")
    known = optuna.load_study(study_name="mine-small", storage=f"sqlite:///{fake.folder}/study.db")
    running = known.get_trials()[0]
    assert study.put_back(known, running)
    assert not study.put_back(known, running)  # as another worker would, that saw the same

  thread = threading.Thread(target=take)
  thread.start()
  assert fake("--trials", "1") == 0
  thread.join()
  assert "trial 0: continued by another worker" in capsys.readouterr().out
  assert [one.state for one in trials_of(fake.folder)] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_that_is_put_back_by_half_is_waited_for_and_queued_in_the_end(
  fake, monkeypatch, tmp_path
):
  one = runs.load(str(tmp_path / "mine.py")).search
  known = study.open_study("mine-small", one, study.open_storage("sqlite://"), (1, 40))
  dead = study.ask(known, one, 1)
  monkeypatch.setattr(study, "queue", lambda *_: None)  # as if the worker died before it
  assert study.put_back(known, dead)
  monkeypatch.undo()
  assert study.tally(known.get_trials()) == {"running": 1}
  assert study.ask(known, one, 1) is None
  heartbeats = study.Heartbeats(grace=0.05)
  assert study.put_back_stale(known, heartbeats) == []
  time.sleep(0.1)
  assert study.put_back_stale(known, heartbeats) == [0]
  again = study.ask(known, one, 1)
  assert study.original(again) == 0
  assert again.params == dead.params


def test_where_another_process_trains_it_is_waited_for(fake, monkeypatch):
  workdir = fake.folder / "trials" / "0"
  workdir.mkdir(parents=True)
  lock, lines = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT), []
  fcntl.flock(lock, fcntl.LOCK_EX)

  def log(text):
    lines.append(text)
    if "waiting for another process" in text:
      threading.Timer(0.3, os.close, [lock]).start()

  monkeypatch.setattr(worker, "log", log)
  assert fake("--trials", "1") == 0
  assert sum("waiting for another process" in text for text in lines) == 1
  assert [one.state for one in trials_of(fake.folder)] == [TrialState.COMPLETE]


def test_a_training_ends_with_its_worker():
  child = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(900)"]
  words = launchers.bind_to_parent(child)
  own = words.index(str(os.getpid()))
  parent = (
    "import os, subprocess, sys, time; words = sys.argv[1:];"
    f"words[{own}] = str(os.getpid());"
    "print(subprocess.Popen(words).pid, flush=True); time.sleep(900)"
  )
  process = subprocess.Popen(
    [sys.executable, "-S", "-c", parent, *words], stdout=subprocess.PIPE, text=True
  )
  pid = int(process.stdout.readline())
  assert process.stdout.readline() == "up\n"
  process.kill()
  process.wait()
  wait_for(lambda: ended(pid))
  # and does not begin where the worker is dead before it
  words[own] = "1" if os.getppid() != 1 else "2"
  assert subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode == 143


def ended(pid):
  """Whether the process has ended; a zombie has."""
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
  except OSError:
    return True


def test_whoever_asks_for_more_than_the_last_trial_waits(fake, tmp_path):
  search_ = runs.load(str(tmp_path / "mine.py")).search
  storage = study.open_storage(f"sqlite:///{tmp_path}/a.db")
  known = study.open_study("a", search_, storage, (1, 40))
  first = study.ask(known, search_, 1)
  assert first.number == 0
  assert study.ask(known, search_, 1) is None
  assert study.tally(known.get_trials()) == {"running": 1}
  assert study.put_back(known, first)
  assert study.ask(known, search_, 1).params == first.params


@pytest.mark.parametrize(
  "url, told",
  [
    ("nonsense", "Could not parse"),
    ("nosql://a/b", "nosql"),
    ("sqlite:////nowhere/at/all/study.db", "unable to open database file"),
    ("journal:/nowhere/at/all.log", "No such file"),
    ("postgresql+psycopg2://me:secret@127.0.0.1:1/x", "pip install"),
    ("mysql+pymysql://me:secret@127.0.0.1:1/x", "pip install"),
    ("sqlite:///{}/mine.py", "not a database"),
    ("journal:{}/mine.py", "cannot be opened"),
  ],
)
def test_a_storage_that_cannot_be_reached_is_one_line(url, told, fake, tmp_path):
  with pytest.raises(UserError, match=told) as error:
    fake("--storage", url.format(tmp_path))
  assert "\n" not in str(error.value)
  assert "secret" not in str(error.value)


def test_a_storage_that_is_lost_on_the_way_is_one_line_and_is_taken_up_again(fake, tmp_path):
  """Its file is moved away in the middle of the second trial, and comes back."""
  file, away, begun = fake.folder / "study.db", tmp_path / "away.db", []
  start = fake.start

  def lose(argv, log):
    begun.append(start(argv, log))
    if len(begun) == 2:
      file.rename(away)
    return begun[-1]

  fake.start = lose
  with pytest.raises(UserError, match=r"--storage sqlite.*The same command resumes") as told:
    fake("--trials", "3")
  assert "\n" not in str(told.value)
  assert all(one.poll() is not None for one in begun)
  away.replace(file)
  fake.start = start
  assert fake("--trials", "3") == 0
  trials = trials_of(fake.folder)
  assert study.tally(trials) == {"complete": 3}
  assert len(trials) == 4  # the second was taken up


def test_another_worker_that_makes_the_tables_is_no_error(tmp_path, monkeypatch):
  real, url, times = study.RDBStorage, f"sqlite:///{tmp_path}/a.db", []

  def make(*given, **more):
    times.append(time.monotonic())
    if len(times) < 3:
      told = Exception("UNIQUE constraint failed: alembic_version.version_num")
      raise sqlalchemy.exc.IntegrityError("INSERT", {}, told)
    return real(*given, **more)

  monkeypatch.setattr(study, "RDBStorage", make)
  study.open_storage(url)
  assert len(times) == 3


def test_another_search_is_not_mixed_into_the_study(fake, tmp_path):
  fake("--trials", "1")
  (tmp_path / "mine.py").write_text(FILE.replace("0.5", "0.4"))
  with pytest.raises(
    UserError, match=r"space\[model.dropout\]: Float\(low=0.0, high=0.4.*high=0.5"
  ):
    fake("--trials", "2")
  # these may change
  (tmp_path / "mine.py").write_text(
    FILE.replace("trials=6", "trials=2").replace("'log_every': 5", "'log_every': 2")
  )
  assert fake() == 0


def test_what_is_missing_is_told(fake, tmp_path, monkeypatch):
  with pytest.raises(UserError, match="start the search first"):
    fake("--report")
  (tmp_path / "mine.py").write_text(FILE.replace("SEARCH", "SEARCHED"))
  with pytest.raises(UserError, match="has no SEARCH"):
    fake()
  config = FILE.replace("scan.py:small", "scan.py:small,data={data}")
  (tmp_path / "mine.py").write_text(config)
  with pytest.raises(UserError, match="--data is missing"):
    fake()
  monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install -r requirements-experiments"):
    fake()


def test_the_search_of_a_scale(tmp_path, here):
  file = "experiments/scan_search.py"
  small, full = (runs.load(file, scale).search for scale in runs.SCALES)
  assert small.run.changes["steps"] < full.run.changes["steps"]
  space.check(small, small.run.config)
