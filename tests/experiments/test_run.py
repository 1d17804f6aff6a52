"""The runner of experiments: what it starts, what it skips, what it tells."""

import dataclasses
import json
import pathlib
import re

import pytest

from experiments import run
from train import flags
from train.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
FILE = """
from experiments.run import Run
EXPECTED = "half of it"
def runs(data, root):
  changes = {"steps": 2, "schedule.warmup_steps": 1, "task.data.holdout": 20}
  changes |= {"evaluate.every": 2, "evaluate.decode_every": 0, "task.decoding.max_len_extra": 4}
  small = Run("small", "configs/scan.py:small", changes, "validation", metrics=("exact_match",))
  yield small
  yield Run("broken", "configs/scan.py:small", {"model.num_heads": 5})
  yield Run("after", f"configs/scan.py:small,init={root / 'broken'}")
"""


@pytest.fixture
def experiment(tmp_path):
  (tmp_path / "mine.py").write_text(FILE)
  return [str(tmp_path / "mine.py"), "--data", "nowhere", "--root", str(tmp_path)]


def test_runs_what_is_not_finished_and_says_what_failed(experiment, tmp_path, monkeypatch, capfd):
  monkeypatch.chdir(ROOT)
  with pytest.raises(UserError, match="2 of 3 runs failed: broken, after"):
    run.main(experiment)
  first = capfd.readouterr().out
  assert first.count("$ python -m train.main") == 2
  assert first.count("$ python -m train.evaluate") == 1  # not of the broken one
  results = json.loads((tmp_path / "mine" / "small" / "results.json").read_text())
  assert f"| small | exact_match | {results['exact_match']:.2f} |  | 1 | " in first
  assert 0 < json.loads((tmp_path / "mine" / "small" / run.RECORD).read_text())["seconds"] < 1000
  assert "half of it" in first
  assert "after: left out, as broken is not finished" in first
  run.main([*experiment, "--only", "small"])
  again = capfd.readouterr().out
  assert "train.main" not in again
  assert again == first[first.index("| run |") :].replace("\n\n", "\n")


def test_a_dry_run_prints_commands_that_can_be_pasted(experiment, tmp_path, capsys):
  run.main([*experiment, "--dry_run"])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 6
  assert not (tmp_path / "mine").exists()
  for line in lines:
    assert re.match(r"\$ python -m train\.(main|evaluate) ", line)


def keep(one, root, seconds=None, **results):
  (root / one.name).mkdir()
  record = dict(asked=run.asked(one), results=results, seconds=seconds)
  (root / one.name / run.RECORD).write_text(json.dumps(record))


def test_seeds_are_one_row_with_mean_and_ends(tmp_path):
  runs = [run.Run(f"a-seed{seed}", "configs/scan.py", metrics=("f1", "loss")) for seed in (0, 1, 2)]
  keep(runs[0], tmp_path, seconds=9.5, f1=50.0, loss=5.0)
  keep(runs[1], tmp_path, f1=60.0, loss=6.0)  # it went on: its seconds are not known
  keep(dataclasses.replace(runs[2], changes={"steps": 3}), tmp_path, f1=99.0, loss=0.0)  # another
  assert run.table(runs, tmp_path).splitlines()[2:] == [
    "| a | f1 | 55.00 | 50.00 to 60.00 | 2 | 10 |",
    "| a | loss | 5.50 | 5.00 to 6.00 | 2 | 10 |",
  ]


def test_a_run_that_is_asked_otherwise_is_another(tmp_path):
  one = run.Run("a", "configs/scan.py", {"seed": 1, "rates": (("x", 0.5),)})
  keep(one, tmp_path, f1=1.0)
  assert run.record_of(one, tmp_path / "a")["results"] == {"f1": 1.0}
  for change in (dict(config="configs/scan.py:small"), dict(changes={}), dict(split="validation")):
    assert run.record_of(dataclasses.replace(one, **change), tmp_path / "a") is None


@pytest.mark.parametrize("name", ["transfer", "denoising", "minilm"])
def test_every_experiment_lists_runs_whose_configs_are_real(name, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  module = run.load(f"experiments/{name}.py")
  monkeypatch.setattr(module, "MODEL", "tests/fixtures/bert") if name == "minilm" else None
  runs = list(module.runs("data", tmp_path))
  assert len({one.name for one in runs}) == len(runs)
  for one in runs:
    for start in re.findall(r"init=(?!hf:)([^,]+)", one.config):  # an earlier run of the same file
      assert pathlib.Path(start).name in {other.name for other in runs[: runs.index(one)]}
      pathlib.Path(start).mkdir(exist_ok=True)
      base = flags.load("configs/span.py" if name == "denoising" else "configs/mlm.py")
      (pathlib.Path(start) / "config.json").write_text(json.dumps(base.to_dict()))
    flags.load(one.config, [f"{key}={value}" for key, value in one.changes.items()])


def test_mistakes_are_told(experiment, tmp_path):
  with pytest.raises(UserError, match=r"no run of .*mine.py has such a name"):
    run.main([*experiment, "--only", "nothing"])
  with pytest.raises(UserError, match="no such experiment file"):
    run.load(str(tmp_path / "other.py"))
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(UserError, match=r"defines runs\(data, root\)"):
    run.load(str(tmp_path / "empty.py"))
