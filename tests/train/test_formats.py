"""A checkpoint of the first format is still read, and its run goes on as it went.

tests/fixtures/formats/1 is of commit fc76736: `configs/scan.py:small` with the settings of its
config.json, saved after step 3, and the weights that this commit had after step 6.
"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import checkpoint, loop, schema
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.common.trees import flatten
from train.record import config, older, workdir

FIRST = pathlib.Path(__file__).parents[1] / "fixtures" / "formats" / "1"


@pytest.fixture
def old(tmp_path):
  return shutil.copytree(FIRST, tmp_path / "old")


def test_a_run_of_the_first_format_goes_on_as_it_went(old):
  cfg = schema.complete(workdir.again(old))
  told = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
  defaults = config.flat(schema.defaults(cfg))
  with workdir.open_run(old, cfg, ["again"], defaults=defaults) as run:
    assert loop.train(cfg, run) == 0
  again = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
  assert len(again) == len(told) == 3
  for before, now in zip(told, again):
    assert now["loss"] == pytest.approx(before["loss"], rel=1e-5)
  wanted = np.load(old / "weights_after_6.npz")
  with Checkpoints(old, keep_latest=9) as checkpoints:
    assert checkpoints.steps("latest") == [6]
    found = flatten(checkpoints.params("latest"))
  assert found.keys() == set(wanted)
  for name, x in found.items():
    if name.endswith(
      "key/bias"
    ):  # moves no softmax: its gradient is rounding, which Adam scales up
      continue
    np.testing.assert_allclose(x, wanted[name], atol=1e-5, err_msg=name)


def test_what_came_later_is_as_in_a_new_run(old):
  assert not older.ADDED.keys() & config.flat(workdir.load_config(old)).keys()
  assert config.flat(workdir.again(old)).items() >= older.ADDED.items()
  assert workdir.again(old).model.name == "transformer"


def test_a_format_of_the_future_is_refused_by_name(tmp_path, monkeypatch):
  class Data:
    def get_state(self):
      return {}

  state = dict(step=jnp.int32(1), params={"w": jnp.ones(3)}, opt_state={})
  monkeypatch.setattr(checkpoint, "FORMAT", 99)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state, Data())
  monkeypatch.undo()
  for like in (None, jax.tree.map(lambda x: x, state["params"])):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="format 99"):
      checkpoints.params("latest", like)
