"""python -m experiments.run experiments/minilm.py --data DIR

MiniLM (`make data`), a pre-trained BERT of 22.7 million parameters, fine-tuned on five tasks; the
same with random weights. `transformers`' Trainer does the same in
experiments/tools/peers/trainer.py: same weights, data and settings, so the metrics are to be within
the spread of seeds. Its rows: `python experiments/tools/peers/trainer.py TASK --data DIR --seed N
[--scratch]`. Three hours of one CPU core for SST-2, TREC and tags; WNUT-17 and questions took a
minute each on an H100.
"""

from typing import NamedTuple

from experiments.tools.runs import Run, every, seeds

MODEL = "data/minilm"
QUESTIONS = "{data}/squadshifts/[an]*.json.gz"  # Amazon's and Wikipedia's, parts by article


class Task(NamedTuple):
  """Rows are packed: so many hold about `batch` examples, and steps * batch are the epochs."""

  config: str
  batch: int
  rows: int
  steps: int
  epochs: int
  metrics: tuple[str, ...] = ("accuracy",)


TASKS = {
  "sst2": Task("classify.py:data={data}/sst2", 32, 7, 217, 1),
  "trec": Task("classify.py:data={data}/trec,dev=10%", 32, 4, 460, 3),
  "ud_ewt": Task("tag.py:data={data}/ud_ewt", 32, 6, 392, 1),
  "wnut17": Task(
    "tag.py:data={data}/wnut17,suffix=.conll,metric=f1", 32, 8, 212, 2, ("f1", "accuracy")
  ),
  "qa": Task(
    f"qa.py:train={QUESTIONS}[:10%],validation={QUESTIONS}[80%:82%],test={QUESTIONS}[90%:]",
    *(16, 13, 111, 1),
    ("f1", "exact_match"),
  ),
}
PEAKS = {"pretrained": 1e-4, "scratch": 3e-4}
# AdamW as Trainer has it.
OPTIMIZER = {"optimizer.b2": 0.999, "optimizer.weight_decay": 0.0}


def run(name: str, start: str, called: str = "") -> Run:
  """A task from MiniLM's weights ("pretrained") or from random ones ("scratch")."""
  task = TASKS[name]
  changes = {"batch_size": task.rows} | OPTIMIZER | every(task.steps // task.epochs)
  if start == "scratch":
    changes["init_from.workdir"] = ""
  config = f"configs/{task.config},steps={task.steps},peak={PEAKS[start]},init=hf:{MODEL}"
  return Run(called or f"{name}-{start}", config, changes, metrics=task.metrics)


def runs(scale):
  del scale  # what there is is small
  for name in TASKS:
    for start in PEAKS:
      yield from seeds(run(name, start))


NOTES = """
What Trainer reaches is beside these numbers in README. WNUT-17 of seeds 0 and 1 has the same F1 on
an H100, with products in TF32, as on a CPU (devlin2019_finetune's `wnut17-minilm`), seed 2 differs
by 0.04. Random weights learn next to nothing of names and of questions.
"""
