"""A run goes on with more steps than it was planned for; --profile_steps of a whole run."""

import json

import numpy as np
import pytest

from train import loop, main, optimizer, resolve
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.common.trees import flatten
from train.record import config, workdir
from train.record.writer import read_metrics

RUN = (
  "--config=configs/scan.py:small",
  "--config.model.dim=16",
  "--config.log_every=2",
  "--config.evaluate.every=4",
  "--config.evaluate.decode_every=0",
  "--config.checkpoint.every=4",
  "--config.checkpoint.best_metric=loss",
  "--config.checkpoint.best_mode=min",
  "--config.schedule.name=constant",
  "--config.schedule.warmup_steps=2",
  "--config.loggers=()",
)


def config_of(*words):
  texts, overrides, _ = config.split([*RUN, *words])
  return resolve.load(config.only(texts), overrides)


def train(folder, steps, **options):
  cfg = config_of(f"--config.steps={steps}")
  with workdir.open_run(folder, cfg, ["test"]) as run:
    assert loop.train(cfg, run, **options) == 0


def state(folder):
  """path -> numpy of the latest checkpoint's weights and optimizer state."""
  with Checkpoints(folder) as checkpoints:
    parts = dict.fromkeys(("params", "optimizer"))
    saved = checkpoints.load(checkpoints.latest, parts)
  return {name: np.asarray(x) for name, x in flatten(saved).items()}


def test_four_steps_and_four_more_are_eight_and_can_be_profiled(tmp_path):
  train(tmp_path / "more", 4)
  for words, message in (
    (["--config.steps=3"], "steps is 3, and 4 are done"),
    (["--config.steps=6", "--config.seed=1"], "seed"),
    (["--config.steps=6", "--profile_steps=4:5"], "this run goes on after step 4"),
    (["--config.steps=6", "--profile_steps=5:7"], "1 to 6"),
  ):
    with pytest.raises(UserError, match=message):
      main.main([*RUN, *words, f"--workdir={tmp_path / 'more'}"])
  train(tmp_path / "more", 8, profile_steps=range(6, 8))
  train(tmp_path / "eight", 8)
  more, eight = state(tmp_path / "more"), state(tmp_path / "eight")
  assert more.keys() == eight.keys()
  for name, x in more.items():
    np.testing.assert_array_equal(x, eight[name], err_msg=name)
  metrics = [read_metrics(tmp_path / name) for name in ("more", "eight")]
  a, b = ({(x["step"], x["split"]): x["loss"] for x in lines} for lines in metrics)
  assert a == b
  for line in metrics[0]:
    if line["split"] == "train":
      assert 0 < line["mfu"] < 2
      assert line["step_ms"] > 0
      assert line["recompiles"] == 0
      assert line["host_memory_gb"] > 0.1
  starts = json.loads((tmp_path / "more" / "run.json").read_text())["starts"]
  assert [(start["after"], *start["steps"]) for start in (starts[0], starts[-1])] == [
    (0, 4, 4),
    (4, 4, 8),  # and not 6, by which nothing was trained
  ]
  (trace,) = tmp_path.glob("more/profile/plugins/profile/*/*.xplane.pb")
  assert b"step_num" in trace.read_bytes()


def finish(step, folder):
  """Makes what shows that the checkpoint of a step is finished."""
  for file in (
    folder / f"checkpoints/{step}/commit_success.txt",
    folder / f"checksums/{step}.json",
  ):
    file.parent.mkdir(parents=True)
    file.touch()


@pytest.mark.parametrize(
  "words, message",
  [
    (["cosine"], "of step 5 was 0 and is now 0.0015"),
    (["linear"], "of step 5 was 0 and is now 0.00133"),
    (["rsqrt"], "stay the same"),
    (["constant"], "stay the same"),
    (["wsd", "--config.schedule.decay_steps=2"], "of step 5 was 0 and is now 0.002"),
  ],
)
def test_the_log_names_what_changes_of_a_schedule(words, message, tmp_path, caplog):
  finish(4, tmp_path)
  cfg = config_of("--config.steps=8", f"--config.schedule.name={words[0]}", *words[1:])
  _, rate = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
  loop.log_changed_steps(cfg, workdir.Workdir(tmp_path, True, None, steps_before=4), rate)
  assert f"steps is 8, before it was 4. Schedule {words[0]}" in caplog.text
  assert message in caplog.text
  caplog.clear()
  loop.log_changed_steps(cfg, workdir.Workdir(tmp_path, True, None, steps_before=8), rate)
  assert not caplog.records


def test_a_run_that_was_stopped_early_goes_on_with_more_steps(tmp_path):
  """The evaluations before it went on are not counted; the best value stays."""
  finish(8, tmp_path)
  lines = [dict(step=n, split="validation", time=0.0, loss=1.0 + n) for n in (2, 4, 6, 8, 10)]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  run, cfg = workdir.Workdir(tmp_path, True, None), config_of("--config.patience=3")

  def waited(*starts):
    listed = [dict(after=after, steps=steps) for after, steps in starts]
    (tmp_path / "run.json").write_text(json.dumps({"starts": listed}))
    stopping = loop.restore_early_stopping(cfg, run, loop.lines_before(cfg, run))
    assert stopping.best == 3.0
    return stopping.waited, stopping.due

  assert waited((0, [8, 8])) == (3, True)  # after steps 4, 6 and 8; 10 was not saved
  assert waited((0, [8, 8]), (4, [8, 12])) == (2, False)
  assert waited((0, [8, 8]), (4, [8, 12]), (6, [12, 12])) == (2, False)
  assert waited((0, [8, 8]), (4, [8, 12]), (8, [12, 16])) == (0, False)
  assert waited((0, [8, 8]), (8, [8, 6])) == (3, True)  # not more


def test_more_steps_than_a_schedule_allows_are_refused(tmp_path):
  words = ["--config.schedule.name=wsd", "--config.schedule.decay_steps=7", "--config.steps=8"]
  with pytest.raises(UserError, match="decay_steps 7 is more than steps 8"):
    main.main([*RUN, *words, f"--workdir={tmp_path}"])
