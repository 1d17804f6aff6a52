"""python -m train.main --config configs/span.py:data=DIR --workdir runs/span

Denoising with an encoder-decoder (Raffel et al. 2020) of about 10 million parameters on the texts
of a folder or glob; the last fiftieth of each file is held out. init=RUN (or hf:DIR, a T5) goes on
from another encoder-decoder, its model and tokenizer. size=base, large, 3b and 11b are T5's, with
batches of 2,048 rows of 512 tokens, the largest two with weights split over 32 devices (not run
here: for train.plan and accelerators).
Arguments: data=PATH, size=mini|base|large|3b|11b, init=RUN,
style=spans|iid|drop|mask|bert|deshuffle|prefix (their tables 4 to 7), rate=, mean_span=, steps=,
peak=, small.

Reached: perplexity 145.0 on 3.3 million words of prose and plays after 600 updates of 16 rows, in
14 minutes of one CPU core.
"""

from configs import common, sections

STYLES = ("spans", "iid", "drop", "mask", "bert", "deshuffle", "prefix")

LARGE = dict(dim=1024, num_heads=16, mlp_dim=4096, encoder_layers=24, decoder_layers=24)
HUGE = LARGE | dict(head_dim=128, scan_layers=True, remat="full")
SIZES = {
  "mini": sections.ENCODER | dict(encoder_layers=3, decoder_layers=2),
  "base": sections.T5,
  "large": sections.T5 | LARGE,
  "3b": sections.T5 | HUGE | dict(num_heads=32, mlp_dim=16384),
  "11b": sections.T5 | HUGE | dict(num_heads=128, mlp_dim=65536),
}

# Of a window, a source and a target, by whether rows are T5's and whether both sides hold a whole
# window; where one does not, T5's window is what gives a source of 512.
LENGTHS = {
  (False, False): (126, 128, 64),
  (False, True): (126, 128, 128),
  (True, False): (566, 512, 128),
  (True, True): (510, 512, 512),
}


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/prose",
    size=tuple(SIZES),
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
  mini, huge = arg.size == "mini", arg.size in ("3b", "11b")
  wide = not (mini or arg.small)
  length, source_len, target_len = LENGTHS[wide, whole]
  vocab_size = 400 if arg.small else 8000 if mini else 32_000
  tokenizer = dict(name="bpe", vocab_size=vocab_size, special=("<mask>",), sentinels=100)
  small = sections.SMALL | dict(encoder_layers=1, decoder_layers=1) if arg.small else {}
  start = dict(model=SIZES[arg.size] | small)
  if arg.init:
    start = common.pretrained(arg.init, skip=())
    tokenizer = start.pop("tokenizer")
  return common.run(
    steps=20 if arg.small else arg.steps,
    batch_size=2048 if wide else 8 if arg.small else 32,
    log_every=5 if arg.small else 50,
    task=sections.SPAN
    | dict(
      data=common.prose(arg.data),
      tokenizer=tokenizer,
      length=length,
      source_len=source_len,
      target_len=target_len,
      style=arg.style,
      rate=arg.rate,
      mean_span=arg.mean_span,
    ),
    optimizer=dict(name="adafactor") if wide else sections.ADAMW,
    # over more devices a weight's parts have fewer than a TPU's 8 rows, and their gradients are not
    # scattered: on v5e:16x16 the step takes 1.3 times as long (README, "On paper")
    mesh=common.MESH | (dict(fsdp=32) if huge and not arg.small else {}),
    schedule=dict(name="linear", peak=arg.peak, warmup_steps=5 if arg.small else 100, final=0.0),
    evaluate=dict(split="validation", every=every, decode_every=0, decode_examples=0),
    checkpoint=common.checkpoints(every, keep_latest=1),
    **start,
  )
