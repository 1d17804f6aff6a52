"""python -m train.main --config configs/classify.py:data=DIR,init=runs/mlm --workdir runs/sst2

Classes of sentences: tab-separated `text<TAB>label` files train.tsv, dev.tsv, test.tsv in a folder
(SST-2, TREC); with pair, `text<TAB>text<TAB>label`; with regression, labels are numbers. init=RUN
goes on from a pre-trained encoder, its model and tokenizer; without it the same encoder begins with
random weights, and with tokenizer=RUN that run's vocabulary.
Arguments: data=DIR, init=RUN, tokenizer=RUN, dev=NAME (dev=10%: the last tenth of train; TREC has
no dev file), pair, regression, steps=, peak=, pool=first|mean, small.
"""

from configs import common, sections


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/sst2",
    dev="dev",
    init="",
    tokenizer="",
    pair=False,
    regression=False,
    steps=400,
    peak=3e-4,
    pool=("first", "mean"),
    small=False,
  )
  splits = common.splits(arg.data, ".tsv", arg.dev)
  fields = ("text", "text_pair") if arg.pair else ("text",)
  data = dict(name="files", splits=splits, columns=(*fields, "label"))
  task = dict(data=data, fields=fields, regression=arg.regression, pool=arg.pool)
  return common.fine_tune(
    sections.CLASSIFICATION | task, arg, best_metric="pearson" if arg.regression else "accuracy"
  )
