"""python -m experiments.search experiments/scan_search.py --jobs 2

Searches for settings with which a small Transformer learns most of SCAN in 200 steps: 20 trials of
at most 16 packed rows. The metric is the accuracy of single tokens, as no output is entirely
correct after so few steps. This is an example; no paper reports a number.
"""

from experiments.tools.runs import Run, evaluate_every
from experiments.tools.space import Choice, Float, Int, Search

STEPS = {"small": 200, "full": 1500}


def runs(scale):
  steps = STEPS[scale]
  changes = {"steps": steps, "batch_size": 16, "schedule.warmup_steps": steps // 10}
  changes |= {"model.dim": 64, "model.mlp_dim": 128, "log_every": 25, "loggers": ()}
  changes |= evaluate_every(steps // 8) | {"evaluate.decode_every": 0}
  yield Run("scan", "configs/scan.py:split=simple", changes, metrics=("token_accuracy",))


def search(scale):
  return Search(
    run=next(runs(scale)),
    space={
      "schedule.peak": Float(3e-4, 3e-2, log=True),
      "model.num_heads": Choice(2, 4, 8),
      "batch_size": Int(4, 16, log=True),
      "model.dropout": Float(0.0, 0.3),
    },
    metric="token_accuracy",
    mode="max",
    trials=20,
  )
