"""python -m experiments.run experiments/sanh2019_distillation.py --data DIR

Sanh et al. 2019, "DistilBERT": a student with half of the layers keeps most of the score.

The teacher is MiniLM (`make data`, 6 layers) fine-tuned as in minilm.py. The student has layers 0,
2 and 5 of MiniLM and learns from the teacher's logits and states; `alone` is the same student
without a teacher. SST-2 and TREC, three seeds each.
"""

from experiments import minilm
from experiments.tools.runs import Order, Run, evaluate_every, seeds

TASKS = ("sst2", "trec")
LAYERS = "layers=0+2+5"
LONGER = 3  # times the steps of minilm.py
SOURCE = "section 4: 97% of BERT's score"
WHY = "it is above it, by less than the seeds' spread on 1,821 and 500 examples; see the notes"


def runs(scale):  # there is one scale
  for name in TASKS:
    task = minilm.TASKS[name]
    yield from seeds(minilm.make_run(name, "pretrained", f"{name}-teacher"))
    steps = task.steps * LONGER
    changes = {"batch_size": task.rows, **minilm.OPTIMIZER, **evaluate_every(steps // LONGER)}
    for seed in range(3):
      start = f"configs/{task.config},steps={steps},peak=1e-4,init=hf:{minilm.MODEL},{LAYERS}"
      own = changes | {"seed": seed}
      yield Run(f"{name}-alone-seed{seed}", start, own, metrics=task.metrics)
      taught = {"distill.hard": 0.2, "distill.soft": 0.8, "distill.hidden": 1.0}
      config = f"{start},teacher={{root}}/{name}-teacher-seed{seed}"
      yield Run(f"{name}-student-seed{seed}", config, own | taught, metrics=task.metrics)


def expected(scale):  # there is one scale
  for name in TASKS:
    student, alone, teacher = (rf"{name}-{kind}-seed\d" for kind in ("student", "alone", "teacher"))
    what, metric = f"{name}: the student with a teacher", "test/accuracy"
    yield Order(
      f"{what} over the one without", student, alone, metric, SOURCE, spread=True, why=WHY
    )
    yield Order(f"{what} over its teacher", student, teacher, metric, SOURCE, times=0.97)
