"""python -m experiments.run experiments/zafrir2019_q8bert.py --data DIR

Zafrir et al. 2019, "Q8BERT": MiniLM (`make data`) on SST-2, TREC and UD English EWT as minilm.py
fine-tunes it, its weights stored in 8 bits (`int8`), in 4 bits by groups of 32 (`int4`), and in 8
bits with activations in 8 bits after training that knows of it (`aware`). Three seeds each.
"""

import dataclasses

from experiments import minilm
from experiments.tools.runs import Derived, Value, seeds

TASKS = ("sst2", "trec", "ud_ewt")
AWARE = {"quantize.weights": "int8", "quantize.activations": "int8"}
STORED = {
  "int8": ("full", ("--quantize", "int8")),
  "int4": ("full", ("--quantize", "int4", "--group", "32", "--skip", "^head/")),
  "aware": ("trained", ("--quantize", "int8", "--activations", "int8")),
}
SOURCE = "table 1: less than 1% lost"


def runs(scale):  # there is one scale
  for name in TASKS:
    full = minilm.make_run(name, "pretrained", f"{name}-full")
    yield from seeds(full)
    aware = dataclasses.replace(full, name=f"{name}-trained", changes={**full.changes, **AWARE})
    yield from seeds(aware)
    for kind, (origin, flags) in STORED.items():
      for seed in range(3):
        source = f"{{root}}/{name}-{origin}-seed{seed}"
        made = ("train.export", "--workdir", source, "--checkpoint", "best", *flags)
        yield Derived(f"{name}-{kind}-seed{seed}", metrics=full.metrics, made=made)


def expected(scale):  # there is one scale
  for name in TASKS:
    for kind in ("full", *STORED):
      yield Value(f"{name}: {kind}", rf"{name}-{kind}-seed\d", "test/accuracy", source=SOURCE)
