"""Loss, outputs and scores of weights on a split."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from train import sharding
from train.data import batches
from train.record.meter import means


def loss(eval_step, params, mesh, held_out) -> dict[str, float]:
  """Means over all batches of `held_out`."""
  total = None
  with sharding.activation_sharding(mesh):
    for batch in held_out:
      sums = jax.device_get(eval_step(params, sharding.put(batch, mesh)))
      total = sums if total is None else jax.tree.map(np.add, total, sums)
  return means(total)


def decode(task, predict_step, params, mesh, examples, settings) -> list[dict]:
  """`task.outputs` of the examples, in order; one's output does not depend on the others.

  All processes decode the same examples together and all get the result.
  """
  requests = task.requests(examples)
  predictions: list = [None] * len(requests.lengths())
  # The fixed batch, rounded up so that the devices share it evenly.
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  rows = -(-task.decode_batch // shards) * shards
  for batch in batches.requests(requests, rows, task.source_len or task.target_len):
    with sharding.activation_sharding(mesh):
      found = predict_step(params, sharding.put_whole(batch, mesh), settings)
    found = sharding.fetch(found)
    for place, row in enumerate(batch["row"].tolist()):
      if row >= 0:
        predictions[row] = {name: values[place] for name, values in found.items()}
  return task.outputs(examples, requests, predictions, settings)


class Decoded(NamedTuple):
  """A task's outputs for examples of a split."""

  task: Any
  outputs: list[dict]
  examples: Sequence[Mapping]


def score(
  task, predict_step, params, mesh, split: str, changes: Mapping, most: int = 0
) -> tuple[dict, dict[str, Decoded]]:
  """Metrics from the first `most` examples of a split (0: all), predicted as the config says but
  for `changes`; and what was decoded. A mixture's parts each have a name and theirs, others ""."""
  scores, decoded = {}, {}
  for name, part in task.scored_parts(split).items():
    source = part.examples(split)
    examples = [source[i] for i in range(min(len(source), most or len(source)))]
    outputs = decode(part, predict_step, params, mesh, examples, part.settings(**changes))
    for metric, value in part.score(outputs, examples).items():
      scores[prefixed(name, metric, "/")] = value
    decoded[name] = Decoded(part, outputs, examples)
  return scores, decoded


def prefixed(part: str, name: str, between: str) -> str:
  """`name` with the part's in front, if it has one."""
  return f"{part}{between}{name}" if part else name
