"""python -m experiments.run experiments/raffel2020_objectives.py --data DIR

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer" (T5), tables 4 and 5: span corruption, prefix LM, BERT-style and deshuffling at equal
cost, and no pre-training, then fine-tuned as text to text.

Small scale: an encoder-decoder of 3.3 million parameters reads two million tokens of DIR/prose, and
is fine-tuned on DIR/sst2 and DIR/trec, three seeds: two hours of one CPU core. Full scale: T5-base,
2**19 steps of 128 rows of 512 tokens of texts in DIR/c4, and the same two tasks; not run here.
"""

import itertools

from experiments.tools.runs import Order, Run, Value, every, seeds

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
  """Multiplications for a row: three encoder layers, two decoder layers and the logits."""
  dim = MODEL["model.dim"]
  return source_len * 3 * 12 * dim**2 + target_len * (2 * 16 * dim**2 + VOCAB * dim)


def runs(scale):
  yield from (pretraining(style, scale) for style in STYLES)
  small = MODEL if scale == "small" else {}
  steps = TUNING if scale == "small" else 2**18
  for task, config in TASKS.items():
    for style in (*STYLES, SCRATCH):
      start = f"tokenizer={{root}}/{STYLES[0]}" if style == SCRATCH else f"init={{root}}/{style}"
      changes = every(steps // 2) | (small if style == SCRATCH else {})
      text = f"configs/{config},steps={steps},{start}"
      yield from seeds(Run(f"{task}-{style}", text, changes))


def pretraining(style, scale):
  told = dict(splits=("validation",), metrics=("perplexity",))
  if scale == "full":
    config = f"configs/span.py:data={{data}}/c4,size=base,style={style},steps={2**19}"
    return Run(style, config, {"batch_size": 128, "schedule.name": "rsqrt"}, **told)
  # Spans say a third of the text: rows of 64 are enough, and the price of the rest buys steps.
  steps = round(STEPS * cost(128) / cost(64)) if style == "spans" else STEPS
  config = f"configs/span.py:data={{data}}/prose,style={style},steps={steps}"
  changes = {"batch_size": 16, "task.tokenizer.vocab_size": VOCAB, **MODEL}
  return Run(style, config, changes, **told)


SOURCE = "table 4 and 5, GLUE average (standard deviation 0.235)"
GLUE = {"scratch": 66.22, "deshuffle": 73.17, "prefix": 80.69, "bert": 82.96, "spans": 83.49}
FEW = "two million tokens for their 34 billion; analysis/blind.py shows what they taught"


def expected(scale):
  for task in TASKS:
    for style, glue in GLUE.items():
      name = f"{style}: {task}, beside T5's GLUE"
      yield Value(name, rf"{task}-{style}-seed\d", "test/accuracy", glue, SOURCE)
  for task in TASKS:
    for less, more in itertools.pairwise(GLUE):
      names = (rf"{task}-{style}-seed\d" for style in (more, less))
      yield Order(f"{task}: {more} over {less}", *names, "test/accuracy", SOURCE, why=FEW)


NOTES = """
Not T5's order: BERT-style and deshuffling gain three points on TREC, nothing gains on SST-2, spans
and prefixes lose on both. `python -m experiments.analysis.blind` gives each row another row's
source: the validation loss of spans goes from 4.63 to 4.64 and of prefixes from 4.91 to 4.93, of
BERT-style from 4.43 to 4.81 and of deshuffling from 4.35 to 4.85. So of spans and prefixes the
decoder has so far learnt a language model, which does not look at its encoder and has to unlearn
that.
"""
