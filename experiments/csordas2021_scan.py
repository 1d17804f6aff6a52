"""python -m experiments.run experiments/csordas2021_scan.py

Csordas, Irie & Schmidhuber 2021, "The Devil is in the Detail: Simple Tricks Improve Systematic
Generalization of Transformers" (EMNLP): SCAN's length split, divided at several lengths (Newman et
al. 2020), by what a Transformer knows of positions. Trained on commands of at most so many actions,
tested on all longer ones; SCAN is made from its grammar.

Small scale: configs/scan.py's model (2 + 2 layers, dim 128) and 1,500 updates of 32 packed rows,
three seeds: about six hours of one CPU core. Full scale: 3 + 3 layers and 50,000 updates of 256
commands at 1e-3, as theirs (from memory); not run here. Relative positions are T5's (a bias for
each distance and head), theirs Transformer-XL's (from memory too).
"""

from experiments.tools.runs import Order, Run, Value, product, seeds, values

POSITIONS = ("sinusoidal", "learned", "relative", "rotary")
CUTOFFS = (22, 26, 30)
SOURCE = "abstract: relative positions reach 100% with a cut-off at 26"
SHORT = "a thirtieth of the updates, two layers, and T5's relative positions"
# Distances that no training command has must not have weights of their own: from 20 on, all share.
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
  for name, changes in product(values("model.positions", *POSITIONS)).items():
    for cutoff in CUTOFFS:
      changes = {**changes, **(RELATIVE if name == "relative" else {})}
      changes |= FULL if scale == "full" else {}
      config = f"configs/scan.py:split=length,cutoff={cutoff}"
      # The last: whoever is best on short commands need not be on long ones.
      told = dict(checkpoint="latest", metrics=("exact_match",))
      yield from seeds(Run(f"{name}-{cutoff}", config, changes, **told))


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


NOTES = """
Relative positions go on past each of the three cut-offs, rotary ones past 26 and 30 (at 30 they
are ahead, and what is left there has 32 actions or more), and after as many updates the others are
below 3, but for sinusoidal ones at 26. Seeds of rotary positions lie twenty points apart.
"""
