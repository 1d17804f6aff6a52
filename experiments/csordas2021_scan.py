"""python -m experiments.run experiments/csordas2021_scan.py

Csordas, Irie & Schmidhuber 2021, "The Devil is in the Detail: Simple Tricks Improve Systematic
Generalization of Transformers" (EMNLP): kinds of positions on SCAN's length split, cut off at
several lengths (Newman et al. 2020). Models are trained on commands of at most so many actions and
tested on all longer ones. SCAN is generated from its grammar.

Small scale: the model of configs/scan.py (2 + 2 layers, dim 128) and 1,500 updates of 32 packed
rows, three seeds: about six hours of one CPU core. Full scale: 3 + 3 layers and 50,000 updates of
256 commands at 1e-3, as theirs (from memory), not run. Our relative positions are T5's (a bias for
each distance and head), theirs Transformer-XL's (from memory).
"""

from experiments.tools.runs import Order, Run, Value, seeds

POSITIONS = ("sinusoidal", "learned", "relative", "rotary")
CUTOFFS = (22, 26, 30)
SOURCE = "abstract: relative positions reach 100% with a cut-off at 26"
SHORT = "a thirtieth of the updates, two layers, and T5's relative positions"
# Distances beyond those of the training commands must not have untrained weights: from 20 on, all
# distances share a weight.
RELATIVE = {"model.relative_max_distance": 20}
FULL = {
  "steps": 50_000,
  "batch_size": 56,  # packed rows of 64, 4.6 commands each: about 256
  "model.encoder_layers": 3,
  "model.decoder_layers": 3,
  "schedule.name": "constant",
  "schedule.peak": 1e-3,
}


def runs(scale):
  for name in POSITIONS:
    changes = {"model.positions": name} | (RELATIVE if name == "relative" else {})
    changes |= FULL if scale == "full" else {}
    for cutoff in CUTOFFS:
      config = f"configs/scan.py:split=length,cutoff={cutoff}"
      # the latest checkpoint: the best on short commands need not be the best on long ones
      run = Run(f"{name}-{cutoff}", config, changes, checkpoint="latest", metrics=("exact_match",))
      yield from seeds(run)


def expected(scale):
  metric = "test/exact_match"
  yield Value("relative, cut-off 26", r"relative-26-seed\d", metric, 100.0, SOURCE, 5.0, SHORT)
  for cutoff in CUTOFFS:
    for name in POSITIONS:
      yield Value(f"{name}, cut-off {cutoff}", rf"{name}-{cutoff}-seed\d", metric)
  for cutoff in CUTOFFS:
    for less in ("sinusoidal", "learned"):
      names = rf"relative-{cutoff}-seed\d", rf"{less}-{cutoff}-seed\d"
      yield Order(f"relative over {less}, cut-off {cutoff}", *names, metric, SOURCE)
