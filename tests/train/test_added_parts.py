"""A run of a streamed mixture goes on with a part more, exactly, and with no part less."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers import WORDS
from train import loop, resolve
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.common.trees import flatten
from train.record import added_parts, workdir

CONFIG = """
from configs import common

def part(name, folder):
  splits = dict.fromkeys(("train", "validation"), f"{folder}/{name}.txt")
  return dict(name="causal", data=dict(name="text", splits=splits, unit="line"))

def get_config(arg=""):
  arg = common.parse(arg, folder="", parts="a+b", steps=4, streams=2, seed=0, alpha=0.0)
  parts = {name: part(name, arg.folder) for name in arg.parts.split("+")}
  parts["a"]["share"] = 2
  return common.run(
    steps=arg.steps, batch_size=8, log_every=2, streams=arg.streams, seed=arg.seed, loggers=(),
    task=dict(name="mixture", main="a", parts=parts, tokenizer=dict(name="byte"), target_len=48,
              alpha=arg.alpha),
    model=dict(dim=16, num_heads=2, mlp_dim=16, encoder_layers=0, decoder_layers=1),
    schedule=dict(name="constant", warmup_steps=1),
    evaluate=dict(every=100), checkpoint=dict(every=2),
  )
"""


@pytest.fixture
def train(tmp_path):
  """Returns a function that trains in a folder, and returns the weights and the position."""
  rng = np.random.default_rng(0)
  (tmp_path / "mix.py").write_text(CONFIG)
  for name in "abc":
    lines = [" ".join([name, *rng.choice(WORDS, 4)]) for _ in range(90)]
    (tmp_path / f"{name}.txt").write_text("\n".join(lines))

  def run(folder, **arguments):
    text = ",".join(f"{key}={value}" for key, value in arguments.items())
    cfg = resolve.load(f"{tmp_path}/mix.py:folder={tmp_path},{text}")
    with workdir.open_run(tmp_path / folder, cfg, ["test"]) as opened:
      assert loop.train(cfg, opened) == 0
    with Checkpoints(tmp_path / folder) as saved:
      weights = flatten(saved.params("latest"))
      return {name: np.asarray(x) for name, x in weights.items()}

  return run


def starts(folder):
  return json.loads((folder / "run.json").read_text())["starts"]


@pytest.mark.slow
def test_a_part_is_added_exactly_and_then_belongs_to_the_run(train, tmp_path, caplog):
  two = train("run", alpha=0.5)
  shutil.copytree(tmp_path / "run", tmp_path / "again")
  with pytest.raises(UserError, match=r"d\.txt"):  # a part that cannot be opened
    train("run", alpha=0.5, steps=8, parts="a+b+d")
  with caplog.at_level("WARNING"):
    whole = train("run", alpha=0.5, steps=8, parts="a+b+c")
  assert "begin here: c" in caplog.text
  train("again", alpha=0.5, steps=6, parts="a+b+c")
  again = train("again", alpha=0.5, steps=8, parts="a+b+c")
  for name, x in whole.items():
    np.testing.assert_array_equal(again[name], x, err_msg=name)
    assert (two[name] != x).any()
  first, *_, last = starts(tmp_path / "run")
  assert first["rates"] == {"a": 0.667, "b": 0.333}
  assert last["rates"] == {"a": 0.5, "b": 0.25, "c": 0.25}
  assert first["streams"] == last["streams"] == 2
  for arguments, key in [
    (dict(parts="a+b"), r"parts\.c\."),
    (dict(parts="a+c"), r"parts\.b\."),
    (dict(parts="a+b+c", seed=1), "seed"),
  ]:
    with pytest.raises(UserError, match=f"another run(.|\n)*{key}"):
      train("run", steps=10, **dict(alpha=0.5) | arguments)


def test_a_listed_mixture_gets_no_part(train, tmp_path):
  train("run", streams=0, steps=2)
  assert starts(tmp_path / "run")[0]["streams"] == 0
  with pytest.raises(UserError, match=r"another run(.|\n)*parts\.c\."):
    train("run", streams=0, steps=4, parts="a+b+c")


def test_only_what_a_checkpoint_has_read_is_fixed():
  rates = {"a": 0.5, "b": 0.5}
  starts = [
    dict(after=0, rates=rates, streams=2),
    dict(after=4),  # it did not come to its data
    dict(after=4, rates=rates | {"c": 0.2}, streams=2),
  ]
  configs = [{"task.parts.c.share": 1.0, "task.parts.a.share": 1.0}, {"task.parts.d.data.x": 1}]
  assert added_parts.find(configs, starts, 4) == ["task.parts.c", "task.parts.d"]
  assert added_parts.find(configs, starts, 5) == ["task.parts.d"]
  assert added_parts.find(configs, starts[:1], 0) == []
  assert added_parts.find(configs, [starts[0] | dict(streams=0)], 4) == []
