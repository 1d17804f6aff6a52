"""python -m train.main --config configs/mlm.py:data=DIR --workdir runs/mlm

Masked language modelling (Devlin et al. 2019) of an encoder of about 10 million parameters on the
texts of a folder or glob; the last fiftieth of each file is held out. Arguments: data=PATH, steps=,
whole_words, small.
"""

from configs import common, sections


def get_config(arg=""):
  arg = common.parse(arg, data="data/prose", steps=2000, whole_words=False, small=False)
  every = 10 if arg.small else 200
  return common.run(
    steps=20 if arg.small else arg.steps,
    batch_size=8 if arg.small else 32,  # packed rows: 4,096 tokens
    log_every=5 if arg.small else 50,
    task=sections.MLM
    | dict(
      data=common.prose(arg.data),
      tokenizer=dict(
        name="bpe", vocab_size=400 if arg.small else 8000, special=("<mask>",), sentinels=100
      ),
      whole_words=arg.whole_words,
    ),
    model=sections.ENCODER
    | dict(output_bias=True)
    | (sections.SMALL | dict(encoder_layers=1) if arg.small else {}),
    optimizer=sections.ADAMW,
    schedule=dict(name="linear", peak=1e-3, warmup_steps=5 if arg.small else 100, final=0.0),
    evaluate=dict(split="validation", every=every, decode_every=0, decode_examples=0),
    checkpoint=common.checkpoints(every, keep_latest=1),
  )
