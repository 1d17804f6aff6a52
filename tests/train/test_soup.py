"""A greedy soup is never worse than its best run, on the split that it is judged by."""

import json

import numpy as np
import pytest

from tests.helpers import train_config
from train import inference, soup
from train.common.errors import UserError
from train.common.trees import flatten
from train.on_split import OnSplit

pytestmark = pytest.mark.slow  # three runs to begin with
LOSS = ("--metric", "loss", "--mode", "min")


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs")
  weights = {}
  for seed, peak in ((0, 0.001), (1, 0.001), (2, 0.5)):  # the last one diverges
    path = folder / f"seed{seed}"
    changes = {"seed": seed, "schedule.peak": peak}
    weights[path] = train_config("classify.py:small,data={folder}", corpus, path, **changes)
  return weights


def cook(runs, out, capsys, *more):
  soup.main(["--runs", *map(str, runs), "--out", str(out), *more])
  return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_soup_is_the_mean_of_what_it_takes(runs, tmp_path, capsys):
  found = cook(runs, tmp_path / "soup", capsys, *LOSS)
  taken = [weights for path, weights in runs.items() if str(path) in found["taken"]]
  assert 1 <= len(taken) <= 2
  loaded = flatten(inference.load_run(tmp_path / "soup", "latest").params)
  for name, weight in loaded.items():
    mean = np.mean([weights[name] for weights in taken], axis=0)
    np.testing.assert_allclose(weight, mean, rtol=1e-6, atol=1e-8, err_msg=name)
  alone = [
    cook(pair, tmp_path / f"pair{i}", capsys, *LOSS)["loss"]
    for i, pair in enumerate(([*runs][:2], [*runs][1:]))
  ]
  assert found["loss"] <= min(alone) + 1e-9


def test_a_uniform_soup_takes_all(runs, tmp_path, capsys):
  found = cook(runs, tmp_path / "all", capsys, *LOSS, "--uniform")
  assert set(found["taken"]) == set(map(str, runs))
  loaded = flatten(inference.load_run(tmp_path / "all", "latest").params)
  for name, weight in loaded.items():
    mean = np.mean([weights[name] for weights in runs.values()], axis=0)
    np.testing.assert_allclose(weight, mean, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_run_that_diverged_is_named(runs, tmp_path, capsys, monkeypatch):
  values = iter([1.0, float("nan"), 2.0])
  monkeypatch.setattr(OnSplit, "scores", lambda *args, **options: {"loss": next(values)})
  with pytest.raises(UserError, match=r"loss of .*seed1 is nan: leave it out"):
    cook(runs, tmp_path / "x", capsys, *LOSS)


def test_runs_may_differ_in_what_training_alone_reads(runs, corpus, tmp_path, capsys):
  other = tmp_path / "other"
  changes = {"model.dropout": 0.3, "task.class_weights": "balanced", "seed": 5}
  train_config("classify.py:small,data={folder}", corpus, other, **changes)
  found = cook([*[*runs][:1], other], tmp_path / "soup", capsys, *LOSS, "--uniform")
  assert len(found["taken"]) == 2
  inference.load(tmp_path / "soup")(["the dog runs"])


def test_runs_of_other_models_are_refused(runs, corpus, tmp_path, capsys):
  other = tmp_path / "other"
  train_config("classify.py:small,data={folder}", corpus, other, **{"model.mlp_dim": 32})
  with pytest.raises(UserError, match=r"differ:\n  model.mlp_dim"):
    cook([*runs, other], tmp_path / "x", capsys)
  with pytest.raises(UserError, match="seed0 is named 2 times"):
    cook([*[*runs][:1], f"{next(iter(runs))}/"], tmp_path / "x", capsys)
  with pytest.raises(UserError, match="two runs or more"):
    cook([*runs][:1], tmp_path / "x", capsys)
  with pytest.raises(UserError, match="--mode max, or"):
    cook(runs, tmp_path / "x", capsys, "--metric", "perplexity")
  with pytest.raises(UserError, match="--metric blue"):
    cook(runs, tmp_path / "x", capsys, "--metric", "blue", "--mode", "max")
