"""python -m train.main --config configs/tag.py:data=DIR,init=runs/mlm --workdir runs/tags

Learns a tag for each word from the files train, dev and test of a folder, in columns
(`word<TAB>tag`, CoNLL) or in CoNLL-U (of which UPOS is read). dev=10%,test=10% makes all three of
the file train.
"""

from configs import common
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/ud_ewt",
    suffix=Argument(".conllu.gz", "the ending of the files"),
    dev=Argument("dev", "the validation file; 10% holds out the last tenth of train"),
    test=Argument("test", "the test file; 10% holds out the last tenth of train, behind dev"),
    metric=Argument(("accuracy", "f1"), "the score to choose a checkpoint by; f1: of entities"),
    init="",
    tokenizer="",
    steps=600,
    peak=3e-4,
    small=False,
  )
  splits = common.splits(arg.data, arg.suffix, arg.dev, arg.test)
  task = dict(name="tagging", data=dict(name="conll", splits=splits, word=0, tag=-1), stride=96)
  return common.fine_tune(task, arg, best_metric=arg.metric)
