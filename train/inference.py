"""Loads a trained run, or hf:DIR, to evaluate and to predict with."""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from flax import nnx

from train import evaluation, pretrained, sharding, tasks
from train.build import build_model
from train.common import entry
from train.common.errors import UserError
from train.step import make_predict_step


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained run, or hf:DIR with cfg=None, ready to evaluate or predict."""

  cfg: Any
  task: Any
  graph: Any
  params: Any
  mesh: jax.sharding.Mesh
  steps: list[int]


def load_run(workdir, checkpoint: str, *, pair: bool = False) -> Run:
  """Loads a run or hf:DIR onto all devices of this machine.

  checkpoint: latest, best, STEP, average:N or average:STEP,STEP,...; hf:DIR has "latest" alone.
  pair: a classifier of hf:DIR reads two texts.
  """
  mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=1))
  origin = pretrained.open(workdir)
  task = origin.task(pair)
  graph, shapes = nnx.split(nnx.eval_shape(lambda: build_model(origin.model, task, seed=0)))
  shapes = dict(params=nnx.to_pure_dict(shapes))
  like = sharding.abstract(shapes, sharding.place(shapes, mesh))["params"]
  params, steps = origin.place(checkpoint, like)
  logging.info("%s: checkpoint %s, steps %s", workdir, checkpoint, steps)
  return Run(origin.config, task, graph, params, mesh, steps)


class Predictor:
  """A function from inputs to outputs by a trained run: `load(workdir)(["jump twice"])`."""

  def __init__(self, run, settings):
    self.run, self.settings = run, settings
    self.step = make_predict_step(run.task, run.graph)

  def __call__(self, inputs: Sequence) -> list[dict]:
    """Returns a dict with `text` and more for each input.

    An input is a text, a pair of texts (two texts to classify, a question and its context), or an
    example of the task's data.
    """
    run = self.run
    if isinstance(inputs, str):
      raise UserError(f"{inputs!r} is one input: pass a list of inputs")
    examples = [x if isinstance(x, Mapping) else run.task.example(_line(x)) for x in inputs]
    return evaluation.decode(run.task, self.step, run.params, run.mesh, examples, self.settings)


def _line(texts) -> str:
  return texts if isinstance(texts, str) else "\t".join(texts)


def load(workdir, checkpoint: str = "latest", *, pair: bool = False, **decoding) -> Predictor:
  """Loads the run in `workdir`, or hf:DIR, with the settings of prediction changed by `decoding`.

  pair: a classifier of hf:DIR reads two texts. The directory does not record how many.
  """
  run = load_run(workdir, checkpoint, pair=pair)
  return Predictor(run, run.task.settings(**decoding))


def parser(doc: str) -> argparse.ArgumentParser:
  """Returns a parser with the arguments that every use of a run has."""
  parser = entry.make_parser(doc)
  parser.add_argument(
    "--workdir",
    "--model",
    required=True,
    dest="workdir",
    type=pathlib.Path,
    help="a run's folder, or hf:DIR, a Hugging Face directory",
  )
  parser.add_argument(
    "--checkpoint",
    default="latest",
    help="latest, best, STEP, average:N (the last N) or average:STEP,STEP,...",
  )
  return parser


def add_decoding(parser: argparse.ArgumentParser) -> None:
  """Adds a flag for each setting of how the tasks predict (train/tasks)."""
  for name, fields in tasks.prediction_options().items():
    text = "; ".join(dict.fromkeys(field.metadata["help"] for field in fields))
    kind = fields[0].type
    parsed = dict(action="store_true") if kind is bool else dict(type=kind)
    parser.add_argument(f"--{name}", default=None, help=text, **parsed)


def decoding_changes(args) -> dict:
  """Returns the settings of prediction that were given as flags."""
  given = {name: vars(args)[name] for name in tasks.prediction_options()}
  return {name: value for name, value in given.items() if value is not None}
