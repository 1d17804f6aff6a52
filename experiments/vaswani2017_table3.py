"""python -m experiments.run experiments/vaswani2017_table3.py --data DIR

Vaswani et al. 2017, "Attention Is All You Need", table 3: which parts of the base model matter?
Each row changes one thing; perplexity and BLEU on the development set, the last checkpoint, not
averaged.

Full scale: WMT14 English to German as TFDS prepares it, base, 100,000 updates of 25,000 target
tokens (big 300,000): days on 8 GPUs for each row, not run. Small scale: Multi30k (DIR/multi30k), a
model with a quarter of the width and half of the layers, 400 updates of 32 packed rows, the same
ratios in each row, three seeds: about five hours of one CPU core. Our rows B change the size of
values too, theirs that of keys alone.
"""

from experiments.tools.runs import Order, Run, Value, evaluate_every, seeds

# row -> changes of base at full scale, and the paper's perplexity and BLEU
ROWS = {
  "A-heads-1": ({"model.num_heads": 1}, 5.29, 24.9),
  "A-heads-4": ({"model.num_heads": 4}, 5.00, 25.5),
  "A-heads-16": ({"model.num_heads": 16}, 4.91, 25.8),
  "A-heads-32": ({"model.num_heads": 32}, 5.01, 25.4),
  "B-keys-16": ({"model.head_dim": 16}, 5.16, 25.1),
  "B-keys-32": ({"model.head_dim": 32}, 5.01, 25.4),
  "C-layers-2": ({"model.encoder_layers": 2, "model.decoder_layers": 2}, 6.11, 23.7),
  "C-layers-4": ({"model.encoder_layers": 4, "model.decoder_layers": 4}, 5.19, 25.3),
  "C-layers-8": ({"model.encoder_layers": 8, "model.decoder_layers": 8}, 4.88, 25.5),
  "C-dim-256": ({"model.dim": 256, "model.head_dim": 32}, 5.75, 24.5),
  "C-dim-1024": ({"model.dim": 1024, "model.head_dim": 128}, 4.66, 26.0),
  "C-ff-1024": ({"model.mlp_dim": 1024}, 5.12, 25.4),
  "C-ff-4096": ({"model.mlp_dim": 4096}, 4.75, 26.2),
  "D-dropout-0": ({"model.dropout": 0.0}, 5.77, 24.6),
  "D-dropout-0.2": ({"model.dropout": 0.2}, 4.95, 25.5),
  "D-smoothing-0": ({"task.label_smoothing": 0.0}, 4.67, 25.3),
  "D-smoothing-0.2": ({"task.label_smoothing": 0.2}, 5.47, 25.7),
  "E-learned": ({"model.positions": "learned"}, 4.92, 25.7),
}
BASE = (4.92, 25.8)
BIG = (4.33, 26.4)
TABLE_3 = "table 3, newstest2013"
# the small scale's base, and by what it divides the sizes of the full one
SMALL = {"model.dim": 128, "model.num_heads": 8, "model.mlp_dim": 512}
SMALL |= {"model.encoder_layers": 3, "model.decoder_layers": 3}
DIVISORS = {"model.dim": 4, "model.head_dim": 4, "model.mlp_dim": 4}
DIVISORS |= {"model.encoder_layers": 2, "model.decoder_layers": 2}
HEADS = (
  "heads matter least: the paper's five rows differ by 0.4, ours of 1, 4 and 8 heads by a point at"
  " most; our heads are a quarter as wide, so that 16 heads have keys of 8 numbers, not of 32"
)
SHORT = "less than two passes over 29,000 captions cannot overfit, so dropout only slows training"


def runs(scale):
  options = dict(splits=("validation",), checkpoint="latest", metrics=("perplexity", "bleu"))
  rows = {"base": {}} | {name: row[0] for name, row in ROWS.items()}
  if scale == "full":
    yield Run("big", "configs/wmt14.py:size=big", **options)
    for name, changes in rows.items():
      yield Run(name, "configs/wmt14.py:size=base", changes, **options)
    return
  config = "configs/multi30k.py:data={data}/multi30k"
  recipe = {"steps": 400, **SMALL, **evaluate_every(200), "evaluate.decode_every": 0}
  recipe |= {"schedule.warmup_steps": 80}
  for name, changes in rows.items():
    changes = {key: x // DIVISORS[key] if key in DIVISORS else x for key, x in changes.items()}
    yield from seeds(Run(name, config, recipe | changes, **options))


def expected(scale):
  rows = {"base": BASE} | {name: row[1:] for name, row in ROWS.items()}
  rows |= {"big": BIG} if scale == "full" else {}
  seed, tolerance = ("", 0.3) if scale == "full" else (r"-seed\d", None)
  for name, row in rows.items():
    for label, value in zip(("perplexity", "BLEU"), row):
      metric = f"validation/{label.lower()}"
      yield Value(f"{name}: {label}", name + seed, metric, value, TABLE_3, tolerance)
  for name, (perplexity, _) in rows.items():
    if perplexity != BASE[0]:
      worse, better = (name, "base") if perplexity > BASE[0] else ("base", name)
      names = (worse + seed, better + seed, "validation/perplexity", TABLE_3)
      why = {"A": HEADS, "D": SHORT}.get(name[0], "")
      yield Order(f"perplexity: {worse} over {better}", *names, why=why)
