"""python -m train.main --config configs/prefix.py:data=DIR --workdir runs/prefix

A prefix language model (Raffel et al. 2020): model=encoder_decoder reads the beginning of each
window and learns the rest; model=decoder does both with one stack, the beginning seen whole.
Arguments: data=PATH, model=encoder_decoder|decoder, steps=, small.
"""

from configs import common, sections, span


def get_config(arg=""):
  arg = common.parse(
    arg, data="data/prose", model=("encoder_decoder", "decoder"), steps=2000, small=False
  )
  small = ",small" if arg.small else ""
  cfg = span.get_config(f"data={arg.data},style=prefix,steps={arg.steps}{small}")
  if arg.model == "decoder":
    tokenizer = cfg.task.tokenizer.to_dict()
    cfg.task = sections.CAUSAL | dict(
      data=common.prose(arg.data), tokenizer=tokenizer, prefix=True, across=False
    )
    cfg.model.decoder_layers += cfg.model.encoder_layers
    cfg.model.encoder_layers = 0
  return cfg
