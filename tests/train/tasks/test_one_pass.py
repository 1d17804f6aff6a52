"""One pass over packed rows evaluates as two do: the loss, and predictions from requests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.tasks.helpers import KINDS, LSTM, MODEL, build, layout
from train import evaluation, sharding
from train.data.batches import eval_batches
from train.step import make_eval_step, make_predict_step
from train.tasks import TASKS

ONE_PASS = [name for name, (_, section, _) in KINDS.items() if section["name"] in TASKS]
ONE_PASS = [name for name in ONE_PASS if TASKS[KINDS[name][1]["name"]].one_pass]


def test_tasks_that_score_labels_are_evaluated_in_one_pass():
  names = {KINDS[name][1]["name"] for name in ONE_PASS}
  assert names == {"classification", "multi_label", "numbers", "tagging", "qa", "choice"}


@pytest.mark.parametrize(
  "name, body",
  [*((name, MODEL) for name in ONE_PASS), ("tagging", LSTM), ("windows of classes", LSTM)],
)
def test_one_pass_gives_losses_predictions_and_scores_of_two(name, body, data, tmp_path):
  task, graph, params = build(name, data, tmp_path, body)
  params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)
  mesh, items = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1)), task.items("train")
  separate = list(eval_batches(items, layout(task, pack=False, batch_size=8)))
  losses = evaluation.loss(make_eval_step(task, graph), params, mesh, separate)
  predict = functools.partial(evaluation.predict, mesh=mesh, params=params)
  step, predicted = make_predict_step(task, graph), []

  def from_requests(part, requests, settings):
    predicted.append(predict(part, step, requests=requests, settings=settings))
    return predicted[-1]

  scores, decoded = evaluation.score(task, from_requests, "train", {})
  # rows twice as long as a window, where a task does not hold them to be as long
  wide = dict(source_len=2 * task.source_len) if "stride" in KINDS[name][1] else {}
  shape = layout(task, batch_size=8, **wide)
  packed = list(eval_batches(items, shape))
  assert len(packed) < len(separate)
  split = evaluation.Split(task, graph, mesh, "train", items, shape)
  run = evaluation.Pass(split, params, packed)
  assert run.loss() == pytest.approx(losses, rel=2e-5)
  one_pass_scores, one_pass = run.score()
  assert one_pass_scores == pytest.approx(scores, rel=1e-4)
  for a, b in zip(one_pass[""].outputs, decoded[""].outputs, strict=True):
    assert a.keys() == b.keys()
    assert name in ("regression", "vectors") or a["text"] == b["text"]
  rows = run._predict(task, task.requests(decoded[""].examples), None)
  for row, other in zip(rows, predicted[0], strict=True):
    for key, x in row.items():
      np.testing.assert_allclose(
        x, other[key][: len(x)] if task.per_token else other[key], 1e-4, 1e-5
      )
  # the first examples have the predictions that they have among all
  few, _ = run.score(limit=3)
  assert few == pytest.approx(evaluation.score(task, from_requests, "train", {}, 3)[0], rel=1e-4)
