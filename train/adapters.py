"""Loads several runs that adapt one model (lora.rank), whose weights are in memory once."""

from collections.abc import Sequence

from absl import logging
from flax import nnx

from train import pretrained, schema, sharding, state
from train.common import trees
from train.common.errors import UserError
from train.compression import lora
from train.inference import Predictor, Run

ALIKE = ("init_from", "model", "quantize")  # sections of the runs


def load_adapters(
  workdirs: Sequence, checkpoint="latest", *, batch_size: int | None = None, **decoding
) -> list[Predictor]:
  """Loads runs that trained adapters of one model, with the weights of that model once.

  Adapters stay beside the kernels, which are integers where the runs were trained on such (QLoRA).
  checkpoint, batch_size and `decoding` are those of `load`. Raises UserError for a run without
  adapters, and for runs of different models.
  """
  runs = [pretrained.open(workdir) for workdir in workdirs]
  for run in runs:
    if not isinstance(run, pretrained.Adapted):
      raise UserError(f"{run.name} has no adapters (lora.rank): load it by itself")
  configs = [schema.complete(run.config) for run in runs]
  for run, cfg in zip(runs, configs):
    for key in ALIKE:
      if cfg[key] != configs[0][key]:
        raise UserError(f"{run.name} and {runs[0].name} adapt different models: compare {key}")
  mesh, base, loaded = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1)), {}, []
  for run, cfg in zip(runs, configs):
    task = run.task().configured(batch_size, **decoding)
    one = _load(run, cfg, task, str(checkpoint), mesh, base)
    loaded.append(Predictor(one, task.settings(**decoding)))
  return loaded


def _load(run: pretrained.Adapted, cfg, task, checkpoint: str, mesh, base: dict) -> Run:
  """Returns a run with the weights `base` (path -> array) of the other model, to which those are
  added that it lacks."""
  run.origin()  # raises where it has changed
  graph, shapes = nnx.split(nnx.eval_shape(lambda: state.changed_model(cfg, task, mesh)))
  shapes = dict(params=nnx.to_pure_dict(shapes))
  tree = sharding.abstract(shapes, sharding.place(shapes, mesh))["params"]
  like, trained = trees.flatten(tree), lora.is_trained(cfg.lora)
  frozen = [path for path in like if not trained(path)]
  if missing := [path for path in frozen if path not in base]:
    taken = state.taken_weights(cfg, task, like)
    base |= {path: sharding.put_weight(taken[path], like[path]) for path in missing}
  own, steps = run.adapters(checkpoint)
  own = trees.match_layers(own, like)
  own = {path: sharding.put_weight(weight, like[path]) for path, weight in own.items()}
  logging.info("%s: checkpoint %s, steps %s, %d weights", run.name, checkpoint, steps, len(own))
  params = trees.replace(tree, {path: base[path] for path in frozen} | own)
  return Run(cfg, task, graph, params, mesh, steps)
