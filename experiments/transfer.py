"""python -m experiments.run experiments/transfer.py --data DIR

Does masked-LM pre-training on a few megabytes of prose help? An encoder of about 10 million
parameters is pre-trained on DIR/prose, then fine-tuned on four tasks; the same encoder, with the
same vocabulary, begins at random for comparison. Three seeds each. About two and a half hours on
two CPU cores, of which pre-training is 40 minutes.
"""

from experiments.run import Run

SEEDS = (0, 1, 2)
EXPECTED = (
  "The pre-trained encoder is to win on at least three of the four by more than the spread."
)

# name -> config, steps, metrics
TASKS = {
  "sst2": ("classify.py:data={data}/sst2", 180, ("accuracy",)),
  "trec": ("classify.py:data={data}/trec,dev=10%", 120, ("accuracy",)),
  "ud_ewt": ("tag.py:data={data}/ud_ewt", 250, ("accuracy",)),
  "wnut17": ("tag.py:data={data}/wnut17,suffix=.conll,metric=f1", 150, ("f1",)),
}
# Of one SST-2 run each, pre-trained: 68.6% (dev) at the configs' usual 3e-4, 73.7% at 1e-3.
PEAK = 1e-3
# Evaluated in the middle and at the end: each evaluation costs what a dozen steps cost.
EVERY = ("evaluate.every", "evaluate.decode_every", "checkpoint.every")


def runs(data, root):
  # Half the usual rows: at this cost, twice the updates are worth more.
  config = f"configs/mlm.py:data={data}/prose,steps=2000"
  mlm = Run("mlm", config, {"batch_size": 16}, split="validation", metrics=("perplexity",))
  yield mlm
  for seed in SEEDS:
    for task, (config, steps, metrics) in TASKS.items():
      changes = {"seed": seed} | dict.fromkeys(EVERY, steps // 2)
      for start, arg in (
        ("pretrained", f",init={root / mlm.name}"),
        ("scratch", f",tokenizer={root / mlm.name}"),
      ):
        config_text = f"configs/{config.format(data=data)},steps={steps},peak={PEAK}{arg}"
        yield Run(f"{task}-{start}-seed{seed}", config_text, changes, metrics=metrics)
