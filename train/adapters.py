"""Loads several runs that adapt one model (lora.rank), whose weights are in memory once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from absl import logging
from flax import nnx

from train import pretrained, schema, sharding, state
from train.common import trees
from train.common.errors import UserError
from train.compression import lora
from train.inference import Predictor, Run, task_of
from train.record import others


class Base(NamedTuple):
  """The model that all runs adapt: facts that tell it from others, and its weights by path."""

  facts: dict[str, Any]
  weights: dict[str, jax.Array]


def load_adapters(
  workdirs: Sequence,
  checkpoint="latest",
  *,
  batch_size: int | None = None,
  source_lang: str = "",
  target_lang: str = "",
  **decoding,
) -> list[Predictor]:
  """Loads runs that trained adapters of one model, with the weights of that model once.

  Adapters stay beside the kernels, which are integers where the runs were trained on such (QLoRA).
  The other arguments are those of `load`. Raises UserError for a run without adapters, and for runs
  of different models.
  """
  runs, loaded, base = [pretrained.open(workdir) for workdir in workdirs], [], None
  for run in runs:
    if not isinstance(run, pretrained.Adapted):
      raise UserError(f"{run.name} has no adapters (lora.rank): load it by itself")
  mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
  for run in runs:
    facts = _facts(run)
    base = base or Base(facts, {})
    if differ := [key for key in facts if facts[key] != base.facts[key]]:
      raise UserError(
        f"{run.name} adapts another model than {runs[0].name}: {differ[0]} is {facts[differ[0]]},"
        f" and there {base.facts[differ[0]]}"
      )
    task = task_of(run, batch_size, source_lang, target_lang, decoding)
    one = _load(run, task, str(checkpoint), mesh, base.weights)
    loaded.append(Predictor(one, task.settings(**decoding)))
  return loaded


def _facts(run: pretrained.Adapted) -> dict[str, Any]:
  """Returns what tells the model that a run adapts from others."""
  cfg, base = schema.complete(run.config), others.noted(run.path, "base")
  start = cfg.init_from
  return {
    "the checksum of its weights": trees.checksum(run.origin()[1]) if base is None else base,
    "init_from.encoder_layers": start.encoder_layers,
    "init_from.decoder_layers": start.decoder_layers,
    "quantize": cfg.quantize.to_dict(),
  }


def _load(run: pretrained.Adapted, task, checkpoint: str, mesh, base: dict) -> Run:
  """Returns a run with the weights `base` (path -> array) of the other model, to which those are
  added that it lacks."""
  cfg = schema.complete(run.config)
  model = nnx.eval_shape(lambda: state.changed_model(cfg, task, mesh))
  graph, tree = sharding.split(model, mesh)
  like, trained = trees.flatten(tree), lora.is_trained(cfg.lora)
  frozen = [path for path in like if not trained(path)]
  if missing := [path for path in frozen if path not in base]:
    run.origin()  # whose weights must be those that were adapted
    taken = state.taken_weights(cfg, task, like)
    base |= {path: sharding.put_weight(taken[path], like[path]) for path in missing}
  own, steps = run.adapters(checkpoint)
  own = trees.match_layers(own, like)
  own = {path: sharding.put_weight(weight, like[path]) for path, weight in own.items()}
  logging.info("%s: checkpoint %s, steps %s, %d weights", run.name, checkpoint, steps, len(own))
  params = trees.replace(tree, {path: base[path] for path in frozen} | own)
  return Run(cfg, task, graph, params, mesh, steps)
