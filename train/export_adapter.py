"""Writes the adapters of a run (lora.rank) as an adapter for Hugging Face's PEFT."""

import pathlib

from absl import logging

from train import derived, pretrained
from train.common.errors import UserError
from train.common.trees import unstack_layers
from train.export_source import open_source
from train.interop import peft, writing
from train.interop.families.base import Head


def as_peft(
  workdir, checkpoint: str, out: pathlib.Path, *, check: bool = False, license: str = "unknown"
) -> None:
  """Writes the adapters and the other trained weights of a run into the new folder `out`.

  Raises UserError for a run without adapters, and for one whose base is no Hugging Face directory.
  """
  del check, license  # nothing is compared, and there is no card
  trained = pretrained.open(workdir)
  if not isinstance(trained, pretrained.Adapted):
    raise UserError(f"--format peft: {workdir} has no adapters (lora.rank=0): leave --format out")
  source = open_source(workdir, checkpoint)
  start = trained.config.init_from
  if pretrained.open(start.workdir).directory is None:
    raise UserError(
      f"--format peft: {workdir} adapts a run, and PEFT a Hugging Face directory: export that run,"
      " and train adapters from it (init=hf:DIR)"
    )
  if source.origin is None:
    raise UserError(
      f"--format peft: {workdir} has another tokenizer than {start.workdir}: merge its adapters"
      " (--format hf)"
    )
  if start.encoder_layers or start.decoder_layers or source.origin.adapter:
    what = "an adapter itself" if source.origin.adapter else "a model with other layers"
    raise UserError(
      f"--format peft: {start.workdir} is {what}, and the run's adapters are of another model than"
      " its folder holds: merge them (--format hf)"
    )
  derived.check_new(out)
  if trained.config.quantize.weights:
    logging.info("the adapters were trained over %s weights", trained.config.quantize.weights)
  facts, model = source.facts, source.model
  activation = facts.pool_activation or model["activation"]
  head = Head(facts.pool, activation, facts.transform, facts.head_bias)
  family = source.origin.family
  fit = writing.best(model, facts.kind, head, family.model_type)
  if fit.family.model_type != family.model_type or fit.is_folded:
    raise UserError(f"--format peft: {workdir} is no {family.model_type} any more: use --format hf")
  weights, merged = unstack_layers(trained.adapters(checkpoint)[0]), source.weights()[0]
  out.mkdir(parents=True, exist_ok=True)
  written = family, facts.kind, fit.model, weights, merged, trained.config.lora
  peft.write(out, *written, str(source.origin.path))
  logging.info("%s: an adapter of %s", out, source.origin.path)
