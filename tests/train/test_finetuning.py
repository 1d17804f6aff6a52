"""A pre-trained body is taken over under a new head, frozen or with a rate of its own."""

import numpy as np
import pytest

from tests.test_configs import folder, load
from train import loop
from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.common.trees import flatten
from train.record import workdir

__all__ = ["folder"]  # a fixture


def trained(text, folder, path, **changes):
  """Returns the weights by path after a short run of a config."""
  cfg = load(text, folder)
  with cfg.unlocked():
    cfg.steps, cfg.evaluate.every, cfg.evaluate.decode_every = 2, 2, 0
    cfg.schedule.warmup_steps, cfg.checkpoint.best_metric = 1, "loss"
    cfg.update_from_flattened_dict(changes)
  with workdir.open_run(path, cfg, ["test"]) as run:
    loop.train(cfg, run)
  with Checkpoints(path) as saved:
    return {name: np.asarray(x) for name, x in flatten(saved.params("latest")).items()}


@pytest.fixture(scope="module")
def mlm(folder, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "mlm"
  return path, trained("mlm.py:small,data={folder}/prose", folder, path)


@pytest.fixture(scope="module")
def span(folder, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "span"
  return path, trained("span.py:small,data={folder}/prose", folder, path)


@pytest.fixture(scope="module")
def electra(folder, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "electra"
  return path, trained("electra.py:small,data={folder}/prose", folder, path)


@pytest.mark.parametrize("base", ["mlm", "span", pytest.param("electra", marks=pytest.mark.slow)])
def test_a_pre_trained_encoder_moves_under_a_new_head(base, folder, request, tmp_path):
  path, before = request.getfixturevalue(base)
  changes = {"schedule.peak": 0.0, "seed": 1}
  after = trained(f"classify.py:small,data={folder},init={path}", folder, tmp_path, **changes)
  body = {name for name in after if not name.startswith("head/")}
  assert {name for name in before if name.startswith(("encoder/", "embedding/"))} == body
  for name in body:
    np.testing.assert_array_equal(after[name], before[name], err_msg=name)
  assert {"head/dense/kernel", "head/labels/kernel"} <= after.keys() - body
  if base == "mlm":  # its head's dense layer has the same name and shape, and is another's
    assert np.abs(after["head/dense/kernel"] - before["head/dense/kernel"]).max() > 0.01
  assert (tmp_path / "tokenizer.json").read_text() == (path / "tokenizer.json").read_text()
  assert (tmp_path / "labels.json").read_text() == '["dog", "none"]\n'


def test_random_weights_may_have_anothers_vocabulary(mlm, folder, tmp_path):
  """A pre-trained model is compared with such a run."""
  path, before = mlm
  text = f"classify.py:small,data={folder},tokenizer={path}"
  after = trained(text, folder, tmp_path, **{"schedule.peak": 0.0, "seed": 1})
  assert (tmp_path / "tokenizer.json").read_text() == (path / "tokenizer.json").read_text()
  table = "embedding/embedding"
  assert after[table].shape == before[table].shape
  assert np.abs(after[table] - before[table]).max() > 0.01
  with pytest.raises(UserError, match="tokenizer=RUN is for random weights"):
    load(f"{text},init={path}", folder)


@pytest.mark.parametrize(
  "config",
  [
    pytest.param("text2text.py:", marks=pytest.mark.slow),
    pytest.param("prefix.py:", marks=pytest.mark.slow),
    "catalogs.py:",
  ],
)
def test_a_pre_trained_encoder_decoder_goes_on_as_it_is(config, span, folder, tmp_path):
  path, before = span
  data = folder / "prose" if config == "prefix.py:" else folder
  text = f"{config}data={data},small,init={path}"
  after = trained(text, folder, tmp_path, **{"schedule.peak": 0.0})
  assert after.keys() == before.keys()
  for name, value in before.items():
    np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_frozen_weights_stay_and_a_rate_of_its_own_scales_the_step(mlm, folder, tmp_path):
  path, before = mlm
  text = f"tag.py:small,suffix=.conll,data={folder},init={path}"
  steps = {}
  for half, factor in (("whole", 1.0), ("half", 0.5)):
    rates = (("^embedding", 0.0), ("^encoder", factor), (".", 1.0))
    changes = {"optimizer.rates": rates, "steps": 1, "schedule.warmup_steps": 0}
    after = trained(text, folder, tmp_path / half, **changes)
    steps[half] = {name: after[name] - before[name] for name in after if name in before}
  assert not steps["whole"]["embedding/embedding"].any()
  moved = {name for name in steps["whole"] if name.startswith("encoder/")}
  assert any(steps["whole"][name].any() for name in moved)
  for name in moved:
    np.testing.assert_allclose(
      2 * steps["half"][name], steps["whole"][name], atol=2e-7, err_msg=name
    )


def test_a_weight_that_no_rate_covers_is_an_error_before_training(mlm, folder, tmp_path):
  text = f"tag.py:small,suffix=.conll,data={folder},init={mlm[0]}"
  with pytest.raises(
    UserError, match=r"optimizer.rates: no pattern matches head/labels.*'\.', 1.0"
  ):
    trained(text, folder, tmp_path, **{"optimizer.rates": (("^embedding|^encoder", 0.0),)})


def test_weights_that_do_not_move_are_listed(mlm, folder, tmp_path):
  text = f"tag.py:small,suffix=.conll,data={folder},init={mlm[0]}"
  with pytest.raises(UserError, match=r"head/dense/bias.*there, nothing here"):
    trained(text, folder, tmp_path, **{"init_from.skip": ("^head/labels", "^output_bias")})


def test_weights_of_another_vocabulary_are_not_taken(mlm, folder, tmp_path):
  """The shapes are the same, the tokens are not."""
  changes = {"init_from.workdir": str(mlm[0]), "init_from.skip": ("^head/", "^output_bias")}
  changes["task.tokenizer.vocab_size"] = 440
  (tmp_path / "tokenizer.json").write_text("")  # of a start that saved nothing
  with pytest.raises(UserError, match="its tokenizer is another than this run's"):
    trained("tag.py:small,suffix=.conll,data={folder}", folder, tmp_path, **changes)
