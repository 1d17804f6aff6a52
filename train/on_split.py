"""Computes losses and other numbers of any weights on the splits of a run, without its workdir."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
from flax import nnx

from train import evaluation, sharding, tasks
from train.common.errors import UserError
from train.common.trees import flatten, replace
from train.data import batches
from train.data.items import is_streamed
from train.step import make_eval_step


def has_data(cfg) -> bool:
  """Returns whether a config names data; that of hf:DIR, and of what is made of one, does not."""
  return "parts" in cfg.task or bool(cfg.task.get("data", {}).get("name"))


class OnSplit:
  """The task of the run `name`, whose splits are read in its batches, on all devices of this
  machine."""

  def __init__(self, cfg, task, name: str):
    if not has_data(cfg):
      raise UserError(
        f"{name} was made of hf:DIR and has no data: train a run from it first (init={name})"
      )
    if not isinstance(task, tasks.Mixture):  # listed, so that a part of a large split can be taken
      task = dataclasses.replace(task, data={**task.data, "stream": False})
    self.task, self.split = task, cfg.evaluate.split
    self.decode_examples = cfg.evaluate.decode_examples
    self.mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
    self.layout = tasks.layout(task, evaluation.rounded_up(cfg.batch_size, self.mesh))

  def loss(self, model: nnx.Module, weights: Mapping) -> dict[str, float]:
    """Returns the means of the losses of an abstract model with `weights` (path -> array) on the
    split that the run evaluates."""
    graph, params = self._placed(model, weights)
    of_split = batches.eval_batches(self.task.items(self.split), self.layout)
    return evaluation.loss(make_eval_step(self.task, graph), params, self.mesh, of_split)

  def scores(self, model: nnx.Module, weights: Mapping, decodes: bool) -> dict[str, float]:
    """Returns the losses and, where it `decodes`, the scores that an evaluation of the run has."""
    graph, params = self._placed(model, weights)
    items = self.task.items(self.split)
    split = evaluation.Split(self.task, graph, self.mesh, self.split, items, self.layout)
    evaluated = evaluation.Pass(split, params, batches.eval_batches(items, self.layout))
    return evaluated.loss() | (evaluated.score(limit=self.decode_examples)[0] if decodes else {})

  def gather(
    self, model: nnx.Module, weights: Mapping, split: str, compute: Callable, merge: Callable, most
  ) -> dict:
    """Returns `compute(model, batch)`, a dict of arrays, of `most` batches spread evenly over a
    split, merged by `merge(one, other)`; raises UserError for a split without examples."""
    items = self.task.items(split)
    if is_streamed(items):
      raise UserError(f"the split {split} is streamed, endlessly: name another split")
    if not len(items.lengths()):
      raise UserError(f"the split {split} has no examples: name another split")
    graph, params = self._placed(model, weights)
    step, found = jax.jit(lambda params, batch: compute(nnx.merge(graph, params), batch)), None
    with sharding.activation_sharding(self.mesh):
      for batch in batches.eval_batches(items, self.layout, most):
        values = jax.device_get(step(params, sharding.put(batch, self.mesh)))
        found = values if found is None else jax.tree.map(merge, found, values)
    return found

  def _placed(self, model, weights):
    graph, like = sharding.split(model, self.mesh)
    names = flatten(like)
    placed = {path: sharding.put_weight(weights[path], names[path]) for path in names}
    return graph, replace(like, placed)
