"""python -m train.main --config configs/wikipedia.py:data=gs://BUCKET/wikipedia \\
    --workdir gs://BUCKET/bert --coordinator=auto     # on each host of a v5e pod

Pre-trains BERT (Devlin et al. 2019) or the denoisers of UL2 (Tay et al. 2022) on the articles of
Wikipedia: objective=bert is configs/mlm.py with BERT's rows, 256 of 512 tokens, 1,000,000 updates
and a peak of 1e-4; objective=ul2 is configs/span.py:style=ul2 with T5's rows, 2,048 of 512 tokens,
100,000 updates and T5's schedule. data= is a folder that train.prepare has written, or a glob of
files, of which the last hundredth is held out: Parquet as Hugging Face's wikimedia/wikipedia
(DIR/20231101.en/*.parquet, of which the column `text` is read), JSON lines or text. Without data=,
`wikipedia/20230601.en` is read through TensorFlow Datasets.

Preparing: python -m train.prepare --config "configs/wikipedia.py:data=DIR/20231101.en/*.parquet" \\
    --out gs://BUCKET/wikipedia
On paper, of 6.4 million articles and 20.2 GB of text: 4.6 billion tokens at 4.4 bytes of text each,
9.2 GB at 2 bytes a token, 36 files of 256 MB, 3 core hours at 430,000 tokens a second of a 2.2 GHz
core.

Time: not measured (python -m train.plan --config configs/wikipedia.py --topology v5e:4x4 estimates
a step). Expected: no number was measured.
"""

from configs import common, corpora, mlm, span
from configs.common import Argument

SPLITS = dict(train="train[:99%]", validation="train[99%:]")  # of TFDS, which has train alone
# Updates, peak, schedule of each objective, and updates between evaluations.
RECIPES = {
  "bert": (1_000_000, 1e-4, dict(name="linear", final=0.0), 10_000),
  "ul2": (100_000, 0.01, dict(name="rsqrt"), 2000),
}


def get_config(arg=""):
  arg = common.parse(
    arg,
    data=Argument("", "a folder of train.prepare, or a glob of files; empty: TFDS"),
    data_dir="",
    objective=Argument(tuple(RECIPES), "masked words with an encoder, or UL2's denoisers"),
    size=Argument(("base", "large", "mini"), "size of the model and its batches"),
    init="",
    steps=Argument(0, "updates; 0: the recipe's"),
    peak=Argument(0.0, "the highest learning rate; 0: the recipe's"),
    small=False,
  )
  steps, peak, schedule, every = RECIPES[arg.objective]
  arg.steps, arg.peak = arg.steps or steps, arg.peak or peak
  arg.rate, arg.whole_words, arg.style, arg.mean_span = 0.15, False, "ul2", 3.0
  task = corpora.read(arg, "wikipedia/20230601.en", SPLITS)
  cfg = mlm.build(arg, **task) if arg.objective == "bert" else span.build(arg, modes=True, **task)
  if arg.small:
    return cfg
  return corpora.of_days(cfg, every, peak=arg.peak, warmup_steps=10_000, **schedule)
