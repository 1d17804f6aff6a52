"""python -m train.main --config configs/classify.py:data=DIR,init=runs/mlm --workdir runs/sst2

Learns classes of texts from the files train.tsv, dev.tsv and test.tsv of a folder, with a line
`text<TAB>label` for each example (SST-2, TREC), or .csv, or .jsonl with the keys text and label.
data=reviews.csv reads one file, of which the last two tenths are validation and test. With pair, a
line is `text<TAB>text<TAB>label`; with regression, labels are numbers. A header is recognised.
Where labels are numbers from 0, a file labels.txt beside the data has the name of each on a line.

The encoder is that of init=RUN, or the same as in configs/mlm.py with random weights.
"""

import os

from configs import common
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    data=Argument("data/sst2", "a folder, or one file (.tsv, .csv, .jsonl, or with .gz)"),
    dev=Argument("dev", "the validation file; 10% holds out the last tenth of train (TREC)"),
    test=Argument("test", "the test file; 10% holds out the last tenth of train, behind dev"),
    columns=Argument("", "names or numbers of the columns in a table: review+sentiment, 2+1"),
    header=Argument(("auto", "yes", "no"), "whether the first line names the columns"),
    init="",
    tokenizer="",
    pair=Argument(False, "classifies two texts"),
    regression=Argument(False, "labels are numbers"),
    class_weights=Argument("", "weights in the loss: spam:3+ham:0.5, or balanced"),
    steps=400,
    peak=3e-4,
    pool=Argument(("first", "mean"), "the state to classify: the first token's or the mean"),
    small=False,
  )
  fields = ("text", "text_pair") if arg.pair else ("text",)
  task = dict(
    name="classification",
    data=common.table(arg, (*fields, "label")) | label_names(arg),
    fields=fields,
    regression=arg.regression,
    class_weights=arg.class_weights,
    pool=arg.pool,
  )
  return common.fine_tune(task, arg, best_metric="pearson" if arg.regression else "accuracy")


def label_names(arg) -> dict:
  """Returns the setting of the data that names a labels.txt beside them, if there is one."""
  single = common.is_file(arg.data, common.TABLES)
  path = os.path.join(os.path.dirname(arg.data) if single else arg.data, "labels.txt")
  there = os.path.isfile(os.path.expanduser(path)) and not arg.regression
  return dict(label_names=path) if there else {}
