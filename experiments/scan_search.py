"""Which settings make a small Transformer learn SCAN in 400 steps.

python -m experiments.search experiments/scan_search.py --jobs 2

20 trials of 400 steps and 16 packed rows at most, on two CPU cores about a quarter of an hour.
There is no number of a paper to reach: this is the example of a search.
"""

from experiments.runs import Run, every
from experiments.space import Choice, Float, Int, Search

STEPS = {"small": 400, "full": 1500}


def runs(scale):
  steps = STEPS[scale]
  changes = {"steps": steps, "batch_size": 16, "schedule.warmup_steps": steps // 10}
  changes |= {"model.dim": 64, "model.mlp_dim": 128, "evaluate.decode_examples": 200}
  changes |= {"log_every": 50, "tensorboard": False, **every(steps // 8)}
  yield Run("scan", "configs/scan.py:split=simple", changes, metrics=("exact_match",))


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
