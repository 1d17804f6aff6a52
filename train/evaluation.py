"""Evaluates weights on a split (loss, decoded outputs, scores), in a run at the due steps."""

import collections
import concurrent.futures
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from train import sharding, tasks
from train.build import without_kernels
from train.common import flops
from train.common.errors import UserError
from train.data import batches, packing
from train.data.items import Items, is_streamed
from train.data.source import read_many
from train.record.meter import means
from train.state import make_graph
from train.step import make_eval_step, make_predict_step, make_score_step


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
    self.items = task.items(cfg.evaluate.split)  # a mistake in the split is named before training
    if is_streamed(self.items):
      raise UserError(
        f"evaluate.split={cfg.evaluate.split}: its data are streamed, endlessly: set"
        f" task.data.limit.{cfg.evaluate.split} to a number of examples, or evaluate another split"
      )
    self.layout = tasks.layout(task, cfg.batch_size)
    self.split = Split(task, graph, mesh, cfg.evaluate.split, self.items, self.layout)

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
    loss_due, scores_due = self._due(step)
    run = Pass(self.split, params, self._batches, before_batch)
    values = run.loss() if loss_due else {}
    if scores_due:
      values |= self._scores(run)
    self.early_stopping.add(values)
    if self.early_stopping.due and self.cfg.evaluate.decode_every and not scores_due:
      values |= self._scores(run)
    return values

  def forward_flops(self, params) -> int:
    """Returns the FLOPs of the forward pass of a batch; evaluation reuses what is traced here."""
    eval_step, cfg = self.split.eval_step, without_kernels(self.cfg)
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

  def _scores(self, run: "Pass") -> dict[str, float]:
    values, _ = run.score(limit=self.cfg.evaluate.decode_examples)
    return {name: value for name, value in values.items() if not isinstance(value, str)}


class Split:
  """A split of a task's data, and the programs that evaluate weights on it, each compiled once."""

  def __init__(self, task, graph, mesh, name: str, items: Items, layout: batches.Layout):
    self.task, self.mesh, self.name, self.items, self.layout = task, mesh, name, items, layout
    make_step = make_score_step if task.one_pass else make_eval_step
    self.eval_step, self.predict_step = make_step(task, graph), make_predict_step(task, graph)

  @functools.cached_property
  def rows(self) -> list[list[list[int]]]:
    """Returns the numbers of the requests in each row of each packed batch."""
    return [
      [[number for item in row for number in self.items.request_numbers(item)] for row in rows]
      for rows in batches.eval_rows(self.items, self.layout)
    ]

  @functools.cached_property
  def lengths(self) -> list[int]:
    """Returns the tokens of each request."""
    return self.items.requests.lengths()[:, 0].tolist()


class Pass:
  """Evaluates weights on a split: the loss by its packed rows `eval_batches`, and the scores.

  For a task with `one_pass`, the forward pass that computes the loss predicts too and runs once;
  any other task predicts from requests. Calls `before_batch()` before each batch.
  """

  def __init__(
    self, split: Split, params, eval_batches: Iterable[Mapping], before_batch=lambda: None
  ):
    self.split, self.params, self.eval_batches = split, params, eval_batches
    self.before_batch = before_batch

  def loss(self) -> dict[str, float]:
    """Returns the means of the task's losses and metrics."""
    return self._results[0]

  def score(self, changes: Mapping = types.MappingProxyType({}), limit: int = 0):
    """Returns what `score` does."""
    return score(self.split.task, self._predict, self.split.name, changes, limit)

  @functools.cached_property
  def _results(self) -> tuple[dict[str, float], dict[int, dict[str, np.ndarray]]]:
    """Returns the losses and, of a task with `one_pass`, the prediction for each request."""
    split = self.split
    if not split.task.one_pass:
      return self._loss(split.eval_step), {}
    rows, predictions = iter(split.rows), {}

    def step(params, batch):
      sums, predicted = split.eval_step(params, batch)
      predicted = sharding.fetch(predicted)
      for number, values in packing.unpack(next(rows), split.lengths, predicted):
        if not split.task.per_token:
          values = {key: x[0].copy() for key, x in values.items()}
        predictions[number] = values
      return sums

    return self._loss(step), predictions

  def _loss(self, eval_step) -> dict[str, float]:
    return loss(eval_step, self.params, self.split.mesh, self.eval_batches, self.before_batch)

  def _predict(self, part, requests, settings) -> list[dict[str, np.ndarray]]:
    split = self.split
    if split.task.one_pass:  # the requests of the first examples are the first requests
      return [self._results[1][number] for number in range(len(requests.index))]
    step, before_batch = split.predict_step, self.before_batch
    return predict(part, step, self.params, split.mesh, requests, settings, before_batch)


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


def decode(task, predict: Callable, examples: Sequence[Mapping], settings) -> list[dict]:
  """Returns `task.outputs` of the examples, in order. No output depends on the other examples.

  `predict(task, requests, settings)` returns what the function `predict` does. All processes decode
  the same examples together and get the same outputs.
  """
  requests = task.requests(examples)
  return task.outputs(examples, requests, predict(task, requests, settings), settings)


def predict(
  task, predict_step, params, mesh, requests: Items, settings, before_batch=lambda: None
) -> list[dict[str, np.ndarray]]:
  """Returns a row of what `task.predict` returns for each request, in order."""
  predictions: list = [None] * len(requests.lengths())
  platform, longest = mesh.devices.flat[0].platform, task.source_len or task.target_len
  rows = rounded_up(task.rows_at_a_time(settings, platform), mesh)
  # The products of a search are too small for several cores: with two searches at a time a CPU
  # writes 1.3 times the tokens a second. Several devices compute in one order, in this thread, as
  # `before_batch` may be an exchange of all processes.
  both = platform == "cpu" and task.search_tokens and mesh.size == 1
  compute_all = _two_at_a_time if both else map

  def compute(batch):
    with sharding.activation_sharding(mesh):
      predicted = predict_step(params, sharding.put_whole(batch, mesh), settings)
    return batch["row"], sharding.fetch(predicted)

  def due():
    for batch in batches.requests(requests, rows, longest, task.search_tokens):
      before_batch()
      yield batch

  for numbers, predicted in compute_all(compute, due()):
    for row, number in enumerate(numbers.reshape(-1).tolist()):
      if number >= 0:
        predictions[number] = {name: values[row] for name, values in predicted.items()}
  return predictions


def _two_at_a_time(function: Callable, values: Iterable) -> Iterator:
  """Yields the function of each value, in order, as `map` does."""
  pending = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for value in values:
      pending.append(pool.submit(function, value))
      if len(pending) > 2:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()


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
  task, predict: Callable, split: str, changes: Mapping, limit: int = 0
) -> tuple[dict, dict[str, Decoded]]:
  """Returns metrics from the first `limit` examples of a split (0: all), and what was decoded.

  `predict` is as in `decode`. `changes` replace settings of the task's decoding. The parts of a
  mixture are scored one by one, under their names; the name of any other task is "".
  """
  scores, decoded = {}, {}
  for name, part in task.scored_parts(split).items():
    source = part.examples(split)
    examples = read_many(source, range(min(len(source), limit or len(source))))
    settings = part.settings(**changes)
    outputs = decode(part, predict, examples, settings)
    for metric, value in part.score(outputs, examples).items():
      scores[prefixed(name, metric, "/")] = value
    decoded[name] = Decoded(part, outputs, examples)
  return scores, decoded


def prefixed(part: str, name: str, separator: str) -> str:
  """Returns `name` after the part's name and the separator, or alone if the part has no name."""
  return f"{part}{separator}{name}" if part else name
