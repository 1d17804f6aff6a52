"""python -m train.main --config configs/tag.py:data=DIR,init=runs/mlm --workdir runs/tags

A tag for each word: files train, dev and test in a folder, in columns (`word<TAB>tag`, CoNLL) or
CoNLL-U (its UPOS). init=RUN goes on from a pre-trained encoder, its model and tokenizer.
Arguments: data=DIR, suffix=.conllu.gz|.conll|..., metric=accuracy|f1 (of entities) to choose a
checkpoint by, init=RUN, tokenizer=RUN (a run's vocabulary, random weights), steps=, peak=, small.
"""

from configs import common, sections


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/ud_ewt",
    suffix=".conllu.gz",
    metric=("accuracy", "f1"),
    init="",
    tokenizer="",
    steps=600,
    peak=3e-4,
    small=False,
  )
  splits = common.splits(arg.data, arg.suffix, "dev")
  data = dict(name="conll", splits=splits, word=0, tag=-1)
  return common.fine_tune(sections.TAGGING | dict(data=data), arg, best_metric=arg.metric)
