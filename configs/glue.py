"""python -m train.main --config configs/glue.py:name=rte,init=runs/mlm --workdir runs/rte

Learns a task of GLUE from the data as TFDS prepares them (`glue/NAME`). The labels of the test
split are secret, so the validation split serves as both. With init=hf:DIR, the encoder is one of
Hugging Face's: BERT, ModernBERT (peak=8e-5), DeBERTa-v3 (peak=2e-5) and others, with its own head.

Expected: Devlin et al. 2019, table 1, has the test scores of BERT (base: 79.6 on average).
"""

from configs import common
from configs.common import Argument

# The features that hold the texts, and the score to choose a checkpoint by.
TASKS = {
  "cola": (("sentence",), "matthews"),
  "sst2": (("sentence",), "accuracy"),
  "mrpc": (("sentence1", "sentence2"), "accuracy"),
  "stsb": (("sentence1", "sentence2"), "pearson"),
  "qqp": (("question1", "question2"), "accuracy"),
  "mnli": (("premise", "hypothesis"), "accuracy"),
  "qnli": (("question", "sentence"), "accuracy"),
  "rte": (("sentence1", "sentence2"), "accuracy"),
}


def get_config(arg=""):
  arg = common.parse(
    arg,
    name=Argument(tuple(TASKS), "the task"),
    data_dir="",
    init="",
    tokenizer="",
    steps=1000,
    peak=3e-4,
    small=False,
  )
  features, metric = TASKS[arg.name]
  fields = ("text", "text_pair")[: len(features)]
  data = dict(name="tfds", dataset=f"glue/{arg.name}", data_dir=arg.data_dir or None)
  data |= dict(zip(fields, features)) | dict(label="label")
  task = dict(name="classification", data=data, fields=fields, regression=arg.name == "stsb")
  cfg = common.fine_tune(task, arg, best_metric=metric)
  cfg.evaluate.split = "validation_matched" if arg.name == "mnli" else "validation"
  return cfg
