"""python -m train.prune --workdir runs/sst2 --heads 0.5 --mlp 0.5 --out runs/smaller

Writes a smaller run: each layer keeps the attention heads and feed-forward units that matter most
for the loss (Michel et al. 2019) on batches from all over a split. Training goes on from it by
init=OUT (with --config.init_from.skip="()" the head is taken over too); predict, evaluate and
export read it. Layers go by a config's layers=0+2+5.
"""

import numpy as np

from train import derived, inference, on_split, pretrained
from train.common import entry, intervals, paths
from train.common.errors import UserError
from train.compression import pruning


def main(argv):
  args = build_parser().parse_args(argv)
  for name in ("heads", "mlp"):
    intervals.check(f"--{name}", getattr(args, name), float, "(0, 1]")
  intervals.check("--batches", args.batches, int, "[1, inf)")
  if args.heads == args.mlp == 1.0:
    raise UserError("--heads and --mlp are both 1, which leaves the run as it is")
  derived.check_new(args.out)
  trained = pretrained.open(args.workdir)
  if trained.config is None:
    raise UserError(f"{args.workdir} is no run: train it first (init={args.workdir})")
  if pretrained.quantized(trained).get("stored"):
    raise UserError(
      f"{args.workdir} holds integers: prune the run that it was made of, or"
      " one that `train.export --format run` writes of it"
    )
  origin = derived.config_of(trained)
  section = derived.changed(origin).model.to_dict()
  if section["name"] != "transformer":
    raise UserError(f"{args.workdir} is an {section['name']}, which has no heads")
  if trained.kind == "electra":
    raise UserError(f"{args.workdir} is an electra: prune a run that is fine-tuned from it")
  if section["share_layers"]:
    raise UserError("model.share_layers: layers with the same weights cannot lose other heads")
  task = trained.task()
  weights, step = derived.read(trained, args.checkpoint)
  gated = trained.build(section, task)
  sizes = pruning.add_gates(gated)
  shares = dict(heads=args.heads, units=args.mlp)
  like = pruning.choose({path: np.zeros(size) for path, size in sizes.items()}, section, **shares)
  cfg = derived.changed(origin, model=pruning.smaller_config(section, like))
  try:  # before the dear part
    model = trained.build(cfg.model, task)
  except UserError as error:
    raise UserError(f"--heads {args.heads} --mlp {args.mlp}: {error}; or other shares") from error
  data = on_split.OnSplit(trained.config, task, trained.name)

  def compute(model, batch):
    return pruning.importance(task, model, sizes, batch)

  values = data.gather(gated, weights, args.split, compute, np.add, args.batches)
  smaller = pruning.cut(weights, pruning.choose(values, section, **shares))
  command = ["python", "-m", "train.prune", *argv]
  facts = dict(origin=trained, step=step, command=command)
  derived.write(args.out, cfg, smaller, model, **facts)
  before, after = (sum(x.size for x in tree.values()) for tree in (weights, smaller))
  print(f"| what | before | after |\n|---|---|---|\n| weights | {before:,} | {after:,} |")
  losses = data.loss(trained.build(section, task), weights), data.loss(model, smaller)
  for name, value in losses[0].items():
    print(f"| {name} | {value:.5g} | {losses[1][name]:.5g} |")


def build_parser():
  parser = inference.parser(__doc__, model="a run's folder")
  parser.add_argument("--out", required=True, type=paths.of, help="the folder to write")
  parser.add_argument("--heads", type=float, default=1.0, help="the share of heads to keep (1)")
  parser.add_argument(
    "--mlp", type=float, default=1.0, help="the share of feed-forward units to keep (1)"
  )
  parser.add_argument("--split", default="train", help="whose batches are read (train)")
  parser.add_argument(
    "--batches", type=int, default=32, help="how many of them, spread evenly (32)"
  )
  return parser


if __name__ == "__main__":
  entry.run(main)
