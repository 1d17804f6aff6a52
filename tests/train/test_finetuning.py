"""A pre-trained body is taken over under a new head, frozen or with a rate of its own."""

import numpy as np
import pytest

from tests.helpers import load_config, train_config
from train.common.errors import UserError
from train.record.writer import read_metrics


@pytest.fixture(scope="module")
def mlm(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "mlm"
  return path, train_config("mlm.py:small,data={folder}/prose", corpus, path)


@pytest.fixture(scope="module")
def span(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "span"
  return path, train_config("span.py:small,data={folder}/prose", corpus, path)


@pytest.fixture(scope="module")
def electra(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("runs") / "electra"
  return path, train_config("electra.py:small,data={folder}/prose", corpus, path)


@pytest.mark.parametrize(
  "base",
  ["mlm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("span", "electra"))],
)
def test_a_pre_trained_encoder_moves_under_a_new_head(base, corpus, request, tmp_path):
  path, before = request.getfixturevalue(base)
  changes = {"schedule.peak": 0.0, "seed": 1}
  after = train_config(f"classify.py:small,data={corpus},init={path}", corpus, tmp_path, **changes)
  body = {name for name in after if not name.startswith("head/")}
  assert {name for name in before if name.startswith(("encoder/", "embedding/"))} == body
  for name in body:
    np.testing.assert_array_equal(after[name], before[name], err_msg=name)
  assert {"head/dense/kernel", "head/labels/kernel"} <= after.keys() - body
  if base == "mlm":  # its head's dense layer has the same name and shape, and is another's
    assert np.abs(after["head/dense/kernel"] - before["head/dense/kernel"]).max() > 0.01
  assert (tmp_path / "tokenizer.json").read_text() == (path / "tokenizer.json").read_text()
  assert (tmp_path / "labels.json").read_text() == '["dog", "none"]\n'


def test_random_weights_may_have_anothers_vocabulary(mlm, corpus, tmp_path):
  """A pre-trained model is compared with such a run."""
  path, before = mlm
  text = f"classify.py:small,data={corpus},tokenizer={path}"
  after = train_config(text, corpus, tmp_path, **{"schedule.peak": 0.0, "seed": 1})
  assert (tmp_path / "tokenizer.json").read_text() == (path / "tokenizer.json").read_text()
  table = "embedding/embedding"
  assert after[table].shape == before[table].shape
  assert np.abs(after[table] - before[table]).max() > 0.01
  with pytest.raises(UserError, match="tokenizer=RUN is for random weights"):
    load_config(f"{text},init={path}", corpus)


@pytest.mark.parametrize(
  "config",
  [
    pytest.param("text2text.py:", marks=pytest.mark.slow),
    pytest.param("prefix.py:", marks=pytest.mark.slow),
    "catalogs.py:",
  ],
)
def test_a_pre_trained_encoder_decoder_goes_on_as_it_is(config, span, corpus, tmp_path):
  path, before = span
  data = corpus / "prose" if config == "prefix.py:" else corpus
  text = f"{config}data={data},small,init={path}"
  after = train_config(text, corpus, tmp_path, **{"schedule.peak": 0.0})
  assert after.keys() == before.keys()
  for name, value in before.items():
    np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_frozen_weights_stay_and_a_rate_of_its_own_scales_the_step(mlm, corpus, tmp_path):
  path, before = mlm
  text = f"tag.py:small,suffix=.conll,data={corpus},init={path}"
  steps = {}
  for half, factor in (("whole", 1.0), ("half", 0.5)):
    rates = (("^embedding", 0.0), ("^encoder", factor), (".", 1.0))
    changes = {"optimizer.rates": rates, "steps": 1, "schedule.warmup_steps": 0}
    after = train_config(text, corpus, tmp_path / half, **changes)
    steps[half] = {name: after[name] - before[name] for name in after if name in before}
  assert not steps["whole"]["embedding/embedding"].any()
  moved = {name for name in steps["whole"] if name.startswith("encoder/")}
  assert any(steps["whole"][name].any() for name in moved)
  for name in moved:
    np.testing.assert_allclose(
      2 * steps["half"][name], steps["whole"][name], atol=2e-7, err_msg=name
    )


def test_a_weight_that_no_rate_covers_is_an_error_before_training(mlm, corpus, tmp_path):
  text = f"tag.py:small,suffix=.conll,data={corpus},init={mlm[0]}"
  with pytest.raises(
    UserError, match=r"optimizer.rates: no pattern matches head/labels.*'\.', 1.0"
  ):
    train_config(text, corpus, tmp_path, **{"optimizer.rates": (("^embedding|^encoder", 0.0),)})


def test_weights_that_do_not_move_are_listed(mlm, corpus, tmp_path):
  text = f"tag.py:small,suffix=.conll,data={corpus},init={mlm[0]}"
  with pytest.raises(UserError, match=r"head/dense/bias.*there, nothing here"):
    train_config(text, corpus, tmp_path, **{"init_from.skip": ("^head/labels", "^output_bias")})


def test_weights_of_another_vocabulary_are_not_taken(mlm, corpus, tmp_path):
  """The shapes are the same, the tokens are not."""
  changes = {"init_from.workdir": str(mlm[0]), "init_from.skip": ("^head/", "^output_bias")}
  changes["task.tokenizer.vocab_size"] = 440
  (tmp_path / "tokenizer.json").write_text("")  # of a start that saved nothing
  with pytest.raises(UserError, match="its tokenizer is not this run's"):
    train_config("tag.py:small,suffix=.conll,data={folder}", corpus, tmp_path, **changes)


@pytest.mark.parametrize(
  "config", ["tag.py:small,metric=f1,suffix=.conll,", "text2text.py:small,task=tag,suffix=.conll,"]
)
def test_a_metric_of_entities_is_refused_before_the_first_step(config, corpus, tmp_path):
  for split in ("train", "dev", "test"):
    lines = (corpus / f"{split}.conll").read_text().replace("B-dog", "NOUN")
    (tmp_path / f"{split}.conll").write_text(lines)
  changes = {"checkpoint.best_metric": "f1", "evaluate.decode_every": 2}
  run = tmp_path / "run"
  with pytest.raises(UserError, match=r"best_metric is 'f1'.*scheme.* NOUN;.*metric=accuracy"):
    train_config(f"{config}data={tmp_path}", corpus, run, **changes)
  assert not (run / "metrics.jsonl").exists()


def test_a_split_whose_tags_lack_the_scheme_is_named(corpus, tmp_path, caplog):
  for split in ("train", "dev", "test"):
    lines = (corpus / f"{split}.conll").read_text()
    lines = lines.replace("B-dog", "DOG") if split == "dev" else lines
    (tmp_path / f"{split}.conll").write_text(lines)
  train_config(f"tag.py:small,suffix=.conll,data={tmp_path}", corpus, tmp_path / "run")
  assert "validation: The tags are of no scheme of entities (DOG)" in caplog.text


def test_the_log_names_the_scheme_of_tags_and_accuracy_comes_with_f1(corpus, tmp_path, caplog):
  for split in ("train", "dev", "test"):
    lines = (corpus / f"{split}.conll").read_text().replace("B-dog", "U-dog")
    (tmp_path / f"{split}.conll").write_text(lines)
  changes = {"checkpoint.best_metric": "accuracy", "evaluate.decode_every": 2}
  with caplog.at_level("INFO", "absl"):
    train_config(f"tag.py:small,suffix=.conll,data={tmp_path}", corpus, tmp_path / "run", **changes)
  assert caplog.text.count("The tags are BILOU:") == 1
  (scored,) = [line for line in read_metrics(tmp_path / "run") if line["split"] == "validation"]
  assert {"accuracy", "precision", "recall", "f1"} <= scored.keys()
