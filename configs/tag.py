"""python -m train.main --config configs/tag.py:data=DIR,init=runs/mlm --workdir runs/tags

Learns a tag for each word from the files train, dev and test of a folder, in columns
(`word<TAB>tag`, CoNLL) or in CoNLL-U (of which UPOS is read). data=tags.conll reads one file, of
which the last two tenths are validation and test; dev=10%,test=10% does so with the file train.
"""

from configs import common, smaller
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    data=Argument("data/ud_ewt", "a folder, or one file (.conllu, .conll, .bio, .tsv, .parquet)"),
    suffix=Argument("", "the ending of the files; empty: the one that train has"),
    dev=Argument("dev", "the validation file; 10% holds out the last tenth of train"),
    test=Argument("test", "the test file; 10% holds out the last tenth of train, behind dev"),
    columns=Argument("", "of a .parquet file, the words and the tags: tokens+ner_tags"),
    metric=Argument(("accuracy", "f1"), "the score to choose a checkpoint by; f1: of entities"),
    init="",
    tokenizer="",
    steps=600,
    peak=3e-4,
    small=False,
    **smaller.ARGUMENTS,
  )
  endings = arg.suffix or (*common.TAGS, *common.PARQUET)
  splits = common.splits(arg.data, endings, arg.dev, arg.test)
  data = dict(name=common.table_source(splits["train"]), splits=splits)
  if data["name"] == "files":
    data |= dict(name="conll", word=0, tag=-1)
  else:
    data |= dict(columns=common.columns(arg.columns, ("words", "tags")))
  task = dict(name="tagging", data=data, stride=96)
  return common.fine_tune(task, arg, best_metric=arg.metric)
