"""python -m train.main --config configs/mlm.py:data=DIR --workdir runs/mlm

Masked language modelling (Devlin et al. 2019) of an encoder of about 10 million parameters on the
texts of a folder or glob; the last fiftieth of each file is held out. init=RUN (or hf:DIR) goes on
from another encoder, its model and tokenizer. size=base and size=large are BERT's, with its batches
of 256 rows of 512 tokens (not run here: for train.plan and accelerators).
Arguments: data=PATH, size=mini|base|large, init=RUN, rate=, whole_words, steps=, peak=, small.

Reached: perplexity 75.1 of hidden words at rate=0.3 on 3.3 million words of prose and plays, after
1,600 updates of 16 rows in 50 minutes of one CPU core (experiments/devlin2019_finetune.py).
"""

from configs import common, sections

LARGE = dict(dim=1024, num_heads=16, mlp_dim=4096, encoder_layers=24)


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/prose",
    size=("mini", "base", "large"),
    init="",
    rate=0.15,
    whole_words=False,
    steps=2000,
    peak=1e-3,
    small=False,
  )
  every = 10 if arg.small else 200
  mini = arg.size == "mini"
  length = 128 if arg.small or mini else 512
  vocab_size = 400 if arg.small else 8000 if mini else 30_000
  tokenizer = dict(name="bpe", vocab_size=vocab_size, special=("<mask>",), sentinels=100)
  small = sections.SMALL | dict(encoder_layers=1) if arg.small else {}
  model = {"mini": sections.ENCODER, "base": sections.BERT, "large": sections.BERT | LARGE}[
    arg.size
  ]
  start = dict(model=model | dict(output_bias=True) | small)
  # The bias learns how often words are: at everybody's rate it takes thousands of steps, and until
  # then the embeddings do it in its place and come to point one way (mean cosine 0.7 seen).
  rates = (("^output_bias", 30.0), (".", 1.0))
  if arg.init:
    start = common.go_on(arg.init, "mlm", output_bias=True, decoder_layers=0)
    tokenizer, rates = start.pop("tokenizer"), ()
  return common.run(
    steps=20 if arg.small else arg.steps,
    batch_size=8 if arg.small else 32 if mini else 256,  # packed rows: 4,096 or 131,072 tokens
    log_every=5 if arg.small else 50,
    task=sections.MLM
    | dict(
      data=common.prose(arg.data),
      tokenizer=tokenizer,
      source_len=length,
      rate=arg.rate,
      whole_words=arg.whole_words,
    ),
    optimizer=sections.ADAMW | dict(rates=rates),
    schedule=dict(name="linear", peak=arg.peak, warmup_steps=5 if arg.small else 100, final=0.0),
    evaluate=dict(split="validation", every=every, decode_every=0, decode_examples=0),
    checkpoint=common.checkpoints(every, keep_latest=1),
    **start,
  )
