"""python -m train.main --config configs/wmt14.py:size=base --workdir runs/wmt14_base

Translates WMT14 from English to German, read through TensorFlow Datasets (`wmt14_translate/de-en`),
by the recipe of Vaswani et al. 2017, section 5.

Time: days on 8 GPUs for 100,000 (base) or 300,000 (big) steps of 25,000 target tokens.
Expected: their table 2, newstest2014, with checkpoints averaged and compounds split: base 27.3, big
28.4 BLEU. Average 5 (base) or 20 (big) checkpoints:
python -m train.evaluate --workdir runs/wmt14_base --split test --checkpoint average:5
"""

from configs import common, sections
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    size=Argument(("base", "big"), "size of the model, as in the paper"),
    data_dir="",
    small=False,
  )
  big = arg.size == "big"
  dropout, steps, dim = (0.3, 300_000, 1024) if big else (0.1, 100_000, 512)
  depth, dim = (1, 32) if arg.small else (6, dim)
  every = 10 if arg.small else 1500
  return common.run(
    steps=20 if arg.small else steps,
    batch_size=8 if arg.small else 104,  # packed rows of 256: 25k tokens at 94% filled
    workers=0 if arg.small else 4,
    log_every=5 if arg.small else 100,
    task=dict(
      name="translation",
      data=dict(
        name="tfds",
        dataset="wmt14_translate/de-en",
        data_dir=arg.data_dir or None,
        source="en",
        target="de",
      ),
      tokenizer=dict(name="bpe", vocab_size=500 if arg.small else 37_000),
      source_len=256,
      target_len=256,
    ),
    model=dict(
      dim=dim,
      num_heads=4 if arg.small else dim // 64,
      mlp_dim=64 if arg.small else 4 * dim,
      encoder_layers=depth,
      decoder_layers=depth,
      dropout=dropout,
      attention_impl="einsum" if arg.small else "auto",
      dtype="float32" if arg.small else "bfloat16",
    ),
    optimizer=sections.ADAM,
    # The peak of the schedule is the paper's dim**-0.5 * warmup**-0.5.
    schedule=dict(name="rsqrt", peak=(dim * 4000) ** -0.5, warmup_steps=5 if arg.small else 4000),
    evaluate=dict(
      every=every,
      decode_every=20 if arg.small else 10_500,
      decode_examples=8 if arg.small else 500,
    ),
    checkpoint=dict(every=every, keep_latest=20 if big else 5),
  )
