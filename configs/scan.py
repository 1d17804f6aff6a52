"""python -m train.main --config configs/scan.py --workdir runs/scan

SCAN (Lake & Baroni 2018), commands to actions, made from its grammar. About 5 minutes on two CPU
cores. Number to reach: 99.5% exact match on the simple split's test commands (measured: 99.57,
greedy; README, "Results").
Arguments: split=simple|length|add-jump|add-turn-left, cutoff=22 (most actions of a training command
of the length split), positions=sinusoidal|learned|relative|rotary|alibi|none, small.
"""

from configs import common, sections


def get_config(arg=""):
  arg = common.parse(
    arg,
    split=("simple", "length", "add-jump", "add-turn-left"),
    cutoff=22,
    positions=("sinusoidal", "learned", "relative", "rotary", "alibi", "none"),
    small=False,
  )
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
    model=dict(
      dim=32 if arg.small else 128,
      num_heads=8,
      mlp_dim=64 if arg.small else 256,
      encoder_layers=1 if arg.small else 2,
      decoder_layers=1 if arg.small else 2,
      norm_position="pre",
      positions=arg.positions,
      max_len=64,
    ),
    optimizer=sections.ADAMW,
    schedule=dict(name="cosine", peak=2e-3, warmup_steps=10 if arg.small else 150, final=0.0),
    evaluate=dict(split="validation", every=500, decode_every=500, decode_examples=500),
    checkpoint=common.checkpoints(every=500, keep_latest=2),
  )
