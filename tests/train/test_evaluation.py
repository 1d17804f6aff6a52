"""What is evaluated when, early stopping, and the FLOPs that a run's MFU is made of."""

import functools
import threading
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from train import optimizer, pretrained, resolve, sharding
from train import state as state_module
from train.evaluation import EarlyStopping, Evaluation, predict
from train.planning import estimate


@given(st.lists(st.integers(0, 5)), st.integers(1, 4), st.sampled_from(["min", "max"]))
def test_over_when_the_last_values_brought_nothing(values, limit, mode):
  stopping = EarlyStopping(limit, "loss", mode)
  for value in values:
    stopping.add({"loss": value})
  better = min if mode == "min" else max
  # the first place of the best value, counted from the end
  waited = len(values) - 1 - values.index(better(values)) if values else 0
  assert stopping.due == (waited >= limit)


def test_other_metrics_do_not_count():
  stopping = EarlyStopping(1, "bleu", "max")
  for scores in ({"bleu": 30.0}, {"loss": 1.0}, {"loss": 2.0}):
    stopping.add(scores)
  assert not stopping.due
  stopping.add({"bleu": 29.0})
  assert stopping.due
  assert "1 evaluations without a bleu better than 30" in str(stopping)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_no_limit_never_ends(mode):
  stopping = EarlyStopping(0, "loss", mode)
  for _ in range(100):
    stopping.add({"loss": 1.0})
  assert not stopping.due


def evaluation(tmp_path, *overrides, **stopping):
  cfg = ConfigDict(resolve.load("configs/scan.py:small", overrides).to_dict())
  mesh = sharding.make_mesh(cfg.mesh)
  task = pretrained.build_task(cfg.task, tmp_path)
  tx, _ = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
  plan = state_module.blueprint(cfg, task, tx, mesh)
  early_stopping = EarlyStopping(**dict(patience=0, metric="loss", mode="min") | stopping)
  return Evaluation(cfg, task, plan.graph, mesh, early_stopping), plan.shapes


def test_flops_are_those_of_the_plan_also_where_a_kernel_hides_them(tmp_path, monkeypatch):
  run, state = evaluation(tmp_path)
  batch = estimate.blank_batch(run.task, run.cfg.batch_size)
  planned = estimate.forward_flops(run.cfg, run.task, run.mesh, state["params"], batch)
  assert run.forward_flops(state["params"]) == planned > 10**6
  traced = []

  def make_graph(cfg, *rest):
    traced.append(cfg.model.attention_impl)
    return state_module.make_graph(cfg, *rest)

  monkeypatch.setattr("train.evaluation.make_graph", make_graph)
  run.cfg.model.attention_impl = "xla"
  assert run.forward_flops(state["params"]) == planned
  assert traced == ["einsum"]


def test_loss_and_scores_are_due_at_their_steps_and_at_the_last(tmp_path, monkeypatch):
  words = ("steps=10", "evaluate.every=2", "evaluate.decode_every=4", "schedule.warmup_steps=0")
  run, _ = evaluation(tmp_path, *words, "checkpoint.best_metric=loss", patience=2)
  monkeypatch.setattr("train.evaluation.loss", lambda *_: {"loss": losses.pop(0)})
  monkeypatch.setattr("train.evaluation.score", lambda *_: ({"exact_match": 9.0, "sig": "x"}, {}))
  losses = [3.0, 2.0, 1.0, 1.5, 1.0]
  assert [step for step in range(1, 11) if run.is_due(step)] == [2, 4, 6, 8, 10]
  both, loss = {"loss", "exact_match"}, {"loss"}
  assert [run(step, None).keys() for step in (1, 2, 3, 4, 6, 8)] == [
    set(),
    loss,
    set(),
    both,
    loss,
    both,
  ]
  assert not run.early_stopping.due
  assert run(10, None).keys() == both
  assert run.early_stopping.due


def test_a_run_that_early_stopping_ends_is_decoded(tmp_path, monkeypatch):
  words = ("steps=9", "evaluate.every=1", "evaluate.decode_every=4", "schedule.warmup_steps=0")
  run, _ = evaluation(tmp_path, *words, "checkpoint.best_metric=loss", patience=1)
  monkeypatch.setattr("train.evaluation.loss", lambda *_: {"loss": 1.0})
  monkeypatch.setattr("train.evaluation.score", lambda *_: ({"exact_match": 9.0}, {}))
  assert run(1, None) == {"loss": 1.0}
  assert run(2, None) == {"loss": 1.0, "exact_match": 9.0}


def test_several_devices_compute_each_batch_before_the_next_one_is_announced(monkeypatch):
  """`before_batch` may be an exchange of all processes, whose order is that of their threads."""
  events = []

  def step(params, batch, settings):
    events.append(("computed", threading.current_thread() is threading.main_thread()))
    return dict(tokens=batch["row"])

  blank = [dict(row=np.array([[number]])) for number in range(3)]
  monkeypatch.setattr("train.evaluation.batches.requests", lambda *_: iter(blank))
  task = mock.Mock(search_tokens=8, rows_at_a_time=lambda *_: 8)
  requests = mock.Mock(lengths=lambda: [[1, 0]] * 3)
  mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
  assert mesh.size > 1
  monkeypatch.setattr("train.evaluation.sharding.put_whole", lambda batch, _: batch)
  announce = functools.partial(events.append, "announced")
  rows = predict(task, step, None, mesh, requests, None, announce)
  assert [row["tokens"].item() for row in rows] == [0, 1, 2]
  assert events == ["announced", ("computed", True)] * 3
