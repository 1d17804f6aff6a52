"""python -m experiments.run experiments/wu2021_multi30k.py --scale full --data DIR

Wu et al. 2021, "Good for Misconceived Reasons: An Empirical Revisiting on the Need for Visual
Context in Multimodal Machine Translation" (ACL): their Transformer-Tiny, which uses text alone, on
Multi30k, English to German. Full scale: 4 + 4 layers, dim 128, 8,192 tokens an update, at most
8,000 updates with early stopping after 10 epochs without improvement, the last 10 checkpoints
averaged, beam 5.

`wu2021` are the authors' own files (DIR/multi30k_wu2021: lowercased, tokenised, BPE pieces), scored
by BLEU of lowercased tokens as in the paper. `raw` is the raw text (DIR/multi30k), scored by cased
sacreBLEU; no paper reports it for this model. Eleven minutes on one H200 with all six runs at once
(`--jobs 6`); an update takes 2 s on one CPU core, and there are about 5,000.
"""

from experiments.tools.runs import Run, Value, seeds

REPOSITORY = "README of the authors' repository, LividWo/Revisit-MMT"
MEMORY = "the paper's table 1, from memory"


def runs(scale):
  for form, folder in (("wu2021", "multi30k_wu2021"), ("raw", "multi30k")):
    config = f"configs/multi30k.py:data={{data}}/{folder},recipe=tiny,form={form}"
    config += ",small" if scale == "small" else ""
    splits = ("test", "test_2017", "mscoco")
    yield from seeds(Run(form, config, splits=splits, checkpoint="average:10", metrics=("bleu",)))


def expected(scale):
  if scale == "small":
    return []
  ours = r"wu2021-seed\d"
  return [
    Value("test2016, BLEU", ours, "test/bleu", 41.02, REPOSITORY, tolerance=0.7),
    Value("test2017, BLEU", ours, "test_2017/bleu", 33.36, MEMORY, tolerance=1.0),
    Value("MSCOCO, BLEU", ours, "mscoco/bleu", 29.88, MEMORY, tolerance=1.0),
    Value("test2016, raw text, cased", r"raw-seed\d", "test/bleu"),
    Value("test2017, raw text, cased", r"raw-seed\d", "test_2017/bleu"),
    Value("MSCOCO, raw text, cased", r"raw-seed\d", "mscoco/bleu"),
  ]
