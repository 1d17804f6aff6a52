"""python -m train.main --config configs/classify.py:data=DIR,init=runs/mlm --workdir runs/sst2

Learns classes of texts from the files train.tsv, dev.tsv and test.tsv of a folder, with a line
`text<TAB>label` for each example (SST-2, TREC). With pair, a line is `text<TAB>text<TAB>label`;
with regression, labels are numbers.

The encoder is that of init=RUN, or the same as in configs/mlm.py with random weights.
"""

from configs import common
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/sst2",
    dev=Argument("dev", "the validation file; 10% holds out the last tenth of train (TREC)"),
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
    data=dict(
      name="files", splits=common.splits(arg.data, ".tsv", arg.dev), columns=(*fields, "label")
    ),
    fields=fields,
    regression=arg.regression,
    class_weights=arg.class_weights,
    pool=arg.pool,
  )
  return common.fine_tune(task, arg, best_metric="pearson" if arg.regression else "accuracy")
