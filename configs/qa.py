"""python -m train.main --config configs/qa.py:train=a.json,init=runs/mlm --workdir runs/qa

Learns answers as spans of a text, from SQuAD's JSON (.gz or not); long texts are read in windows.
Without a validation file, the last tenth of the training articles is held out (of the paragraphs,
if there are fewer than ten articles).
"""

from configs import common, smaller
from configs.common import Argument


def get_config(arg=""):
  arg = common.parse(
    arg,
    train=Argument("data/squad/train.json", "the training file"),
    validation=Argument("", "the validation file; empty: a part of train"),
    dev=Argument("10%", "the part of train for validation, without a validation file"),
    test=Argument("data/squad/dev.json", "the test file; 10% holds out the last tenth of train"),
    init="",
    tokenizer="",
    states=Argument(("encoder", "decoder"), "whose: a decoder reads behind an encoder (BART)"),
    no_answer=Argument(False, "questions may have no answer (SQuAD 2.0)"),
    steps=1000,
    peak=3e-4,
    small=False,
    **smaller.ARGUMENTS,
  )
  splits = common.hold_out(arg.train, arg.validation or arg.dev, arg.test)
  name = common.table_source(arg.train)
  columns = dict(columns=("id", "question", "context", "answers"))
  task = dict(
    name="qa",
    data=dict(splits=splits)
    | (dict(name="squad") if name == "files" else dict(columns, name=name)),
    reading=dict(no_answer=arg.no_answer),
  )
  return common.fine_tune(task, arg, best_metric="f1", decoder=arg.states == "decoder")
