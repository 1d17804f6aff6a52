"""python -m experiments.run experiments/zafrir2019_q8bert.py --data DIR

Zafrir et al. 2019, "Q8BERT": MiniLM (`make data`) fine-tuned on five tasks as in minilm.py, and the
translator of configs/multi30k.py, with weights stored in 8 bits (`int8`) and in 4 bits by groups of
32 or 24 (`int4`). On SST-2, TREC, tags and Multi30k also with weights and activations in 8 bits
after going on with training that knows of it (`aware`): for a fifth of the translator's updates,
and a third of MiniLM's; `longer` goes on as long with floats. Three seeds each.
"""

from experiments import minilm
from experiments.tools.runs import Derived, Order, Run, Value, evaluate_every, seeds

LESS = 3  # times the steps of minilm.py
AWARE = {"quantize.weights": "int8", "quantize.activations": "int8"}
TRAINED_SO = ("sst2", "trec", "ud_ewt")
MORE = {"trained": AWARE, "longer": {}}  # training that goes on from `full`
STORED = {  # the origin, and flags of train.export
  "int8": ("full", ("--quantize", "int8")),
  "int4": ("full", ("--quantize", "int4", "--group", "{group}")),
  "aware": ("trained", ("--quantize", "int8", "--activations", "int8")),
}
GROUPS = {"multi30k": 24}  # heads of 48 numbers; others 32
TRANSLATOR = "configs/multi30k.py:data={data}/multi30k"
LOST = {"int8": 0.5, "aware": 0.3}  # points, and below BLEU
LOST_BLEU = {"int8": 0.3, "int4": 1.0, "aware": 0.1}
SOURCE = "table 1: less than 1% lost"
SMALLER = 1 / 0.30  # times the bytes of int8


def kinds(name):
  """Returns how the runs of a task are stored."""
  return [kind for kind in STORED if kind != "aware" or name in (*TRAINED_SO, "multi30k")]


def runs(scale):  # there is one scale
  for name, task in minilm.TASKS.items():
    full = minilm.make_run(name, "pretrained", f"{name}-full")
    yield from seeds(full)
    for seed in range(3) if name in TRAINED_SO else ():
      steps = task.steps // LESS
      start = f"{{root}}/{name}-full-seed{seed}"
      config = f"configs/{task.config},steps={steps},peak=5e-6,init={start}"
      changes = {"batch_size": task.rows, **minilm.OPTIMIZER, **evaluate_every(steps)}
      changes |= {"init_from.skip": (), "init_from.which": "best", "seed": seed}
      for kind, more in MORE.items():
        yield Run(f"{name}-{kind}-seed{seed}", config, changes | more, metrics=task.metrics)
    yield from stored(name, task.metrics)
  metrics = ("bleu", "chrf")
  full = Run("multi30k-full", TRANSLATOR, metrics=metrics)
  yield from seeds(full)
  for seed in range(3):
    changes = {"steps": 200, "schedule.peak": 3e-4, "init_from.which": "best", "seed": seed}
    start = f"{TRANSLATOR},init={{root}}/multi30k-full-seed{seed}"
    changes |= evaluate_every(200)
    for kind, more in MORE.items():
      yield Run(f"multi30k-{kind}-seed{seed}", start, changes | more, metrics=metrics)
  yield from stored("multi30k", metrics)


def stored(name, metrics):
  """Yields the runs of a task whose weights are stored as integers."""
  for kind in kinds(name):
    origin, flags = STORED[kind]
    for seed in range(3):
      made = ("train.export", "--workdir", f"{{root}}/{name}-{origin}-seed{seed}")
      made += ("--checkpoint", "best", *(flag.format(group=GROUPS.get(name, 32)) for flag in flags))
      yield Derived(f"{name}-{kind}-seed{seed}", metrics=metrics, made=made)


def expected(scale):  # there is one scale
  for name in (*minilm.TASKS, "multi30k"):
    metric = "bleu" if name == "multi30k" else minilm.TASKS[name].metrics[0]
    full = rf"{name}-full-seed\d"
    yield Value(f"{name}: full", full, f"test/{metric}")
    for kind in kinds(name):
      own, lost = rf"{name}-{kind}-seed\d", (LOST_BLEU if name == "multi30k" else LOST).get(kind)
      yield Value(f"{name}: {kind}", own, f"test/{metric}", source=SOURCE)
      if lost:
        yield Order(f"{name}: {kind} over full", own, full, f"test/{metric}", SOURCE, by=-lost)
      if kind == "aware":  # without what the updates alone bring
        longer, what = rf"{name}-longer-seed\d", f"{name}: aware over longer"
        yield Value(f"{name}: longer", longer, f"test/{metric}")
        yield Order(what, own, longer, f"test/{metric}", SOURCE, by=-lost)
    for size in ("weights_bytes", "disk_bytes"):
      yield Order(
        f"{name}: full over int8, {size}", full, rf"{name}-int8-seed\d", size, times=SMALLER
      )
