"""python -m train.main --config configs/electra.py:data=DIR --workdir runs/electra

Learns to detect replaced tokens (ELECTRA: Clark et al. 2020) on the texts of a folder or glob, with
the last fiftieth of each file held out: an encoder of about 10 million parameters learns which
words a small masked language model has replaced. Fine-tuning takes the encoder's weights by
init=RUN (configs/classify.py). size=small and size=base are the paper's models (table 6), for
accelerators; the paper trains them with steps=1000000,peak=5e-4 and with steps=766000,peak=2e-4.
"""

from configs import common, sections
from configs.common import Argument

PAPERS_SMALL = sections.BERT | dict(dim=256, num_heads=4, mlp_dim=1024, embedding_dim=128)
# The model, the generator's share of its width, the rows of a batch, their length, the vocabulary.
SIZES = {
  "mini": (sections.ENCODER, 0.25, 32, 128, 8000),
  "small": (PAPERS_SMALL, 0.25, 128, 128, 30_000),
  "base": (sections.BERT, 1 / 3, 256, 512, 30_000),
}


def get_config(arg=""):
  arg = common.parse(
    arg,
    data=Argument("data/prose", "a text file, folder or glob"),
    size=Argument(tuple(SIZES), "size of the model and its batches"),
    init="",
    rate=Argument(0.15, "share of the tokens that the generator sees masked"),
    steps=2000,
    peak=1e-3,
    small=False,
  )
  model, generator, batch_size, source_len, vocab_size = SIZES[arg.size]
  model = model | dict(output_bias=True)
  if arg.small:
    model |= sections.SMALL | dict(encoder_layers=1, embedding_dim=None)
    batch_size, source_len, vocab_size = 8, 128, 400
  if arg.init:
    changes = dict(output_bias=True, decoder_layers=0)  # where it was trained for something else
    start, rates = common.inherit(arg.init, "pretraining", changes), ()
  else:  # the bias learns how often words are, at a higher rate: see configs/mlm.py
    start, rates = dict(model=model), (("^output_bias", 30.0), (".", 1.0))
  return common.pretrain(
    arg,
    batch_size=batch_size,
    vocab_size=vocab_size,
    task=dict(
      name="electra",
      source_len=source_len,
      rate=arg.rate,
      generator=generator,
    ),
    optimizer=sections.ADAMW | dict(rates=rates),
    **start,
  )
