"""python -m experiments.run experiments/beltagy2020_longformer.py --data DIR

Beltagy, Peters & Cohan 2020, "Longformer: The Long-Document Transformer": the cost of attention
within a window is linear in the length, not quadratic, and the loss is no worse (their table 4,
characters).

Small scale: language models of the characters of DIR/prose on rows of 4,096, with a window of 256
in each layer or over all pairs, the same updates, two seeds: about two hours of one CPU core. Rows
of 256 show what the length contributes. Full scale: rows of 16,384, not run. Time and memory of a
window alone: `python -m experiments.analysis.benchmark attention`.
"""

from experiments.tools.runs import Order, Run, Value, evaluate_every, seeds

MODEL = {"model.dim": 128, "model.num_heads": 4, "model.mlp_dim": 512, "model.decoder_layers": 4}
CLAIM = "section 3: linear in the length"
QUALITY = (
  "tables 2 and 3: bits a character of text8 and enwik8 no worse than all pairs' (from memory)"
)
# name -> tokens of a row, rows, window
KINDS = {"window-4096": (4096, 1, 256), "all-4096": (4096, 1, 0), "all-256": (256, 16, 0)}


def runs(scale):
  options = dict(splits=("validation",), checkpoint="latest", metrics=("bits_per_byte",))
  for name, (length, rows, window) in KINDS.items():
    length *= 4 if scale == "full" else 1
    config = f"configs/causal.py:data={{data}}/prose,steps=300,window={window}"
    # evaluated at the end only: with all pairs an evaluation costs as much as a hundred steps
    changes = {**MODEL, **evaluate_every(300), "evaluate.decode_every": 0, "batch_size": rows}
    changes |= {"task.target_len": length, "model.max_len": length}
    yield from seeds(Run(name, config, changes, **options), 2)


def expected(scale):
  speed, bits = "train/tokens_per_second", "validation/bits_per_byte"
  for name in KINDS:
    yield Value(f"{name}: tokens a second", rf"{name}-seed\d", speed)
    yield Value(f"{name}: bits a byte", rf"{name}-seed\d", bits)
  window, all_pairs = r"window-4096-seed\d", r"all-4096-seed\d"
  yield Order("tokens a second: window over all pairs", window, all_pairs, speed, CLAIM)
  yield Order("bits a byte: all pairs over window", all_pairs, window, bits, QUALITY, by=-0.05)
