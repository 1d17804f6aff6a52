"""python -m train.main --config configs/scan.py --workdir runs/scan

Learns SCAN (Lake & Baroni 2018): commands to actions, generated from a grammar.

Time: 5 minutes on two CPU cores; with model=lstm a step takes 1.5 to 1.9 times as long.
Expected: 99.5% exact match on the test commands of the simple split (measured: 99.57, greedy; with
model=lstm 99.28). The LSTM has 2 layers of 200 units, as Lake & Baroni's best over all experiments
(99.8% on the simple split); theirs has no attention and a dropout of 0.5.
"""

from configs import common, sections
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    split=Argument(("simple", "length", "add-jump", "add-turn-left"), "the division of the data"),
    cutoff=Argument(22, "the most actions of a training command, with split=length"),
    model=("transformer", "lstm"),
    positions=Argument(
      ("sinusoidal", "learned", "relative", "rotary", "alibi", "none"),
      "how a Transformer represents positions",
    ),
    small=False,
  )
  if arg.model == "lstm" and arg.positions != "sinusoidal":
    raise ValueError(f"positions={arg.positions} is for a Transformer: an LSTM has no positions")
  if arg.cutoff != 22 and arg.split != "length":
    raise ValueError("cutoff= is for split=length alone")
  data = dict(name="scan", split=arg.split, holdout=500)
  if arg.split == "length":
    data["cutoff"] = arg.cutoff
  return common.run(
    steps=40 if arg.small else 1500,
    batch_size=8 if arg.small else 32,  # packed rows
    log_every=10 if arg.small else 50,
    task=dict(
      name="translation",
      data=data,
      tokenizer=dict(name="word"),
      source_len=40,
      label_smoothing=0.0,
      bleu_tokenizer="none",
      decoding=dict(beam=1, length_penalty=0.0, max_len_ratio=0.0),
    ),
    model=lstm(arg.small) if arg.model == "lstm" else transformer(arg.small, arg.positions),
    optimizer=sections.ADAMW,
    schedule=dict(name="cosine", peak=2e-3, warmup_steps=10 if arg.small else 150, final=0.0),
    evaluate=dict(every=500, decode_every=500, decode_examples=500),
    checkpoint=dict(every=500, keep_latest=2),
  )


def transformer(small, positions):
  return dict(
    dim=32 if small else 128,
    mlp_dim=64 if small else 256,
    encoder_layers=1 if small else 2,
    decoder_layers=1 if small else 2,
    norm_position="pre",
    positions=positions,
    max_len=64,
  )


def lstm(small):
  layers = 1 if small else 2
  return dict(name="lstm", dim=32 if small else 200, encoder_layers=layers, decoder_layers=layers)
