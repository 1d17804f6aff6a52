"""python -m train.main --config configs/mixture.py:data=DIR --workdir runs/mixture

Translation with a denoising objective mixed in: Multi30k's captions (configs/multi30k.py, recipe
quick), and of every hundred examples `share` a German caption with spans to fill in (Raffel et al.
2020, figure 2). What is evaluated is the same mixture; decoding and BLEU are translation's.
Arguments: data=DIR, share=20, style= (configs/span.py), small.
"""

from configs import common, multi30k, sections, span

SHARED = ("tokenizer", "source_len", "target_len", "pack")


def get_config(arg=""):
  arg = common.parse(arg, data="data/multi30k", share=20, style=span.STYLES, small=False)
  if not 0 < arg.share < 100:
    raise ValueError(f"argument share={arg.share}: more than 0 and less than 100 percent")
  cfg = multi30k.get_config(f"data={arg.data}" + (",small" if arg.small else ""))
  translation = cfg.task.to_dict()
  shared = {key: translation.pop(key) for key in SHARED}
  shared["tokenizer"] |= dict(
    vocab_size=shared["tokenizer"]["vocab_size"] + 40, special=("<mask>",), sentinels=30
  )
  denoising = {key: value for key, value in sections.SPAN.items() if key not in SHARED}
  own = {key: value for key, value in translation["data"].items() if key not in sections.DATA}
  german = sections.DATA | dict(name="formatted", of=own, text="{target}")
  denoising |= dict(data=german, length=60, style=arg.style, share=arg.share / 100)
  denoising["label_smoothing"] = translation["label_smoothing"]  # parts share their loss
  parts = dict(translation=translation | dict(share=1 - arg.share / 100), denoising=denoising)
  cfg.task = dict(name="mixture", main="translation", parts=parts) | shared
  return cfg
