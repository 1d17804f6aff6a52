"""Writes a run of another form: with weights as integers, and what that changed, or as floats."""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
from absl import logging
from flax import nnx

from train import derived, on_split, pretrained, tasks
from train.build import build_model
from train.common import paths
from train.common.errors import UserError
from train.common.trees import flatten
from train.compression import calibration, integers, quantization

SHOWN = 8  # layers with the largest errors
CALIBRATED_BATCHES = 16
KEPT = ("group", "layers", "skip")  # settings that a run was trained with, which an export keeps
FLAGS = ("quantize", "activations", "calibrate", "group", "layers", "skip")


def add_arguments(parser) -> None:
  """Adds the flags of train.export that quantize."""
  add = parser.add_argument_group("quantized (--format run)").add_argument
  add("--quantize", choices=integers.TYPES, help="writes a run whose weights are of this type")
  known = dict(choices=("int8", "fp8", "none"), help="quantizes what layers read (as the run does)")
  add("--activations", **known)
  add("--calibrate", metavar="SPLIT", help="... by ranges found on a split, not by each row's own")
  add("--group", type=int, metavar="N", help="N inputs share a scale (0: all)")
  add("--layers", nargs="+", metavar="PATTERN", help="the layers (all, or the run's)")
  add("--skip", nargs="+", metavar="PATTERN", help="layers that stay floats (none, or the run's)")


def run(args, command) -> None:
  """Writes a quantized run by the arguments of train.export."""
  if not args.quantize:
    for name in FLAGS[1:]:
      if getattr(args, name) is not None:
        raise UserError(f"--{name} has no effect without --quantize TYPE")
    as_floats(str(args.workdir), args.checkpoint, args.out, command)
    return
  given = dict(group=args.group, layers=args.layers, skip=args.skip)
  settings = {key: tuple(x) if key != "group" else x for key, x in given.items() if x is not None}
  settings |= dict(weights=args.quantize)
  if args.activations:
    settings |= dict(activations=args.activations.replace("none", ""))
  calibrate = args.calibrate or ""
  as_run(str(args.workdir), args.checkpoint, args.out, settings, command, calibrate=calibrate)


def as_floats(name: str, checkpoint: str, out: paths.Path, command) -> None:
  """Writes a run with the weights of `name` as floats: with its adapters merged, with its integers
  multiplied out, or taken from hf:DIR. Raises UserError for a run that has such weights."""
  trained = pretrained.open(name)
  derived.check_new(out)
  is_stored = pretrained.quantized(trained).get("stored")
  if not (trained.directory or is_stored or isinstance(trained, pretrained.Adapted)):
    raise UserError("--format run: a run is there already; --quantize TYPE writes another of it")
  changes = dict(quantize=quantization.QUANTIZE) if is_stored else {}
  cfg = derived.changed(derived.config_of(trained), **changes)
  model = nnx.eval_shape(lambda: build_model(cfg.model, trained.task(), seed=0))
  weights, step = _read(trained, checkpoint, model)
  derived.write(out, cfg, weights, model, origin=trained, step=step, command=command)


def as_run(
  name: str, checkpoint: str, out: paths.Path, settings: Mapping, command, *, calibrate: str = ""
) -> None:
  """Writes the run `name` with the weights that `settings` (of the section `quantize`) name as
  integers, and reports the error of each layer and the loss before and after.

  calibrate: a split of the run's data, on some batches of which the ranges of activations are
  found; padding counts, as it does in prediction.
  Raises UserError for a run that is quantized already. hf:DIR has no data: its losses are left out.
  """
  trained = pretrained.open(name)
  derived.check_new(out)
  origin, usual = derived.config_of(trained), dict(quantization.QUANTIZE)
  has_data = on_split.has_data(origin)
  if calibrate and not has_data:
    raise UserError(f"--calibrate: {name} has no data: train a run from it first (init={name})")
  if trained_with := pretrained.quantized(trained):
    usual |= {key: origin.quantize[key] for key in KEPT}
    if settings["weights"] == trained_with["weights"] and not settings.get("group"):
      usual["activations"] = trained_with["activations"]
  if trained_with.get("stored"):
    raise UserError(
      f"--quantize: the weights of {name} are integers already: name the run that it was made of,"
      " or one that `train.export --format run` writes of it"
    )
  settings = usual | settings | dict(stored=True, static=bool(calibrate))
  for key in ("weights", "activations") if trained_with else ():
    if settings[key] != trained_with[key]:
      here, there = settings[key] or "floats", trained_with[key] or "floats"
      logging.info("--quantize: the %s are %s; %s was trained with %s", key, here, name, there)
  if calibrate and not settings["activations"]:
    raise UserError("--calibrate finds ranges of activations: give --activations int8 too")
  cfg = derived.changed(origin, quantize=settings)
  quantization.check(settings, cfg.model.name)
  task = trained.task()

  def build():
    return build_model(cfg.model, task, seed=0)

  model = nnx.eval_shape(build)
  weights, step = _read(trained, checkpoint, model)
  data = on_split.OnSplit(origin, task, name) if has_data else None
  ranges = {}
  if calibrate:
    watching = nnx.eval_shape(build)
    calibration.watch_ranges(watching, settings)
    # logits in parts would keep what they read to themselves
    whole = tasks.main_part(task)
    whole = dataclasses.replace(whole, loss_chunks=1) if hasattr(whole, "loss_chunks") else whole
    observe = calibration.ranges_of(whole.loss)
    how = (lambda model, batch: observe(model, batch, None)[1]), max, CALIBRATED_BATCHES
    ranges = data.gather(watching, weights, calibrate, *how)
  stored = quantization.store(model, settings, weights, ranges)
  quantized = nnx.eval_shape(build)
  quantization.apply(quantized, settings)
  facts = dict(origin=trained, step=step, command=command)
  derived.write(out, cfg, stored.weights, quantized, **facts)
  before, after = (
    sum(np.asarray(x).nbytes for x in tree.values()) for tree in (weights, stored[0])
  )
  losses = {"before": {}, "after": {}}
  if data:
    losses["before"] = data.loss(trained.build(cfg.model, task), weights)
    losses["after"] = data.loss(quantized, stored.weights)
  report = dict(bytes=dict(before=before, after=after), losses=losses, errors=stored.errors)
  (out / "quantized.json").write_text(json.dumps(report, indent=2) + "\n")
  print(table(report))


def _read(trained: pretrained.Pretrained, checkpoint: str, model: nnx.Module) -> tuple[dict, int]:
  """Returns path -> array of the weights of `model`, and the step; logs what else hf:DIR holds, a
  pooler that its task leaves out."""
  weights, step = derived.read(trained, checkpoint)
  if not trained.directory:
    return weights, step
  own = flatten(nnx.to_pure_dict(nnx.state(model)))
  for path in sorted(weights.keys() - own.keys()):
    logging.info("%s: not taken %s %s", trained.name, path, weights[path].shape)
  return {path: weights[path] for path in own}, step


def table(report: Mapping) -> str:
  """Returns bytes and losses before and after, and the layers with the largest errors, as
  Markdown."""
  rows = ["| what | before | after |\n|---|---|---|\n| bytes of the weights | {} | {} |"]
  before, after = report["bytes"]["before"], report["bytes"]["after"]
  text = rows[0].format(f"{before:,}", f"{after:,} ({after / before:.3f})")
  for key, value in report["losses"]["before"].items():
    text += f"\n| {key} | {value:.5g} | {report['losses']['after'][key]:.5g} |"
  worst = sorted(report["errors"].items(), key=lambda pair: -pair[1])
  text += "\n\n| layer | error: norm of the change over that of the weight |\n|---|---|"
  for path, error in worst[:SHOWN]:
    text += f"\n| {path} | {error:.5f} |"
  if len(worst) > SHOWN:
    text += f"\n| {len(worst) - SHOWN} others, at most | {worst[SHOWN][1]:.5f} |"
  return text
