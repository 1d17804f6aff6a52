"""python -m experiments.run experiments/vaswani2017_table2.py --data DIR

Vaswani et al. 2017, "Attention Is All You Need", table 2: BLEU on newstest2014, English to German.

Full scale: base and big on WMT14 as TFDS prepares it, the last 5 and 20 checkpoints averaged: days
on 8 GPUs, not run. Small scale: the cost of these runs on a v5e 4x4 slice as train.plan estimates
it (needs requirements-tpu.txt; twenty minutes of one CPU core each). `h100-` rows need
requirements-cuda.txt (`--only h100` in such an environment). Estimates of compilers, not times.
"""

from experiments.tools.runs import Estimate, Run, Value

TABLE_2 = "table 2, newstest2014, compound splitting"
COST = "table 2: training cost, from hours, GPUs and an assumed sustained speed"
PAPER = {"base": (27.3, 3.3), "big": (28.4, 23.0)}  # BLEU, EFLOP
TOPOLOGIES = {"v5e": "v5e:4x4", "h100": "h100:8"}


def runs(scale):
  if scale == "full":
    for size, average in (("base", 5), ("big", 20)):
      config = f"configs/wmt14.py:size={size}"
      yield Run(size, config, checkpoint=f"average:{average}", metrics=("bleu",))
    return
  metrics = ("hours", "chip_hours", "milliseconds", "mfu", "gigabytes", "exaflop")
  for chip, topology in TOPOLOGIES.items():
    for size in PAPER:
      changes = {"batch_size": 112}  # a multiple of 16 chips, 8% more than the recipe's 104
      config = f"configs/wmt14.py:size={size}"
      yield Estimate(f"{chip}-{size}", config, changes, topology=topology, metrics=metrics)


def expected(scale):
  for size, (bleu, exaflop) in PAPER.items():
    if scale == "full":
      yield Value(f"{size}: BLEU", size, "test/bleu", bleu, TABLE_2, tolerance=0.7)
      continue
    for chip, topology in TOPOLOGIES.items():
      ours = f"{chip}-{size}"
      yield Value(f"{size}, {topology}: EFLOP in all", ours, "plan/exaflop", exaflop, COST)
      yield Value(f"{size}, {topology}: hours", ours, "plan/hours")
