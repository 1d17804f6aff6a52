"""python -m experiments.run experiments/raffel2020_objectives.py --data DIR

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer" (T5), tables 4 and 5: span corruption, prefix LM, BERT-style and deshuffling at equal
cost, and no pre-training, then fine-tuned as text to text.

Small scale: an encoder-decoder of 3.3 million parameters is pre-trained on two million tokens of
DIR/prose and fine-tuned on DIR/sst2 and DIR/trec, three seeds: two hours of one CPU core. Full
scale: T5-base, 2**19 steps of 128 rows of 512 tokens of the texts in DIR/c4, and the same two
tasks; not run.
"""

import itertools

from experiments.tools.runs import Order, Run, Value, evaluate_every, seeds

STYLES = ("spans", "prefix", "bert", "deshuffle")
SCRATCH = "scratch"
TASKS = {
  "sst2": "text2text.py:data={data}/sst2",
  "trec": "text2text.py:data={data}/trec,dev=10%",
}
MODEL = {"model.dim": 192, "model.num_heads": 3, "model.mlp_dim": 768}
VOCAB = 4000
STEPS = 800  # of pre-training, with rows of 128 tokens on both sides
TUNING = 200


def cost(target_len, source_len=128):
  """Returns the multiplications for a row: three encoder layers, two decoder layers, the logits."""
  dim = MODEL["model.dim"]
  return source_len * 3 * 12 * dim**2 + target_len * (2 * 16 * dim**2 + VOCAB * dim)


def runs(scale):
  yield from (pretraining(style, scale) for style in STYLES)
  small = MODEL if scale == "small" else {}
  steps = TUNING if scale == "small" else 2**18
  for task, config in TASKS.items():
    for style in (*STYLES, SCRATCH):
      start = f"tokenizer={{root}}/{STYLES[0]}" if style == SCRATCH else f"init={{root}}/{style}"
      changes = evaluate_every(steps // 2) | (small if style == SCRATCH else {})
      text = f"configs/{config},steps={steps},{start}"
      yield from seeds(Run(f"{task}-{style}", text, changes))


def pretraining(style, scale):
  options = dict(splits=("validation",), metrics=("perplexity",))
  if scale == "full":
    config = f"configs/span.py:data={{data}}/c4,size=base,style={style},steps={2**19}"
    return Run(style, config, {"batch_size": 128, "schedule.name": "rsqrt"}, **options)
  # the targets of spans are a third of the text: rows of 64 suffice, and what they save buys steps
  steps = round(STEPS * cost(128) / cost(64)) if style == "spans" else STEPS
  config = f"configs/span.py:data={{data}}/prose,style={style},steps={steps}"
  changes = {"batch_size": 16, "task.tokenizer.vocab_size": VOCAB, **MODEL}
  return Run(style, config, changes, **options)


SOURCE = "table 4 and 5, GLUE average (standard deviation 0.235)"
GLUE = {"scratch": 66.22, "deshuffle": 73.17, "prefix": 80.69, "bert": 82.96, "spans": 83.49}
FEW = "two million tokens in place of 34 billion; see the notes"


def expected(scale):
  for task in TASKS:
    for style, glue in GLUE.items():
      name = f"{style}: {task}, beside T5's GLUE"
      yield Value(name, rf"{task}-{style}-seed\d", "test/accuracy", glue, SOURCE)
  for task in TASKS:
    for less, more in itertools.pairwise(GLUE):
      names = (rf"{task}-{style}-seed\d" for style in (more, less))
      yield Order(f"{task}: {more} over {less}", *names, "test/accuracy", SOURCE, why=FEW)
