"""python -m train.main --config configs/classify.py:data=DIR,init=runs/mlm --workdir runs/sst2

Learns classes of texts from the files train.tsv, dev.tsv and test.tsv of a folder, with a line
`text<TAB>label` for each example (SST-2, TREC), or .csv, or .jsonl or .parquet with the keys text
and label. data=reviews.csv reads one file, of which the last two tenths are validation and test.
With pair, a line is `text<TAB>text<TAB>label`; with regression, labels are numbers. A header is
recognised. With multi_label, the column labels has any number of labels, `spam,urgent`, or in
.jsonl and .parquet a list; with labels=spam+urgent, these columns have 1 where a text has the
label, else 0. With targets=price+quality, the columns price and quality have numbers to predict.
Where labels are numbers from 0, a file labels.txt beside the data has the name of each on a line.

The encoder is that of init=RUN, or the same as in configs/mlm.py with random weights.
"""

import os

from configs import common, smaller
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    data=Argument("data/sst2", "a folder, or one file (.tsv, .csv, .jsonl, .parquet)"),
    dev=Argument("dev", "the validation file; 10% holds out the last tenth of train (TREC)"),
    test=Argument("test", "the test file; 10% holds out the last tenth of train, behind dev"),
    columns=Argument("", "names or numbers of the columns in a table: review+sentiment, 2+1"),
    header=Argument(("auto", "yes", "no"), "whether the first line names the columns"),
    init="",
    tokenizer="",
    pair=Argument(False, "classifies two texts"),
    regression=Argument(False, "labels are numbers"),
    multi_label=Argument(False, "a text has any number of labels"),
    separator=Argument(",", "what stands between the labels of a cell"),
    labels=Argument("", "with multi_label, the columns that are labels, with + between"),
    targets=Argument("", "the columns of numbers to predict, with + between"),
    class_weights=Argument("", "weights in the loss: spam:3+ham:0.5, or balanced"),
    steps=400,
    peak=3e-4,
    pool=Argument("", "the state to classify: first, last, mean or max; empty: by states"),
    states=Argument(("encoder", "decoder"), "whose: a decoder reads behind an encoder (BART)"),
    small=False,
    **smaller.ARGUMENTS,
  )
  if sum(map(bool, (arg.regression, arg.multi_label, arg.targets))) > 1:
    raise ValueError("regression, multi_label and targets exclude each other: give one of them")
  if arg.labels and not arg.multi_label:
    raise ValueError("labels= names columns of 0 and 1: give multi_label too")
  if arg.class_weights and (arg.regression or arg.targets):
    raise ValueError("class_weights: a regression has no classes")
  fields = ("text", "text_pair") if arg.pair else ("text",)
  task, metric = objective(arg, fields)
  decoder = arg.states == "decoder"
  task |= dict(fields=fields, pool=arg.pool or ("last" if decoder else "first"))
  task |= dict(transform="dense") if decoder else {}
  return common.fine_tune(task, arg, best_metric=metric, decoder=decoder)


def objective(arg, fields) -> tuple[dict, str]:
  """Returns the settings by which texts in `fields` get labels or numbers, and the best metric."""
  if arg.multi_label:
    if arg.labels:
      labels = tuple(arg.labels.split("+"))
      data = numbered(arg, fields, labels) | dict(label_columns=labels)
    else:
      data = common.table(arg, (*fields, "labels"))
    weights = dict(separator=arg.separator, class_weights=arg.class_weights)
    return dict(name="multi_label", data=data, **weights), "micro_f1"
  if arg.targets:
    targets = tuple(arg.targets.split("+"))
    return dict(name="numbers", data=numbered(arg, fields, targets), targets=targets), "pearson"
  task = dict(
    name="classification",
    data=common.table(arg, (*fields, "label")) | label_names(arg),
    regression=arg.regression,
    class_weights=arg.class_weights,
  )
  return task, "pearson" if arg.regression else "accuracy"


def numbered(arg, fields, names) -> dict:
  """Returns the data of a table with the columns `names` as its fields label_0, label_1, ..."""
  columns = {field: field for field in fields} | {f"label_{i}": x for i, x in enumerate(names)}
  return common.table(arg, columns)


def label_names(arg) -> dict:
  """Returns the setting of the data that names a labels.txt beside them, if there is one."""
  single = common.is_file(arg.data, common.TABLES)
  path = os.path.join(os.path.dirname(arg.data) if single else arg.data, "labels.txt")
  there = common.exists(path) and not arg.regression
  return dict(label_names=path) if there else {}
