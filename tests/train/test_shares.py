"""Steps as shares of a run, a run of few steps, and a run of epochs."""

import json
import re

import numpy as np
import pytest

from train import loop, main, resolve, schema
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.common.trees import flatten
from train.record import workdir


def load(*overrides, text="configs/scan.py"):
  return resolve.load(text, overrides)


def test_steps_alone_shorten_the_warm_up_of_a_config():
  whole, short = load(), load("steps=60")
  share = whole.schedule.warmup_steps / whole.steps
  assert 0 < short.schedule.warmup_steps == int(60 * share)
  changed = {"steps": 60, "schedule.warmup_steps": short.schedule.warmup_steps}
  assert schema.config.flat(short) == schema.config.flat(whole) | changed
  assert load(f"steps={whole.steps // 2}").schedule == whole.schedule  # what fits stays
  with pytest.raises(UserError, match=r"warmup_steps 70 is more than steps 60"):
    load("steps=60", "schedule.warmup_steps=70")


def test_a_share_is_of_the_steps_in_force():
  words = (
    "evaluate.every=0.25",
    "checkpoint.every=0.5",
    "log_every=0.001",
    "evaluate.decode_every=0",
  )
  cfg = load("steps=200", "schedule.warmup_steps=0.1", *words)
  assert (cfg.schedule.warmup_steps, cfg.evaluate.every, cfg.checkpoint.every) == (20, 50, 100)
  assert (cfg.log_every, cfg.evaluate.decode_every) == (1, 0)
  wsd = ("schedule.name=wsd", "schedule.decay_steps=0.2", "schedule.warmup_steps=0")
  assert load("steps=50", *wsd).schedule.decay_steps == 10


@pytest.mark.parametrize("item", ["log_every=1.5", "evaluate.every=-0.1", "checkpoint.every=abc"])
def test_what_is_no_share_and_no_number_of_steps_is_refused(item):
  with pytest.raises(UserError, match=item.partition("=")[0]):
    load(item)


def test_epochs_or_steps_but_not_both(tmp_path):
  with pytest.raises(UserError, match=r"epochs and --config\.steps"):
    load("steps=60", "epochs=2")
  (tmp_path / "c.py").write_text(
    "from configs import scan\ndef get_config():\n  cfg = scan.get_config()\n"
    "  cfg.epochs = 2.0\n  return cfg\n"
  )
  with pytest.raises(UserError, match="epochs and steps both"):
    load(text=str(tmp_path / "c.py"))
  assert load("epochs=2").steps == 0
  with pytest.raises(UserError, match="epochs is -1"):
    load("epochs=-1")


def state(folder):
  """Returns path -> numpy of the latest checkpoint's weights and optimizer state."""
  with Checkpoints(folder) as checkpoints:
    saved = checkpoints.load(checkpoints.latest, dict.fromkeys(("params", "optimizer")))
  return {name: np.asarray(x) for name, x in flatten(saved).items()}


EPOCHS = ["--config=configs/scan.py:small", "--config.model.dim=16"]
EPOCHS += ["--config.checkpoint.best_metric=loss", "--config.checkpoint.best_mode=min"]
EPOCHS += ["--config.schedule.name=constant", "--config.tensorboard=False"]
EPOCHS += ["--config.schedule.warmup_steps=0.5", "--config.evaluate.every=0.5"]
EPOCHS += ["--config.evaluate.decode_every=0"]


def test_a_run_of_epochs_counts_its_batches_and_resumes_exactly(tmp_path, monkeypatch):
  words = list(EPOCHS)
  words += ["--config.epochs=0.01", "--config.checkpoint.every=1", "--config.log_every=1"]
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  assert main.main([*words, f"--workdir={whole}"]) == 0
  cfg = json.loads((whole / "config.json").read_text())
  steps = cfg["steps"]
  assert steps >= 3
  assert cfg["epochs"] == 0.01
  assert (cfg["schedule"]["warmup_steps"], cfg["evaluate"]["every"]) == (steps // 2, steps // 2)
  assert json.loads((whole / "run.json").read_text())["starts"][0]["steps"] == [steps, steps]
  assert workdir.is_unchanged(whole)
  assert main.main([*words, f"--workdir={whole}"]) == 0  # nothing is left to do
  save = loop.Checkpoints.save

  def stop(self, current, *rest, **more):
    save(self, current, *rest, **more)
    if int(current["step"]) == 2:
      raise KeyboardInterrupt

  monkeypatch.setattr(loop.Checkpoints, "save", stop)
  with pytest.raises(KeyboardInterrupt):
    main.main([*words, f"--workdir={parts}"])
  monkeypatch.undo()
  assert main.main([*words, f"--workdir={parts}"]) == 0
  expected, resumed = state(whole), state(parts)
  for name, x in expected.items():
    np.testing.assert_array_equal(x, resumed[name], err_msg=name)
  with pytest.raises(UserError, match=re.compile("another run", re.S)):
    main.main([*words, "--config.seed=3", f"--workdir={parts}"])
