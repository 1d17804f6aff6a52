"""python -m experiments.run experiments/minilm.py --data DIR

MiniLM (`make data`), a pre-trained BERT of 22.7 million parameters, fine-tuned on five tasks, and
the same model from random weights. The reference is `transformers`' Trainer with the same weights,
data, scores and settings: `python tests/parity/trainer.py TASK --data DIR --seed N
[--scratch]`. Three hours of one CPU core for SST-2, TREC and tags; WNUT-17 and questions took a
minute each on an H100.
"""

from typing import NamedTuple

from experiments.tools.runs import Run, Value, evaluate_every, seeds

MODEL = "data/minilm"
QUESTIONS = "{data}/squadshifts/[an]*.json.gz"  # Amazon's and Wikipedia's, parts by article


class Task(NamedTuple):
  """A task. `rows` packed rows hold about `batch` examples, and steps * batch are the epochs."""

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
# Trainer's AdamW
OPTIMIZER = {"optimizer.b2": 0.999, "optimizer.weight_decay": 0.0}


def make_run(name: str, start: str, run_name: str = "") -> Run:
  """Makes the run of a task from MiniLM's weights ("pretrained") or random ones ("scratch")."""
  task = TASKS[name]
  changes = {"batch_size": task.rows} | OPTIMIZER | evaluate_every(task.steps // task.epochs)
  if start == "scratch":
    changes["init_from.workdir"] = ""
  config = f"configs/{task.config},steps={task.steps},peak={PEAKS[start]},init=hf:{MODEL}"
  return Run(run_name or f"{name}-{start}", config, changes, metrics=task.metrics)


def runs(scale):  # there is one scale
  for name in TASKS:
    for start in PEAKS:
      yield from seeds(make_run(name, start))


# Trainer's scores: mean, lowest and highest of three seeds from MiniLM's weights, and from random
# ones. Measured on an H100 with torch 2.11, transformers 5.17 and products in TF32.
TRAINER = {
  ("sst2", "accuracy"): ((87.4, 87.0, 87.5), (74.8, 72.8, 78.5)),
  ("trec", "accuracy"): ((96.5, 95.8, 97.0), (84.9, 84.4, 85.2)),
  ("ud_ewt", "accuracy"): ((95.7, 95.6, 95.9), (86.5, 86.2, 86.7)),
  ("wnut17", "f1"): ((32.3, 32.2, 32.6), (1.6, 1.4, 1.9)),
  ("qa", "f1"): ((34.8, 34.3, 35.9), (9.1, 8.9, 9.1)),
  ("qa", "exact_match"): ((18.3, 16.7, 19.5), (1.7, 1.5, 1.9)),
}


def expected(scale):  # there is one scale
  for (task, metric), both in TRAINER.items():
    for start, (mean, low, high) in zip(PEAKS, both):
      source = f"Trainer, three seeds: {low} to {high}"
      runs = rf"{task}-{start}-seed\d"
      yield Value(f"{task}, {start}: {metric}", runs, f"test/{metric}", mean, source)
