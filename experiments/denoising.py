"""python -m experiments.run experiments/denoising.py --data DIR

Raffel et al. 2020 (T5), tables 4 and 5, in small: span corruption, prefix LM, BERT-style and
deshuffling, each with the same number of steps and tokens on DIR/prose, then fine-tuned as text to
text on SST-2 and TREC, three seeds. About four hours on two CPU cores.
"""

from experiments.run import Run

SEEDS = (0, 1, 2)
STYLES = ("spans", "prefix", "bert", "deshuffle")
EXPECTED = """T5, GLUE average (standard deviation 0.235): no pre-training 66.22, deshuffling 73.17,
prefix LM 80.69, BERT-style 82.96, i.i.d. spans 83.28, mean span 3 83.49."""
TASKS = {
  "sst2": "text2text.py:data={data}/sst2,steps=250",
  "trec": "text2text.py:data={data}/trec,dev=10%,steps=250",
}


def runs(data, root):
  for style in STYLES:
    config = f"configs/span.py:data={data}/prose,style={style},steps=1000"
    yield Run(style, config, split="validation", metrics=("perplexity",))
  for seed in SEEDS:
    for task, config in TASKS.items():
      for style in (*STYLES, "scratch"):
        start = "" if style == "scratch" else f",init={root / style}"
        name, text = f"{task}-{style}-seed{seed}", f"configs/{config.format(data=data)}{start}"
        yield Run(name, text, {"seed": seed})
