"""python -m experiments.run experiments/michel2019_heads.py --data DIR

Michel et al. 2019, "Are sixteen heads really better than one?": MiniLM (`make data`) fine-tuned on
SST-2 and TREC as in minilm.py loses half of its heads (`pruned`), and learns for an epoch after it
(`tuned`). Three seeds each.
"""

from experiments import minilm
from experiments.tools.runs import Derived, Order, Run, Value, evaluate_every, seeds

TASKS = ("sst2", "trec")
SOURCE = "section 4: 20 to 40% of the heads go without a noticeable loss"


def runs(scale):  # there is one scale
  for name in TASKS:
    task = minilm.TASKS[name]
    yield from seeds(minilm.make_run(name, "pretrained", f"{name}-full"))
    steps = task.steps // task.epochs
    changes = {"batch_size": task.rows, "init_from.skip": (), **minilm.OPTIMIZER}
    for seed in range(3):
      source = f"{{root}}/{name}-full-seed{seed}"
      made = ("train.prune", "--workdir", source, "--checkpoint", "best", "--heads", "0.5")
      pruned = f"{name}-pruned-seed{seed}"
      yield Derived(pruned, metrics=task.metrics, made=made)
      config = f"configs/{task.config},steps={steps},peak=5e-5,init={{root}}/{pruned}/run"
      own = {**changes, **evaluate_every(steps), "seed": seed}
      yield Run(f"{name}-tuned-seed{seed}", config, own, metrics=task.metrics)


def expected(scale):  # there is one scale
  for name in TASKS:
    full, pruned, tuned = (rf"{name}-{kind}-seed\d" for kind in ("full", "pruned", "tuned"))
    yield Order(f"{name}: tuned over full", tuned, full, "test/accuracy", SOURCE, by=-1.0)
    yield Value(f"{name}: pruned alone", pruned, "test/accuracy", source=SOURCE)
    yield Order(f"{name}: full over tuned, weights_bytes", full, tuned, "weights_bytes")
