"""Builds what a run begins with, for measurements of its steps without a workdir."""

import tempfile
from typing import Any, NamedTuple

import jax

from train import optimizer, pretrained, sharding
from train.state import blueprint, first_state


class Initial(NamedTuple):
  """A config's mesh, task and optimizer, its model's graph, and the state before the first step."""

  mesh: jax.sharding.Mesh
  task: Any
  tx: Any
  graph: Any
  state: dict


def build(cfg) -> Initial:
  """Returns what a run of the config begins with; the tokenizer's folder is a temporary one."""
  mesh = sharding.make_mesh(cfg.mesh)
  with tempfile.TemporaryDirectory() as folder:
    task = pretrained.build_task(cfg.task, folder)
  tx, _ = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
  plan = blueprint(cfg, task, tx, mesh)
  return Initial(mesh, task, tx, plan.graph, first_state(cfg, task, plan))
