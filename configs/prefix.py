"""python -m train.main --config configs/prefix.py:data=DIR --workdir runs/prefix

A prefix language model (Raffel et al. 2020): model=encoder_decoder reads the beginning of each
window and learns the rest; model=decoder does both with one stack, the beginning seen whole.
init=RUN (or hf:DIR, a T5) goes on from another encoder-decoder, its model and tokenizer.
Arguments: data=PATH, model=encoder_decoder|decoder, init=RUN, steps=, small.
"""

from configs import common, sections, span


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/prose",
    model=("encoder_decoder", "decoder"),
    init="",
    steps=2000,
    small=False,
  )
  if arg.init and arg.model == "decoder":
    raise ValueError("init=RUN is of an encoder-decoder here: causal.py goes on from a decoder")
  more = f",init={arg.init}" if arg.init else ""
  more += ",small" if arg.small else ""
  cfg = span.get_config(f"data={arg.data},style=prefix,steps={arg.steps}{more}")
  if arg.model == "decoder":
    tokenizer = cfg.task.tokenizer.to_dict()
    cfg.task = sections.CAUSAL | dict(
      data=cfg.task.data.to_dict(), tokenizer=tokenizer, prefix=True, cross_documents=False
    )
    cfg.model.decoder_layers += cfg.model.encoder_layers
    cfg.model.encoder_layers = 0
  return cfg
