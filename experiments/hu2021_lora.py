"""python -m experiments.run experiments/hu2021_lora.py --data DIR

Hu et al. 2021, "LoRA": adapters of rank 8 beside full fine-tuning, of MiniLM (`make data`) on
SST-2, TREC and UD English EWT, three seeds each with the steps of minilm.py. Beside queries and
values, as in the paper, feed-forward layers have adapters.
"""

import dataclasses

from experiments import minilm
from experiments.tools.runs import Order, seeds

TASKS = ("sst2", "trec", "ud_ewt")
# Adapters learn at ten times the rate of full fine-tuning (their table 11: 1e-4 to 5e-4 for BERTs).
ADAPTERS = {
  "lora.rank": 8,
  "lora.alpha": 16.0,
  "lora.layers": ("(query|value|up|down)$",),
  "schedule.peak": 2e-3,
}
SOURCE = "table 2: LoRA within half a point of full fine-tuning"


def runs(scale):  # there is one scale
  for name in TASKS:
    full = minilm.make_run(name, "pretrained", f"{name}-full")
    yield from seeds(full)
    changes = {**full.changes, **ADAPTERS}
    yield from seeds(dataclasses.replace(full, name=f"{name}-lora", changes=changes))


def expected(scale):  # there is one scale
  for name in TASKS:
    lora, full = (rf"{name}-{kind}-seed\d" for kind in ("lora", "full"))
    yield Order(f"{name}: LoRA over full", lora, full, "test/accuracy", SOURCE, by=-1.0)
    for size, share in (("trained", 0.02), ("optimizer_bytes", 0.03)):
      yield Order(f"{name}: full over LoRA, {size}", full, lora, size, times=1 / share)
