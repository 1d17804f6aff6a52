"""python -m experiments.run experiments/lake2018_scan.py

Lake & Baroni 2018, "Generalization without Systematicity: On the Compositional Skills of
Sequence-to-Sequence Recurrent Networks" (ICML): LSTMs on SCAN, and a Transformer with the same
recipe beside them, except for the dropout.

Small scale: 1,500 updates of 32 packed rows (125 to 150 commands: 12 to 15 passes), three seeds:
about two hours of one CPU core. Full scale: the LSTM of their best overall network (2 layers, 200
wide, dropout 0.5) and twice the updates (theirs were 100,000, of one command each); not run.
"""

from experiments.tools.runs import Order, Run, Value, seeds

SPLITS = ("simple", "length", "add-jump")
MODELS = ("transformer", "lstm")
MEMORY = "their sections 4.1 to 4.3, from memory"
# exact match of LSTMs; tolerance
PAPER = {"simple": (99.8, 1.0), "length": (13.8, 7.0), "add-jump": (0.08, 2.0)}
EARLY = (
  "our outputs end too early (see the notes): 1,500 updates of about 150 commands, theirs 100,000"
  " of one; ours has attention, theirs none (with it, and 50 wide, they got 20.8 here, 1.2 on jump)"
)


def runs(scale):
  for split in SPLITS:
    for model in MODELS:
      full = {"steps": 3000, "model.dropout": 0.5 if model == "lstm" else 0.1}
      changes = full if scale == "full" else {}
      config = f"configs/scan.py:split={split},model={model}"
      options = dict(checkpoint="latest", metrics=("exact_match",))
      yield from seeds(Run(f"{model}-{split}", config, changes, **options))


def expected(scale):
  for split, (value, tolerance) in PAPER.items():
    name, runs = f"LSTM, {split}", rf"lstm-{split}-seed\d"
    yield Value(name, runs, "test/exact_match", value, MEMORY, tolerance, EARLY)
  for split in SPLITS:
    yield Value(f"Transformer, {split}", rf"transformer-{split}-seed\d", "test/exact_match")
  for model in MODELS:
    ours = rf"{model}-simple-seed\d"
    yield Value(f"{model}: parameters", ours, "parameters")
    yield Value(f"{model}: milliseconds a step", ours, "train/milliseconds")
    yield Value(f"{model}: target tokens a second, training", ours, "train/tokens_per_second")
    yield Value(f"{model}: seconds, trained and evaluated", ours, "seconds")
  for model in MODELS:
    for hard in ("length", "add-jump"):
      names = (rf"{model}-{split}-seed\d" for split in ("simple", hard))
      yield Order(f"{model}: simple over {hard}", *names, "test/exact_match", MEMORY, by=50.0)
