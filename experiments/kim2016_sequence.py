"""python -m experiments.run experiments/kim2016_sequence.py --data DIR

Kim & Rush 2016, "Sequence-Level Knowledge Distillation": a small translator learns from its
teacher's outputs. The teacher is the quick recipe of configs/multi30k.py (4.3 million parameters);
the student has 2 + 1 layers of 160 units; `alone` learns from the references. Three seeds each.
"""

from experiments.tools.runs import Derived, Order, Run

CONFIG = "configs/multi30k.py:data={data}/multi30k"
SMALLER = {
  "model.dim": 160,
  "model.num_heads": 4,
  "model.mlp_dim": 640,
  "model.encoder_layers": 2,
  "model.decoder_layers": 1,
}
SOURCE = "table 1: +1.4 to +4.2 BLEU for small students"


def runs(scale):  # there is one scale
  for seed in range(3):
    teacher, outputs = f"teacher-seed{seed}", f"outputs-seed{seed}"
    metrics = ("bleu", "chrf")
    yield Run(teacher, CONFIG, {"seed": seed}, metrics=metrics)
    made = ("train.predict", "--workdir", f"{{root}}/{teacher}", "--checkpoint", "best")
    made += ("--split", "train")
    yield Derived(outputs, splits=(), made=made, out="outputs.jsonl")
    same = f"{CONFIG},tokenizer={{root}}/{teacher}"
    own = {**SMALLER, "seed": seed}
    yield Run(f"alone-seed{seed}", same, own, metrics=metrics)
    taught = f"{same},distilled={{root}}/{outputs}/outputs.jsonl"
    yield Run(f"student-seed{seed}", taught, own, metrics=metrics)


EXPECTED = [
  Order(
    "a student of outputs over one of references",
    r"student-.*",
    r"alone-.*",
    "test/bleu",
    SOURCE,
    by=1.0,
  ),
  Order("teacher over student, parameters", r"teacher-.*", r"student-.*", "parameters", times=2),
]
