"""Opens a trained model in the form that is exported."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import logging

from train import derived, pretrained, starting, tasks
from train.common.errors import UserError
from train.common.trees import unstack_layers
from train.data.tokenizer import Tokenizer
from train.interop import generation_out
from train.interop.directory import Directory
from train.interop.families.base import KINDS
from train.tasks.base import HuggingFace


class Source(NamedTuple):
  """A trained model in the form that is exported; its weights are read by `weights`."""

  trained: pretrained.Pretrained
  checkpoint: str
  task: tasks.Task
  model: dict  # the section `model`, with vocab_size
  tokenizer: Tokenizer
  facts: HuggingFace  # with one limit for all outputs
  origin: Directory | None  # the Hugging Face directory that it is, or that it comes from
  notes: list[str]  # on settings without a counterpart

  def weights(self) -> tuple[Mapping[str, Any], list[int]]:
    """Returns path -> weight, each layer under its own path, and the steps of the checkpoints;
    rounded, where the run computes with rounded ones."""
    self.trained.check_sizes(self.checkpoint)
    weights, steps = self.trained.weights(self.checkpoint)
    return pretrained.rounded(self.trained, unstack_layers(weights)), steps


def open_source(workdir, checkpoint: str) -> Source:
  """Opens a run or hf:DIR; raises UserError for a task without a counterpart elsewhere."""
  trained = pretrained.open(workdir)
  task = trained.task()
  if directory := trained.directory:
    if checkpoint != "latest":
      raise UserError(f"--checkpoint {checkpoint}: {trained.name} has one set of weights")
    kind, origin, model = directory.kind, directory, dict(directory.model)
    labels = directory.labels if kind in ("classification", "tagging") else ()
    pool, activation, transform, bias = directory.head
    decoding = task.decoding if kind in ("causal", "translation") else None
    problem = directory.problem if kind == "classification" else ""
    usual = directory.family.globals_for(kind)
    facts = HuggingFace(kind, labels, activation, decoding, problem, pool, transform, usual, bias)
  else:
    facts, model = task.hugging_face(), trained.model
    facts = facts._replace(global_attention=task.global_attention)
    if not facts.kind:
      name = type(task).__name__
      raise UserError(f"a {name} run has no counterpart; there are {', '.join(KINDS)}")
    model = dict(model, vocab_size=model.get("vocab_size") or task.tokenizer.vocab_size)
    origin = _origin(trained)
  notes = []
  if rounds := pretrained.quantized(trained).get("activations"):
    notes.append(f"The run rounds what its layers read ({rounds}); here nothing does.")
  if decoding := facts.decoding:
    notes += generation_out.notes(decoding)
    constant = generation_out.constant(decoding, task.source_len or task.target_len)
    facts = facts._replace(decoding=constant)
  return Source(trained, checkpoint, task, model, task.tokenizer, facts, origin, notes)


def _origin(trained: pretrained.Pretrained) -> Directory | None:
  """Returns the Hugging Face directory from which a run has its tokenizer: it started from it, or
  from a run that did, or was made of such a run. None where one of them is not there any more."""
  run, seen = trained, set()
  while run.directory is None and run.name not in seen:  # a run may have got its origin's name
    seen.add(run.name)
    try:
      if not (name := run.config.init_from.workdir or derived.made_of(run)):
        return None
      origin = pretrained.open(name)
      if starting.differs(origin, trained.tokenizer):
        return None
    except UserError as error:
      logging.warning("%s, from which %s comes, is not read: %s", run.name, trained.name, error)
      return None
    run = origin
  return run.directory
