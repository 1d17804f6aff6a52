"""Evaluates weights on a split (loss, decoded outputs, scores), in a run at the due steps."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from train import sharding, tasks
from train.build import without_kernels
from train.common import flops
from train.common.errors import UserError
from train.data import batches
from train.data.items import Items, is_streamed
from train.record.meter import means
from train.state import make_graph
from train.step import make_eval_step, make_predict_step


class EarlyStopping:
  """Ends a run when the last `patience` values of a validation metric were not the best (0: never).

  A metric is better when it is lower (mode "min") or higher ("max").
  """

  def __init__(self, patience: int, metric: str, mode: str):
    self.patience, self.metric, self.sign = patience, metric, 1 if mode == "min" else -1
    self.best, self.waited = float("inf"), 0

  def add(self, scores: Mapping) -> None:
    """Counts an evaluation, if the metric is among its scores."""
    if self.metric in scores:
      value = self.sign * scores[self.metric]
      self.waited = 0 if value < self.best else self.waited + 1
      self.best = min(self.best, value)

  @property
  def due(self) -> bool:
    """Returns whether the run should end."""
    return bool(self.patience) and self.waited >= self.patience

  def __str__(self):
    """Returns the end of a message that a run ended; empty if early stopping is not due."""
    if not self.due:
      return ""
    best = f"{self.metric} better than {self.sign * self.best:.4g}"
    return f": early stopping after {self.waited} evaluations without a {best} (patience)"


class Evaluation:
  """The evaluations of a run on its split `evaluate.split`."""

  def __init__(self, cfg: ConfigDict, task, graph, mesh, early_stopping: EarlyStopping):
    self.cfg, self.task, self.mesh, self.early_stopping = cfg, task, mesh, early_stopping
    self.eval_step = make_eval_step(task, graph)
    self.predict_step = make_predict_step(task, graph)
    self.items = task.items(cfg.evaluate.split)  # a mistake in the split is named before training
    if is_streamed(self.items):
      raise UserError(
        f"evaluate.split={cfg.evaluate.split}: its data are streamed, endlessly: set"
        f" task.data.limit.{cfg.evaluate.split} to a number of examples, or evaluate another split"
      )
    self.layout = tasks.layout(task, cfg.batch_size)

  def is_due(self, step: int) -> bool:
    """Returns whether a loss or decoded scores are due after `step`."""
    return any(self._due(step))

  def is_long(self, step: int) -> bool:
    """Returns whether the evaluation after `step` decodes, or is the first, which tokenizes the
    split and compiles: a run saves before it, as a batch of it may take longer than a person or a
    cluster's scheduler waits."""
    loss_due, scores_due = self._due(step)
    return scores_due or (loss_due and "_batches" not in self.__dict__)

  def _due(self, step) -> tuple[bool, bool]:
    """Returns whether the loss and whether decoded scores are due; both are at the end."""
    every, decode_every = self.cfg.evaluate.every, self.cfg.evaluate.decode_every
    last = step == self.cfg.steps
    return step % every == 0 or last, decode_every > 0 and (step % decode_every == 0 or last)

  def __call__(self, step: int, params, before_batch=lambda: None) -> dict[str, float]:
    """Returns the loss and scores due after `step`; decodes too where early stopping ends the run.

    Calls `before_batch()` before each batch, which leaves the evaluation if it raises.
    """
    values, (loss_due, scores_due) = {}, self._due(step)
    if loss_due:
      values |= loss(self.eval_step, params, self.mesh, self._batches, before_batch)
    if scores_due:
      values |= self._scores(params, before_batch)
    self.early_stopping.add(values)
    if self.early_stopping.due and self.cfg.evaluate.decode_every and not scores_due:
      values |= self._scores(params, before_batch)
    return values

  def forward_flops(self, params) -> int:
    """Returns the FLOPs of the forward pass of a batch; evaluation reuses what is traced here."""
    eval_step, cfg = self.eval_step, without_kernels(self.cfg)
    if cfg is not self.cfg:
      eval_step = make_eval_step(self.task, make_graph(cfg, self.task, self.mesh))
    fill = batches.BatchBuilder(self.items, self.layout.source_len, self.layout.target_len)
    with sharding.activation_sharding(self.mesh):
      traced = eval_step.trace(params, fill([[]] * cfg.batch_size))
    return flops.count(traced.jaxpr, self.mesh.size)

  @functools.cached_property
  def _batches(self) -> list[dict[str, np.ndarray]]:
    # The batches stay in host memory, as each evaluation would tokenize and pack the split again.
    return list(batches.eval_batches(self.items, self.layout))

  def _scores(self, params, before_batch) -> dict[str, float]:
    split, limit = self.cfg.evaluate.split, self.cfg.evaluate.decode_examples
    values, _ = score(
      self.task, self.predict_step, params, self.mesh, split, {}, limit, before_batch
    )
    return {name: value for name, value in values.items() if not isinstance(value, str)}


def loss(
  eval_step,
  params,
  mesh,
  eval_batches: Iterable[Mapping],
  before_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
  """Returns the means of the task's losses and metrics over all batches."""
  total = None
  with sharding.activation_sharding(mesh):
    for batch in eval_batches:
      before_batch()
      sums = jax.device_get(eval_step(params, sharding.put(batch, mesh)))
      total = sums if total is None else jax.tree.map(np.add, total, sums)
  return means(total)


def decode(
  task, predict_step, params, mesh, examples: Sequence[Mapping], settings, before_batch=lambda: None
) -> list[dict]:
  """Returns `task.outputs` of the examples, in order. No output depends on the other examples.

  All processes decode the same examples together and get the same outputs.
  """
  requests = task.requests(examples)
  predictions = predict(task, predict_step, params, mesh, requests, settings, before_batch)
  return task.outputs(examples, requests, predictions, settings)


def predict(
  task, predict_step, params, mesh, requests: Items, settings, before_batch=lambda: None
) -> list[dict[str, np.ndarray]]:
  """Returns a row of what `task.predict` returns for each request, in order."""
  predictions: list = [None] * len(requests.lengths())
  rows = rounded_up(task.decode_batch, mesh)
  for batch in batches.requests(requests, rows, task.source_len or task.target_len):
    before_batch()
    with sharding.activation_sharding(mesh):
      predicted = predict_step(params, sharding.put_whole(batch, mesh), settings)
    predicted = sharding.fetch(predicted)
    for row, number in enumerate(batch["row"].tolist()):
      if number >= 0:
        predictions[number] = {name: values[row] for name, values in predicted.items()}
  return predictions


def rounded_up(rows: int, mesh) -> int:
  """Returns the rows of a batch that the devices share evenly, at least `rows`."""
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  return -(-rows // shards) * shards


class Decoded(NamedTuple):
  """A task's outputs for examples of a split."""

  task: Any
  outputs: list[dict]
  examples: Sequence[Mapping]


def score(
  task,
  predict_step,
  params,
  mesh,
  split: str,
  changes: Mapping,
  limit: int = 0,
  before_batch=lambda: None,
) -> tuple[dict, dict[str, Decoded]]:
  """Returns metrics from the first `limit` examples of a split (0: all), and what was decoded.

  `changes` replace settings of the task's decoding. The parts of a mixture are scored one by one,
  under their names; the name of any other task is "".
  """
  scores, decoded = {}, {}
  for name, part in task.scored_parts(split).items():
    source = part.examples(split)
    examples = [source[i] for i in range(min(len(source), limit or len(source)))]
    settings = part.settings(**changes)
    outputs = decode(part, predict_step, params, mesh, examples, settings, before_batch)
    for metric, value in part.score(outputs, examples).items():
      scores[prefixed(name, metric, "/")] = value
    decoded[name] = Decoded(part, outputs, examples)
  return scores, decoded


def prefixed(part: str, name: str, separator: str) -> str:
  """Returns `name` after the part's name and the separator, or alone if the part has no name."""
  return f"{part}{separator}{name}" if part else name
