"""Counts the parameters and FLOPs of a run's model from its config and folder."""

import json
import pathlib
import tempfile

import jax
from flax import nnx
from ml_collections import ConfigDict

from experiments.tools.compare.trained import TrainedRun
from train import sharding, tasks
from train.build import build_model, without_kernels
from train.common import json_files
from train.common.errors import UserError, as_user_error
from train.data import sources
from train.planning import estimate
from train.record import older, workdir
from train.record.config import frozen


def cost(run: TrainedRun) -> tuple[int, int]:
  """Returns the parameters and the FLOPs of a step: three times the traced forward pass's products.

  Padding and masked attention are included, recomputation is not. Nothing is compiled, and no data
  are read. Raises UserError where today's code cannot build the model.
  """
  cfg = without_kernels(estimate.without_data(older.complete(run.cfg)))
  cfg.model.vocab_size = run.cfg.model.vocab_size
  cfg.mesh = ConfigDict(dict(data=1, fsdp=1, tensor=1, sequence=False))
  mesh = sharding.make_mesh(cfg.mesh, jax.devices("cpu")[:1])
  with tempfile.TemporaryDirectory() as folder, as_user_error("its model can't be built"):
    folder = pathlib.Path(folder)
    copied = [name for name in workdir.MADE_OF_DATA if (run.path / name).exists()]
    for name in copied:
      (folder / name).write_bytes((run.path / name).read_bytes())
    _blank_labels(cfg.task, folder / "labels.json")
    task = tasks.build(frozen(cfg).task, folder)
    if missing := {file.name for file in folder.iterdir()} - set(copied):
      raise UserError(f"its folder lacks {min(missing)}")
    _, shapes = nnx.split(nnx.eval_shape(lambda: build_model(cfg.model, task, cfg.seed, "cpu")))
    state = dict(params=nnx.to_pure_dict(shapes))
    batch = estimate.blank_batch(task, cfg.batch_size)
    forward = estimate.forward_flops(cfg, task, mesh, state, batch)
  return sum(x.size for x in jax.tree.leaves(state)), 3 * forward


def _blank_labels(task, file):
  """Replaces the labels by as many others, among them those of the blank data."""
  blank = (sources.BLANK["label"], *sources.BLANK["tags"])

  def others(labels):
    return (*blank, *map(str, range(1, len(labels))))[: len(labels)]

  for section in (task, *(task.parts.values() if "parts" in task else ())):
    if "labels" in section and section.labels:
      section.labels = others(section.labels)
  if file.exists():
    file.write_text(json.dumps(others(json_files.read(file, list[str]))), encoding="utf-8")
