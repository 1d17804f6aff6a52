"""python -m train.main --config configs/mixture.py:data=DIR --workdir runs/mixture

Mixes translation with denoising: Multi30k's captions (configs/multi30k.py, recipe quick), and
German captions with spans to fill in (Raffel et al. 2020, figure 2). Evaluation uses the same
mixture; decoding and BLEU are those of translation.
"""

from configs import common, multi30k, span
from configs.common import Argument

SMOOTHING = 0.1  # the parts of a mixture share their loss


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/multi30k",
    share=Argument(20, "percent of the examples that are denoising"),
    style=Argument(span.STYLES, "how texts are corrupted, as in configs/span.py"),
    small=False,
  )
  if not 0 < arg.share < 100:
    raise ValueError(f"argument share={arg.share}: more than 0 and less than 100 percent")
  cfg = multi30k.get_config(f"data={arg.data}" + (",small" if arg.small else ""))
  translation = cfg.task.to_dict()
  tokenizer = translation.pop("tokenizer")
  tokenizer |= dict(vocab_size=tokenizer["vocab_size"] + 40, special=("<mask>",), sentinels=30)
  translation |= dict(share=1 - arg.share / 100, label_smoothing=SMOOTHING)
  denoising = dict(
    name="span",
    data=dict(name="formatted", of=dict(translation["data"]), text="{target}"),
    length=60,
    style=arg.style,
    share=arg.share / 100,
    label_smoothing=SMOOTHING,
  )
  cfg.task = dict(
    name="mixture",
    main="translation",
    parts=dict(translation=translation, denoising=denoising),
    tokenizer=tokenizer,
    source_len=64,
    target_len=64,
  )
  return cfg
