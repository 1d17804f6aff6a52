"""python -m train.main --config configs/span.py:data=DIR --workdir runs/span

Denoising with an encoder-decoder (Raffel et al. 2020) of about 10 million parameters on the texts
of a folder or glob; the last fiftieth of each file is held out. init=RUN (or hf:DIR, a T5) goes on
from another encoder-decoder, its model and tokenizer.
Arguments: data=PATH, init=RUN, style=spans|iid|drop|mask|bert|deshuffle|prefix (their tables 4 to
7), rate=, mean_span=, steps=, peak=, small.

Reached: perplexity 145.0 on 3.3 million words of prose and plays after 600 updates of 16 rows, in
14 minutes of one CPU core.
"""

from configs import common, sections

STYLES = ("spans", "iid", "drop", "mask", "bert", "deshuffle", "prefix")


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/prose",
    init="",
    style=STYLES,
    rate=0.15,
    mean_span=3.0,
    steps=2000,
    peak=1e-3,
    small=False,
  )
  every = 10 if arg.small else 200
  # Rows hold a whole window of text on the side that needs it, and several short ones of the other.
  whole = arg.style in ("mask", "bert", "deshuffle", "prefix") or arg.rate > 0.2
  vocab_size = 400 if arg.small else 8000
  tokenizer = dict(name="bpe", vocab_size=vocab_size, special=("<mask>",), sentinels=100)
  small = sections.SMALL | dict(encoder_layers=1, decoder_layers=1) if arg.small else {}
  start = dict(model=sections.ENCODER | dict(encoder_layers=3, decoder_layers=2) | small)
  if arg.init:
    start = common.pretrained(arg.init, skip=())
    tokenizer = start.pop("tokenizer")
  return common.run(
    steps=20 if arg.small else arg.steps,
    batch_size=8 if arg.small else 32,
    log_every=5 if arg.small else 50,
    task=sections.SPAN
    | dict(
      data=common.prose(arg.data),
      tokenizer=tokenizer,
      length=126,
      source_len=128,
      target_len=128 if whole else 64,
      style=arg.style,
      rate=arg.rate,
      mean_span=arg.mean_span,
    ),
    optimizer=sections.ADAMW,
    schedule=dict(name="linear", peak=arg.peak, warmup_steps=5 if arg.small else 100, final=0.0),
    evaluate=dict(split="validation", every=every, decode_every=0, decode_examples=0),
    checkpoint=common.checkpoints(every, keep_latest=1),
    **start,
  )
