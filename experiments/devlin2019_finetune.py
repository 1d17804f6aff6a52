"""python -m experiments.run experiments/devlin2019_finetune.py --data DIR

Devlin et al. 2019, "BERT": does masked-LM pre-training help four tasks? The same encoder with the
same vocabulary starts from random weights for comparison.

Small scale: an encoder of about 10 million parameters is pre-trained on DIR/prose (50 minutes of
one CPU core), then fine-tuned on SST-2, TREC, UD English EWT and WNUT-17, three seeds each (75
minutes for 24 runs); `minilm` starts from published weights (`make data`) with the settings of
experiments/minilm.py (two hours for 12 runs). Full scale: BERT-base, a million steps of 256 rows of
512 tokens of the texts in DIR/books, and GLUE as TFDS prepares it; not run.
"""

from experiments import minilm
from experiments.tools.runs import Order, Run, Value, evaluate_every, seeds

# name -> config, rows of 128 tokens an update, steps, metrics
TASKS = {
  "sst2": ("classify.py:data={data}/sst2,pool=mean", 8, 160, ("accuracy",)),
  "trec": ("classify.py:data={data}/trec,dev=10%,pool=mean", 4, 200, ("accuracy",)),
  "ud_ewt": ("tag.py:data={data}/ud_ewt", 8, 180, ("accuracy",)),
  "wnut17": ("tag.py:data={data}/wnut17,suffix=.conll,metric=f1", 8, 160, ("f1",)),
}
PEAK = 1e-3
GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
TABLE_1 = "their table 1, test, from memory"
BERT_BASE = {"sst2": 93.5, "qqp": 71.2, "qnli": 90.5, "rte": 66.4, "mnli": 84.6}
ORDER = "section 5: pre-training helps fine-tuning"


def runs(scale):
  if scale == "full":
    config = "configs/mlm.py:data={data}/books,size=base,steps=1000000,peak=1e-4"
    yield Run("mlm", config, splits=("validation",), metrics=("perplexity",))
    for name in GLUE:
      config = f"configs/glue.py:name={name},init={{root}}/mlm,steps=10000,peak=3e-5"
      split = "validation_matched" if name == "mnli" else "validation"
      yield from seeds(Run(f"{name}-pretrained", config, splits=(split,)))
    return
  # half the usual rows, since twice the updates are worth more at the same cost; twice the usual
  # masks, as an hour is too short for 15% (Wettig et al. 2022 find 40% best); no dropout
  changes = {"batch_size": 16, "model.dropout": 0.0, "optimizer.weight_decay": 0.1}
  changes |= {"evaluate.every": 400, "checkpoint.every": 400}
  config = "configs/mlm.py:data={data}/prose,steps=1600,rate=0.3"
  yield Run("mlm", config, changes, splits=("validation",), metrics=("perplexity",))
  for task, (config, rows, steps, metrics) in TASKS.items():
    # evaluated in the middle and at the end: an evaluation costs as much as a dozen steps
    changes = {"batch_size": rows, "model.dropout": 0.1} | evaluate_every(steps // 2)
    for name, start in (("pretrained", "init"), ("scratch", "tokenizer")):
      text = f"configs/{config},steps={steps},peak={PEAK},{start}={{root}}/mlm"
      yield from seeds(Run(f"{task}-{name}", text, changes, metrics=metrics))
    yield from seeds(minilm.make_run(task, "pretrained", f"{task}-minilm"))


def expected(scale):
  if scale == "full":
    for task, value in BERT_BASE.items():
      split = "validation_matched" if task == "mnli" else "validation"
      name = f"BERT-base: {task}, accuracy on {split} (theirs of test)"
      yield Value(name, rf"{task}-pretrained-seed\d", f"{split}/accuracy", value, TABLE_1)
    return
  for task, (_, _, _, (metric, *_)) in TASKS.items():
    ours = [rf"{task}-{name}-seed\d" for name in ("minilm", "pretrained", "scratch")]
    metric = f"test/{metric}"
    yield Order(f"{task}: pre-trained here over random weights", ours[1], ours[2], metric, ORDER)
    yield Order(f"{task}: MiniLM over pre-trained here", ours[0], ours[1], metric, ORDER)
