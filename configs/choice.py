"""python -m train.main --config configs/choice.py:data=DIR,init=runs/mlm --workdir runs/choice

Learns which of several texts may follow a text (SWAG: Zellers et al. 2018), from the files
train.jsonl, dev.jsonl and test.jsonl of a folder. A line has the keys text, choices (a list) and
label, the number of the right choice from 0 or its text.
"""

from configs import common, smaller
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    data=Argument("data/choice", "a folder, or one file (.jsonl, .parquet)"),
    dev=Argument("dev", "the validation file; 10% holds out the last tenth of train"),
    test=Argument("test", "the test file; 10% holds out the last tenth of train, behind dev"),
    init="",
    tokenizer="",
    steps=600,
    peak=1e-4,
    small=False,
    **smaller.ARGUMENTS,
  )
  files = common.splits(arg.data, (".jsonl", *common.PARQUET), arg.dev, arg.test)
  name = common.table_source(files["train"])
  data = dict(name=name, splits=files, columns=("text", "choices", "label"))
  return common.fine_tune(dict(name="choice", data=data), arg, best_metric="accuracy")
