"""The runner of experiments: what it starts, what it skips, what it tells."""

import dataclasses
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types

import pytest

from experiments import run, search
from experiments.tools import runs
from experiments.tools.launch import launchers, live, results
from experiments.tools.report import tables
from experiments.tools.runs import Run
from train import resolve, tasks
from train.common.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").glob("*.py"))
NAMES = [file.stem for file in FILES if re.search(r"^def runs\(", file.read_text(), re.M)]
FILE = '''"""Mine."""
from experiments.tools.runs import Derived, Estimate, Run
def runs(scale):
  changes = {"steps": 2, "schedule.warmup_steps": 1, "task.data.holdout": 20}
  changes |= {"evaluate.every": 2, "evaluate.decode_every": 0, "task.decoding.max_len_extra": 4}
  told = dict(splits=("validation",), metrics=("exact_match",))
  yield Run("small", "configs/scan.py:small", changes, **told)
  made = ("train.export", "--workdir", "{root}/small", "--quantize", "int8")
  yield Derived("bytes", made=made, **told)
  yield Estimate("paper", "configs/scan.py:small", topology="cpu:2", metrics=("gigabytes", "chips"))
  changes = {"steps": 2, "schedule.warmup_steps": 1, "schedule.peak": "%s"}
  yield Run("broken", "configs/scan.py:small", changes)
  yield Run("after", "configs/scan.py:small,split={root}/broken")
'''


@pytest.fixture
def experiment(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  # what cannot be: 10 devices of weights. Told by the run itself, not by its config.
  text = FILE.replace('"schedule.peak": "%s"', '"mesh.fsdp": 7')
  (tmp_path / "mine.py").write_text(text)
  return [str(tmp_path / "mine.py"), "--data", "nowhere", "--root", str(tmp_path)]


def test_runs_what_is_not_finished_and_says_what_failed(experiment, tmp_path, capfd):
  with pytest.raises(UserError, match="2 of 5 runs failed") as told:
    run.main(experiment)
  assert "after: skipped, as broken is not finished" in str(told.value)
  assert re.search(r"broken: exit status 2 of python -m train.main ", str(told.value))
  assert "sizes must multiply to the" in str(told.value)  # the end of its log
  first = capfd.readouterr().out
  assert first.count("small: trains") == first.count("small: finished") == 1
  folder = tmp_path / "mine" / "small" / "small"
  found = json.loads((folder / "results.json").read_text())
  assert f"| small | validation/exact_match | {found['exact_match']:.2f} |  | 1 | " in first
  assert "| paper | plan/chips | 2.00 |  | 1 | " in first
  assert "paper: estimates" in first
  assert "| broken | UNFINISHED: not begun |" in first
  assert "| bytes | validation/exact_match |" in first
  made = json.loads((folder.with_name("bytes") / results.RECORD).read_text())
  assert made["asked"]["made"][2] == "{root}/small"
  record = json.loads((folder / results.RECORD).read_text())
  assert made["parameters"] == record["parameters"]  # two share a byte
  assert made["weights_bytes"] < 0.4 * record["weights_bytes"]
  assert record["trained"] == record["parameters"]
  for size in ("disk_bytes", "optimizer_bytes"):
    assert record[size] > record["weights_bytes"] / 2
  assert 0 < record["seconds"] < 1000
  assert record["parameters"] > 1000
  assert record["steps"] == 2
  assert "nowhere" not in json.dumps(record)  # nor any folder
  assert str(tmp_path) not in json.dumps(record)
  run.main([*experiment, "--only", "small"])
  again = capfd.readouterr().out
  assert "small: trains" not in again
  assert again.strip() in first.replace("| broken", "\n| broken")


def test_a_dry_run_prints_commands_that_can_be_pasted(experiment, tmp_path, capsys):
  run.main([*experiment, "--dry_run", "--only", "small|broken"])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4
  assert not (tmp_path / "mine").exists()
  for line in lines:
    assert re.match(r"python -m train\.(main|evaluate) ", line)
  assert f"--workdir {tmp_path}/mine/small/small " in lines[0]


SLOW = """
import json, pathlib, sys, time
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
workdir.mkdir(exist_ok=True, parents=True)
(workdir / "began").write_text("")
print("says something")
while not (workdir.parent / "go").exists():
  time.sleep(0.02)
sys.exit(3 if "bad" in str(workdir) else 0)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
  """Runs that train by waiting for a file."""
  (tmp_path / "slow.py").write_text(SLOW)
  monkeypatch.setattr(
    launchers,
    "commands",
    lambda run, place: [
      ["python", str(tmp_path / "slow.py"), "--workdir", str(place.workdir(run))]
    ],
  )
  monkeypatch.setattr(results, "write_record", lambda *_: None)
  (tmp_path / "root").mkdir()
  return results.Paths("", tmp_path / "root")


def until(condition, seconds=300):
  """Waits as long as a busy machine may take."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "it did not come"
    time.sleep(0.01)


def began(place):
  return sorted(file.parent.name for file in place.root.glob("*/began"))


def test_so_many_at_once_and_none_before_what_it_needs(place):
  several = [Run("bad", "c"), Run("b", "c"), Run("after", "c:init={root}/b")]
  several += [Run("never", "c:init={root}/bad"), Run("last", "c:init={root}/after")]
  local = launchers.Local(several, set(), place, jobs=2)
  until(lambda: local.update() and began(place) == ["b", "bad"])
  for _ in range(20):
    local.update()
  assert sorted(local.running) == ["b", "bad"]
  shares = [os.sched_getaffinity(job.process.pid) for job in local.running.values()]
  whole = os.sched_getaffinity(0)
  assert shares[0] | shares[1] == whole
  assert not shares[0] & shares[1] or len(whole) == 1
  (place.root / "go").touch()
  until(lambda: not local.update())
  assert began(place) == ["after", "b", "bad", "last"]
  assert local.ended.pop("bad").endswith("says something")
  assert local.ended.pop("never") == "skipped, as bad is not finished"
  assert local.ended == dict.fromkeys(("b", "after", "last"), "finished")


def test_what_goes_on_is_asked_to_save_and_nothing_more_begins(place):
  local = launchers.Local([Run("a", "c"), Run("b", "c")], set(), place, jobs=1)
  until(lambda: local.update() and began(place) == ["a"])
  local.stop()
  until(lambda: not local.update())
  assert local.ended == {"a": "interrupted", "b": "not begun"}


@pytest.mark.slow
def test_ctrl_c_lets_a_run_save_and_the_same_command_goes_on(tmp_path, monkeypatch):
  """A real one, whose training saves."""
  text = FILE.replace('"steps": 2, ', '"steps": 400, ', 1)
  (tmp_path / "mine.py").write_text(
    text.replace('"evaluate.every": 2', '"log_every": 1, "evaluate.every": 400')
  )
  words = [str(tmp_path / "mine.py"), "--data", "x", "--root", str(tmp_path), "--only", "small"]
  process = subprocess.Popen(
    [sys.executable, "-m", "experiments.run", *words],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  folder = tmp_path / "mine" / "small" / "small"
  metrics = folder / "metrics.jsonl"
  until(lambda: process.poll() is not None or (metrics.exists() and metrics.stat().st_size))
  process.send_signal(signal.SIGINT)
  out, _ = process.communicate(timeout=300)
  assert process.returncode == 130
  assert "small: interrupted" in out
  assert "small: the same command resumes" in out
  assert re.search(r"UNFINISHED: step [\d,]+ of 400", out)
  (saved,) = (int(one.name) for one in (folder / "checkpoints").iterdir())
  monkeypatch.chdir(ROOT)
  assert run.main(words) == 0
  assert f"going on after step {saved} of 400" in (folder / "log.txt").read_text()
  record = json.loads((folder / results.RECORD).read_text())
  assert (record["starts"], record["steps"]) == (2, 400)
  assert record["seconds"] is None  # nobody knows those of its beginning


def keep(one, folder, seconds=None, parameters=None, **numbers):
  (folder / one.name).mkdir()
  record = dict(asked=results.request(one), results={"test": numbers}, seconds=seconds)
  (folder / one.name / results.RECORD).write_text(json.dumps(record | {"parameters": parameters}))


def test_seeds_are_one_row_with_mean_and_ends(tmp_path):
  three = list(runs.seeds(Run("a", "configs/scan.py", metrics=("f1", "loss"))))
  keep(three[0], tmp_path, seconds=9.5, parameters=1234, f1=50.0, loss=5.0)
  keep(three[1], tmp_path, f1=60.0, loss=6.0)  # it went on: its seconds are not known
  keep(dataclasses.replace(three[2], changes={"steps": 3}), tmp_path, f1=99.0, loss=0.0)  # another
  found = [results.read_folder(one, tmp_path / one.name) for one in three]
  assert tables.markdown(tables.rows(found)).splitlines()[2:] == [
    "| a | test/f1 | 55.00 | 50.00 to 60.00 | 2 | 10 | 1,234 |",
    "| a | test/loss | 5.50 | 5.00 to 6.00 | 2 | 10 | 1,234 |",
    "| a-seed2 | UNFINISHED: not begun |  |  |  |  |  |",
  ]


def test_a_run_that_is_asked_otherwise_is_another(tmp_path):
  one = Run("a", "configs/scan.py", {"seed": 1, "rates": (("x", 0.5),)})
  keep(one, tmp_path, f1=1.0)
  assert results.read_record(one, tmp_path / "a")["results"] == {"test": {"f1": 1.0}}
  for change in (dict(config="configs/scan.py:small"), dict(changes={}), dict(splits=("x",))):
    assert results.read_record(dataclasses.replace(one, **change), tmp_path / "a") is None


def test_how_far_a_run_is_is_read_from_its_folder(tmp_path):
  assert live.progress(tmp_path) == ("", "", "", "")
  (tmp_path / "config.json").write_text(json.dumps({"steps": 1000}))
  lines = [
    dict(step=step, split="train", time=1000.0 + step, loss=2.5, tokens_per_second=1234.0)
    for step in (100, 200)
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (tmp_path / "metrics.jsonl").write_text("x" * 20000 + "\n" + text + '{"step": 3')
  assert live.progress(tmp_path) == ("200/1,000", "2.500", "1,234", "13m20s")
  later = [lines[0] | dict(step=step, time=9000.0 + step / 2, compiles=1) for step in (300, 400)]
  before = [line | dict(compiles=5) for line in lines]  # then it was started again
  text = "".join(json.dumps(line) + "\n" for line in (*before, *later))
  (tmp_path / "metrics.jsonl").write_text(text)
  assert live.progress(tmp_path) == ("400/1,000", "2.500", "1,234", "5m00s")


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_shows_a_table_of_what_runs(tmp_path, monkeypatch):
  terminal = Terminal()
  monkeypatch.setattr(sys, "stdout", terminal)
  for name, value in dict(TERM="xterm", COLUMNS="100", LINES="11").items():
    monkeypatch.setenv(name, value)
  several = [Run(f"run-{number}", "x") for number in range(9)]
  place = results.Paths("", tmp_path)
  (tmp_path / "run-7").mkdir()
  (tmp_path / "run-7" / "config.json").write_text(json.dumps({"steps": 1000}))
  line = dict(step=30, split="train", time=1.0, loss=2.5, tokens_per_second=1234.0)
  (tmp_path / "run-7" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
  job = types.SimpleNamespace(command=["python", "-m", "train.main"])
  local = types.SimpleNamespace(running={"run-7": job}, ended={"run-0": "finished"})
  local.done = {"run-1"}
  with live.Screen(local, several, place) as screen:
    screen.show()
  rows = [re.findall(r"[\w/.,-]+", row) for row in terminal.getvalue().splitlines()]
  rows = [row for row in rows if row and row[0].startswith("run-")]
  assert rows[-5][:6] == ["run-7", "trains", "30/1,000", "2.500", "1,234"]
  assert rows[-4][:2] == ["run-0", "finished"]
  assert "and 4 more" in terminal.getvalue()


@pytest.mark.parametrize("gpus, of, given", [("0,1,2,3", 2, ["0,2", "1,3"]), ("5", 2, ["5", "5"])])
def test_gpus_are_divided(monkeypatch, gpus, of, given):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
  slots = [launchers.Slot(number, of) for number in range(of)]
  assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == given
  share = slots[0].environment.get("XLA_PYTHON_CLIENT_MEM_FRACTION")
  assert share == ("0.45" if gpus == "5" else None)


@pytest.mark.parametrize("scale", runs.SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_lists_runs_whose_configs_are_real(name, scale, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr("experiments.minilm.MODEL", "tests/fixtures/bert")
  experiment = runs.load(f"experiments/{name}.py", scale)
  place = results.Paths("data", tmp_path)
  needed = {other for one in experiment.runs for other in one.dependencies()}
  for one in experiment.runs:
    if isinstance(one, runs.Derived):
      first, *_ = sorted(one.dependencies())
      (tmp_path / one.name / one.out).mkdir(parents=True)
      config = (tmp_path / first / "config.json").read_text()
      (tmp_path / one.name / one.out / "config.json").write_text(config)
      continue
    text = place.config(one)
    text = re.sub("hf:data/minilm", "hf:tests/fixtures/bert", text)
    cfg = resolve.load(text, [f"{key}={value}" for key, value in one.changes.items()])
    runs.check_metrics(one, tasks.metric_names(cfg.task.to_dict()))
    assert re.fullmatch("configs/[a-z0-9_]+[.]py(:.*)?", text)
    if one.name in needed:
      (tmp_path / one.name).mkdir()
      (tmp_path / one.name / "config.json").write_text(json.dumps(cfg.to_dict()))
  for one in experiment.expected:
    assert one.source or getattr(one, "paper", None) is None  # every number has one


def test_axes_of_a_sweep():
  heads = runs.values("model.num_heads", 4, 8, short="h")
  rates = runs.values("schedule.peak", 0.1, 0.2)
  assert runs.product(heads, rates) == {
    f"h{h}-{rate}": {"model.num_heads": h, "schedule.peak": rate}
    for h in (4, 8)
    for rate in (0.1, 0.2)
  }
  assert [one.changes["seed"] for one in runs.seeds(Run("a", "c"), 2)] == [0, 1]
  with pytest.raises(UserError, match=r"h4-h4: two axes set model\.num_heads"):
    runs.product(heads, heads)


@pytest.mark.parametrize(
  "text, told",
  [
    ("", r"defines runs\(scale\)"),
    ("def runs(scale):", r"one\.py line 2: expected an indented block"),
    ("def runs(scale):\n  yield Run(name)", r"one\.py line 3: NameError: name 'name'"),
    (r'def runs(scale): yield Run("a", "configs/scan.py"); yield Run("a", "x")', "two runs"),
    (r'def runs(scale): yield Run("a/b", "configs/scan.py")', "'a/b' cannot name a folder"),
    (r'def runs(scale): yield Run("..", "configs/scan.py")', "'..' cannot name a folder"),
    (r'def runs(scale): yield Run("-rf", "configs/scan.py")', "'-rf' cannot name a folder"),
    (r'def runs(scale): yield Run("", "configs/scan.py")', "'' cannot name a folder"),
    (r'def runs(scale): yield Run("../../a", "configs/scan.py")', "'../../a' cannot name a folder"),
    (r'def runs(scale): yield Run(".git", "configs/scan.py")', "'.git' cannot name a folder"),
    (
      r'def runs(scale): yield Run("a", "x:init={root}/b")',
      "a starts from b, which no earlier run",
    ),
    (
      'def runs(scale): yield Run("a", "x")\nEXPECTED = [Value("v", "b", "test/f1")]',
      "v: no run has a name like b",
    ),
  ],
)
def test_a_file_that_is_no_experiment(tmp_path, text, told):
  (tmp_path / "one.py").write_text(f"from experiments.tools.runs import Run, Value\n{text}\n")
  with pytest.raises(UserError, match=told):
    runs.load(str(tmp_path / "one.py"))


@pytest.mark.parametrize("name", ["-rf", "...", ".hidden", "a b"])
def test_an_experiment_whose_name_cannot_be_a_folder(tmp_path, name):
  file = tmp_path / f"{name}.py"
  file.write_text("raise AssertionError('read')")
  with pytest.raises(UserError, match="cannot name a folder"):
    runs.load(str(file))


@pytest.mark.parametrize("command", [run.main, search.main])
@pytest.mark.parametrize("root", ["", "-rf"])
def test_a_root_that_is_empty_or_an_option(command, root):
  with pytest.raises(UserError, match=f"'{root}' cannot name a folder") as error:
    command(["experiments/scan_search.py", f"--root={root}"])
  assert "\n" not in str(error.value)


def test_mistakes_are_told(experiment, tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r"no run of .*mine.py has such a name"):
    run.main([*experiment, "--only", "nothing"])
  with pytest.raises(UserError, match=r"no such experiment file; did you mean mine\.py\?"):
    runs.load(str(tmp_path / "mime.py"))
  with pytest.raises(UserError, match="--jobs 0: must be at least 1"):
    run.main([*experiment, "--jobs", "0"])
  (tmp_path / "mine.py").write_text(FILE.replace("schedule.warmup_steps", "schedule.warmup"))
  with pytest.raises(UserError, match=r"small: .*schedule\.warmup.*warmup_steps"):
    run.main(experiment)
  assert not (tmp_path / "mine").exists()  # before anything is started
  (tmp_path / "mine.py").write_text(FILE.replace('metrics=("exact_match",)', 'metrics=("exact",)'))
  with pytest.raises(UserError, match=r"metrics has 'exact'; did you mean exact_match\?; its"):
    run.main(experiment)
  (tmp_path / "mine.py").write_text(FILE.replace("configs/scan.py", "{data}/scan.py"))
  with pytest.raises(UserError, match="--data is missing"):
    run.main([experiment[0], "--root", str(tmp_path)])
