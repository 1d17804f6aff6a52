"""python -m train.soup --runs runs/sweep/seed* --out runs/soup

Averages the weights of runs that were fine-tuned from the same model: a greedy soup (Wortsman et
al. 2022, recipe 1). The runs are sorted by their checkpoint.best_metric on the split that they
evaluate; each in turn is added if the mean of all weights so far does not get worse. The soup is a
run's folder, which predict, evaluate, export and init= read. --uniform averages all of them. Of
the sections model, task and quantize, runs may differ in dropout, label_smoothing, z_loss,
class_weights, seed and how they compute; the first one's settings judge all.
"""

import collections
import json
import math

import jax
import numpy as np

from model import settings
from train import derived, inference, on_split, pretrained
from train.common import entry, paths
from train.common.errors import UserError, indented
from train.record.config import flat

SAME = ("model.", "task.", "quantize.")  # of all runs, but for settings of training alone
TASK_FREE = ("label_smoothing", "z_loss", "class_weights", "seed", "pack", "loss_chunks")


def main(argv):
  args = build_parser().parse_args(argv)
  if len(args.runs) < 2:
    raise UserError("--runs: give two runs or more")
  (name, times), *_ = collections.Counter(str(paths.of(x)) for x in args.runs).most_common()
  if times > 1:
    raise UserError(f"--runs: {name} is named {times} times")
  derived.check_new(args.out)
  opened = [pretrained.open(name) for name in args.runs]
  first = _check(opened)
  cfg = derived.changed(derived.config_of(first))
  task, metric = first.task(), args.metric or cfg.checkpoint.best_metric
  mode = args.mode or cfg.checkpoint.best_mode
  if metric != cfg.checkpoint.best_metric and not args.mode:
    raise UserError(f"--metric {metric}: say whether it is to be large, --mode max, or --mode min")
  sign = {"min": -1, "max": 1}[mode]
  model = first.build(cfg.model, task)
  on = on_split.OnSplit(cfg, task, first.name)

  def value(weights) -> float:
    scores = on.scores(model, weights, decodes=bool(cfg.evaluate.decode_every))
    if metric not in scores:
      raise UserError(f"--metric {metric}: an evaluation reports {', '.join(scores)}")
    return float(scores[metric])

  weights, steps = {}, {}
  for run in opened:
    weights[run.name], steps[run.name] = derived.read(run, args.checkpoint)
  values = {name: value(own) for name, own in weights.items()}
  if diverged := [name for name in values if not math.isfinite(values[name])]:
    raise UserError(f"--runs: {metric} of {diverged[0]} is {values[diverged[0]]}: leave it out")
  ranked = sorted(values, key=lambda name: -sign * values[name])
  taken, best = ranked[:1], values[ranked[0]]
  print(f"| run | {metric} alone | {metric} of the soup | |\n|---|---|---|---|")
  print(f"| {ranked[0]} | {best:.5g} | {best:.5g} | taken |")
  for name in ranked[1:]:
    with_it = value(_mean([weights[run] for run in (*taken, name)]))
    is_taken = args.uniform or sign * with_it >= sign * best
    taken, best = ([*taken, name], with_it) if is_taken else (taken, best)
    print(f"| {name} | {values[name]:.5g} | {with_it:.5g} | {'taken' if is_taken else 'left'} |")
  soup, command = _mean([weights[name] for name in taken]), ["python", "-m", "train.soup", *argv]
  facts = dict(origin=first, step=steps[first.name], command=command, soup=taken)
  derived.write(args.out, cfg, soup, model, **facts)
  print(json.dumps({"taken": taken, metric: best}))


def _check(runs) -> pretrained.Pretrained:
  """Returns the first of the runs; raises UserError where they are not of one kind."""
  first = runs[0]
  for run in runs:
    if run.config is None or pretrained.quantized(run).get("stored"):
      raise UserError(
        f"--runs: {run.name} is no run with floats: `train.export --format run` writes one"
      )
    ours, theirs = (flat(derived.changed(x.config)) for x in (first, run))
    differ = [key for key in ours if _matters(key) and theirs.get(key) != ours[key]]
    if differ:
      lines = (f"{key}: {ours[key]!r} and {theirs.get(key)!r}" for key in differ)
      raise UserError(f"--runs: {first.name} and {run.name} differ:{indented(lines)}")
    if run.tokenizer.fingerprint != first.tokenizer.fingerprint:
      raise UserError(f"--runs: {first.name} and {run.name} have other tokenizers")
    if getattr(run.task(), "labels", ()) != getattr(first.task(), "labels", ()):
      raise UserError(f"--runs: {first.name} and {run.name} have other labels")
  return first


def _matters(key: str) -> bool:
  """Returns whether a setting changes what a run's weights mean, or by what they are judged."""
  free = settings.FREE if key.startswith("model.") else TASK_FREE
  return key.startswith(SAME) and (".data." in key or key.split(".")[-1] not in free)


def _mean(parts) -> dict:
  """Returns path -> the mean of the arrays of several."""
  return jax.tree.map(lambda *xs: np.mean(xs, axis=0, dtype=np.float64).astype(xs[0].dtype), *parts)


def build_parser():
  parser = entry.make_parser(__doc__)
  add = parser.add_argument
  add("--runs", nargs="+", required=True, metavar="DIR", help="folders of runs")
  add("--out", required=True, type=paths.of, help="the folder to write")
  add("--checkpoint", default="latest", help=inference.CHECKPOINTS)
  add("--metric", default="", help="what the soup is judged by (checkpoint.best_metric)")
  add("--mode", choices=("min", "max"), help="whether it is to be small or large")
  add("--uniform", action="store_true", help="averages all runs")
  return parser


if __name__ == "__main__":
  entry.run(main)
