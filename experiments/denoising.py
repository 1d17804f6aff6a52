"""python -m experiments.run experiments/denoising.py --data DIR

Raffel et al. 2020 (T5), tables 4 and 5, in small: span corruption, prefix LM, BERT-style and
deshuffling of DIR/prose at equal cost by an encoder-decoder of 3.3 million parameters, then
fine-tuned as text to text on SST-2 and TREC, three seeds, beside random weights with the same
vocabulary. Two hours of one CPU core. Measured: README, "Pre-training, and what it is worth"; it is
not T5's order, and experiments/blind.py says why.
"""

from experiments.run import Run, every

SEEDS = (0, 1, 2)
STYLES = ("spans", "prefix", "bert", "deshuffle")
EXPECTED = """T5, GLUE average (standard deviation 0.235): no pre-training 66.22, deshuffling 73.17,
prefix LM 80.69, BERT-style 82.96, i.i.d. spans 83.28, mean span 3 83.49."""
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


def runs(data, root):
  for style in STYLES:
    # Spans say a third of the text: rows of 64 are enough, and the price of the rest buys steps.
    steps = round(STEPS * cost(128) / cost(64)) if style == "spans" else STEPS
    config = f"configs/span.py:data={data}/prose,style={style},steps={steps}"
    changes = {"batch_size": 16, "task.tokenizer.vocab_size": VOCAB, **MODEL}
    yield Run(style, config, changes, split="validation", metrics=("perplexity",))
  for seed in SEEDS:
    for task, config in TASKS.items():
      for style in (*STYLES, "scratch"):
        start = f"init={root / style}" if style != "scratch" else f"tokenizer={root / STYLES[0]}"
        changes = {"seed": seed} | every(TUNING // 2) | (MODEL if style == "scratch" else {})
        text = f"configs/{config.format(data=data)},steps={TUNING},{start}"
        yield Run(f"{task}-{style}-seed{seed}", text, changes)
