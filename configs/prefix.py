"""python -m train.main --config configs/prefix.py:data=DIR --workdir runs/prefix

Trains a prefix language model (Raffel et al. 2020). model=encoder_decoder encodes the beginning of
each window and learns the rest; model=decoder does both with one stack, and attends to the
beginning in both directions.
"""

from configs import common, span
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    data=Argument("data/prose", "a text file, folder or glob"),
    model=("encoder_decoder", "decoder"),
    init="",
    steps=2000,
    small=False,
  )
  if arg.init and arg.model == "decoder":
    raise ValueError("init=RUN takes an encoder-decoder here: configs/causal.py takes a decoder")
  more = f",init={arg.init}" if arg.init else ""
  more += ",small" if arg.small else ""
  cfg = span.get_config(f"data={arg.data},style=prefix,steps={arg.steps}{more}")
  if arg.model == "decoder":
    cfg.task = dict(
      name="causal",
      data=cfg.task.data.to_dict(),
      tokenizer=cfg.task.tokenizer.to_dict(),
      prefix=True,
      cross_documents=False,
    )
    cfg.model.decoder_layers += cfg.model.encoder_layers
    cfg.model.encoder_layers = 0
  return cfg
