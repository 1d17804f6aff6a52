"""python -m train.main --config configs/qa.py:train=a.json,init=runs/mlm --workdir runs/qa

Answers as spans of a text, in SQuAD's JSON (.gz or not); long texts in windows.
Without a validation file the last tenth of train's articles (where they are fewer than ten: of its
paragraphs) is held out.
Arguments: train=FILE, validation=FILE, test=FILE, init=RUN, tokenizer=RUN, no_answer (SQuAD 2.0),
steps=, peak=, small.
"""

from configs import common, sections


def get_config(arg=""):
  arg = common.parse(
    arg,
    train="data/squad/train.json",
    validation="",
    test="data/squad/dev.json",
    init="",
    tokenizer="",
    no_answer=False,
    steps=1000,
    peak=3e-4,
    small=False,
  )
  splits = dict(train=arg.train, validation=arg.validation, test=arg.test)
  if not arg.validation:
    splits |= dict(train=f"{arg.train}[:90%]", validation=f"{arg.train}[90%:]")
  task = sections.QA | dict(
    data=dict(name="squad", splits=splits),
    reading=sections.QA["reading"] | dict(no_answer=arg.no_answer),
  )
  return common.fine_tune(task, arg, best_metric="f1")
