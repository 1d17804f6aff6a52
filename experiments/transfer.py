"""python -m experiments.run experiments/transfer.py --data DIR

Does masked-LM pre-training on a few megabytes of prose help? An encoder of about 10 million
parameters is pre-trained on DIR/prose, then fine-tuned on four tasks; the same encoder, with the
same vocabulary, begins at random for comparison. Three seeds each. Of one CPU core pre-training
takes 50 minutes, the 24 fine-tunings 75 (a second process with --only can do some of them).
Measured: README, "Pre-training, and what it is worth"; it wins on all four.
"""

from experiments.run import Run, every

SEEDS = (0, 1, 2)
EXPECTED = (
  "The pre-trained encoder is to win on at least three of the four by more than the spread."
)

# name -> config, rows of 128 tokens an update, steps, metrics
TASKS = {
  "sst2": ("classify.py:data={data}/sst2,pool=mean", 8, 160, ("accuracy",)),
  "trec": ("classify.py:data={data}/trec,dev=10%,pool=mean", 4, 200, ("accuracy",)),
  "ud_ewt": ("tag.py:data={data}/ud_ewt", 8, 180, ("accuracy",)),
  "wnut17": ("tag.py:data={data}/wnut17,suffix=.conll,metric=f1", 8, 160, ("f1",)),
}
PEAK = 1e-3


def runs(data, root):
  # Half the usual rows: at this cost, twice the updates are worth more. Twice the usual masks: an
  # hour is too short for 15% (Wettig et al. 2022 find 40% best). No dropout: it is one epoch.
  config = f"configs/mlm.py:data={data}/prose,steps=1600,rate=0.3"
  changes = {"batch_size": 16, "model.dropout": 0.0, "optimizer.weight_decay": 0.1}
  changes |= {"evaluate.every": 400, "checkpoint.every": 400}
  mlm = Run("mlm", config, changes, split="validation", metrics=("perplexity",))
  yield mlm
  for seed in SEEDS:
    for task, (config, rows, steps, metrics) in TASKS.items():
      # Evaluated in the middle and at the end: each evaluation costs what a dozen steps cost.
      changes = {"seed": seed, "batch_size": rows, "model.dropout": 0.1} | every(steps // 2)
      for start in ("init", "tokenizer"):
        text = f"configs/{config},steps={steps},peak={PEAK},{start}={root / mlm.name}"
        name = {"init": "pretrained", "tokenizer": "scratch"}[start]
        yield Run(f"{task}-{name}-seed{seed}", text.format(data=data), changes, metrics=metrics)
