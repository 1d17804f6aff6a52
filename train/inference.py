"""Loads a trained run, or hf:DIR, to evaluate and to predict with."""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from flax import nnx

from train import evaluation, pretrained, sharding
from train.build import build_model
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
  graph, like = _blank(origin.model, task, mesh)
  params, steps = origin.place(checkpoint, like)
  logging.info("%s: checkpoint %s, steps %s", workdir, checkpoint, steps)
  return Run(origin.config, task, graph, params, mesh, steps)


def _blank(model, task, mesh):
  """Returns the model's graph, and its weights as shapes with shardings."""
  graph, shapes = nnx.split(nnx.eval_shape(lambda: build_model(model, task, seed=0)))
  shapes = dict(params=nnx.to_pure_dict(shapes))
  return graph, sharding.placed(shapes, sharding.place(shapes, mesh))["params"]


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

  pair: a classifier of hf:DIR reads two texts. The directory does not name how many it reads.
  """
  run = load_run(workdir, checkpoint, pair=pair)
  return Predictor(run, run.task.settings(**decoding))


def parser(doc: str) -> argparse.ArgumentParser:
  """Returns a parser with the arguments that every use of a run has."""
  parser = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
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


DECODING = ("beam", "length_penalty", "temperature", "top_k", "top_p", "nbest", "seed")
DECODING += ("max_len_extra", "no_answer", "threshold", "max_answer")


def add_decoding(made: argparse.ArgumentParser) -> None:
  """Arguments that change the config's way of decoding."""
  made.add_argument("--beam", type=int, help="1: greedy")
  made.add_argument("--length_penalty", type=float, help="Wu et al. 2016; 0: none")
  made.add_argument("--temperature", type=float, help="above 0: sampling")
  made.add_argument("--top_k", type=int, help="of sampling; of a mask: how many words")
  made.add_argument("--top_p", type=float, help="of sampling")
  made.add_argument("--nbest", type=int, help="outputs to tell of each input")
  made.add_argument("--seed", type=int, help="of sampling")
  made.add_argument("--max_len_extra", type=int, help="tokens of an output, beside max_len_ratio")
  made.add_argument(
    "--no_answer", action="store_true", default=None, help="a question may have no answer"
  )
  made.add_argument("--threshold", type=float, help="by how much no answer must be likelier")
  made.add_argument("--max_answer", type=int, help="tokens of an answer")


def decoding_changes(args) -> dict:
  """What was given of `add_decoding`."""
  return {key: getattr(args, key) for key in DECODING if getattr(args, key) is not None}
