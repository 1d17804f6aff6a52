"""python -m train.main --config configs/scan.py --workdir runs/scan

SCAN (Lake & Baroni 2018), commands to actions, made from its grammar. About 5 minutes on two CPU
cores. Number to reach: 99.5% exact match on the simple split's test commands (measured: 99.57,
greedy; README, "Results").
model=lstm: 2 layers of 200 units, as Lake & Baroni's best over all experiments (99.8% here), though
theirs has no attention and dropout 0.5; measured: 99.28%, a step 1.5 to 1.9 times as long.
Arguments: split=simple|length|add-jump|add-turn-left, cutoff=22 (most actions of a training command
of the length split), model=transformer|lstm, small, and of a Transformer positions=sinusoidal|
learned|relative|rotary|alibi|none.
"""

from configs import common, sections


def get_config(arg=""):
  arg = common.parse(
    arg,
    split=("simple", "length", "add-jump", "add-turn-left"),
    cutoff=22,
    model=("transformer", "lstm"),
    positions=("sinusoidal", "learned", "relative", "rotary", "alibi", "none"),
    small=False,
  )
  if arg.model == "lstm" and arg.positions != "sinusoidal":
    raise ValueError(f"positions={arg.positions} is a Transformer's: an LSTM counts for itself")
  if arg.cutoff != 22 and arg.split != "length":
    raise ValueError("cutoff= is of split=length alone")
  divided = dict(cutoff=arg.cutoff) if arg.split == "length" else {}
  return common.run(
    steps=40 if arg.small else 1500,
    batch_size=8 if arg.small else 32,  # packed rows
    log_every=10 if arg.small else 50,
    task=sections.TRANSLATION
    | dict(
      data=dict(name="scan", split=arg.split, holdout=500) | divided,
      tokenizer=dict(name="word"),
      source_len=40,
      label_smoothing=0.0,
      bleu_tokenizer="none",
      decoding=dict(beam=1, length_penalty=0.0, max_len_ratio=0.0, max_len_extra=50),
    ),
    model=lstm(arg.small) if arg.model == "lstm" else transformer(arg.small, arg.positions),
    optimizer=sections.ADAMW,
    schedule=dict(name="cosine", peak=2e-3, warmup_steps=10 if arg.small else 150, final=0.0),
    evaluate=dict(split="validation", every=500, decode_every=500, decode_examples=500),
    checkpoint=common.checkpoints(every=500, keep_latest=2),
  )


def transformer(small, positions):
  return dict(
    dim=32 if small else 128,
    num_heads=8,
    mlp_dim=64 if small else 256,
    encoder_layers=1 if small else 2,
    decoder_layers=1 if small else 2,
    norm_position="pre",
    positions=positions,
    max_len=64,
  )


def lstm(small):
  layers = 1 if small else 2
  return dict(
    name="lstm",
    dim=32 if small else 200,
    encoder_layers=layers,
    decoder_layers=layers,
    dropout=0.2,
  )
