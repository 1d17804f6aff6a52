"""python -m train.main --config configs/mlm.py:data=DIR --workdir runs/mlm

Trains a masked language model (Devlin et al. 2019), an encoder of about 10 million parameters, on
the texts of a folder or glob; the last fiftieth of each file is held out. size=base and size=large
are BERT's models with BERT's batches of 256 rows of 512 tokens, for accelerators (see train.plan).

Time: 50 minutes of one CPU core for 1,600 updates of 16 rows on 3.3 million words of prose and
plays with rate=0.3. Expected: a perplexity of 75.1 of the masked words
(experiments/devlin2019_finetune.py).
"""

from configs import common, sections, smaller
from configs.common import Argument

LARGE = sections.BERT | dict(dim=1024, num_heads=16, mlp_dim=4096, encoder_layers=24)
# The model, the rows of a batch (packed: 4,096 or 131,072 tokens), their length, the vocabulary.
SIZES = {
  "mini": (sections.ENCODER, 32, 128, 8000),
  "base": (sections.BERT, 256, 512, 30_000),
  "large": (LARGE, 256, 512, 30_000),
}
ARGUMENTS = dict(
  size=Argument(tuple(SIZES), "size of the model and its batches"),
  init="",
  rate=Argument(0.15, "share of the tokens to predict"),
  whole_words=Argument(False, "masks whole words"),
  steps=2000,
  peak=1e-3,
  small=False,
  **smaller.ARGUMENTS,
)


def get_config(arg=""):
  data = Argument("data/prose", "a text file, folder or glob")
  return build(common.parse(arg, data=data, **ARGUMENTS))


def build(arg, **task):
  """Returns the run of ARGUMENTS; `task` replaces settings of its task."""
  model, batch_size, source_len, vocab_size = SIZES[arg.size]
  model = model | dict(output_bias=True)
  if arg.small:
    model |= sections.SMALL | dict(encoder_layers=1)
    batch_size, source_len, vocab_size = 8, 128, 400
  taken = smaller.start(arg)
  if arg.init:
    changes = dict(output_bias=True, decoder_layers=0)  # where it was trained for something else
    start = common.inherit(arg.init, "pretraining", changes, **taken)
    rates = ()
  else:
    # The bias learns how often words are: at the common rate that takes thousands of steps, and
    # until then the embeddings learn it and come to point one way (measured: mean cosine 0.7).
    start, rates = dict(model=model), (("^output_bias", 30.0), (".", 1.0))
  return common.pretrain(
    arg,
    batch_size=batch_size,
    vocab_size=vocab_size,
    task=dict(name="mlm", source_len=source_len, rate=arg.rate, whole_words=arg.whole_words) | task,
    optimizer=sections.ADAMW | dict(rates=rates),
    **smaller.distill(arg),
    **start,
  )
