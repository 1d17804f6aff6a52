"""Which settings make a small Transformer learn most of SCAN in 200 steps.

python -m experiments.search experiments/scan_search.py --jobs 2

20 trials of at most 16 packed rows and 200 steps. The metric is the accuracy of single tokens, as
so few steps bring no whole output right. There is no number of a paper to reach: it is an example.
"""

from experiments.tools.runs import Run, every
from experiments.tools.space import Choice, Float, Int, Search

STEPS = {"small": 200, "full": 1500}


def runs(scale):
  steps = STEPS[scale]
  changes = {"steps": steps, "batch_size": 16, "schedule.warmup_steps": steps // 10}
  changes |= {"model.dim": 64, "model.mlp_dim": 128, "log_every": 25, "tensorboard": False}
  changes |= every(steps // 8) | {"evaluate.decode_every": 0}
  yield Run("scan", "configs/scan.py:split=simple", changes, metrics=("accuracy",))


def search(scale):
  return Search(
    run=next(runs(scale)),
    space={
      "schedule.peak": Float(3e-4, 3e-2, log=True),
      "model.num_heads": Choice(2, 4, 8),
      "batch_size": Int(4, 16, log=True),
      "model.dropout": Float(0.0, 0.3),
    },
    metric="accuracy",
    mode="max",
    trials=20,
  )
