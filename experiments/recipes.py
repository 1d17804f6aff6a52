"""python -m experiments.run experiments/recipes.py --data DIR

The recipes that a newcomer runs first: configs/scan.py (`make train`), the characters of
Shakespeare with the size and steps of nanoGPT's CPU example, and the quick recipe of Multi30k. On
two idle CPU cores they take 4, 8 and 12 minutes; one seed.
"""

from experiments.tools.runs import Run, Value

NANOGPT = "nanoGPT's code on the same file, with its README's settings for a CPU"


def runs(scale):  # there is one scale
  yield Run("scan", "configs/scan.py", metrics=("exact_match",))
  shakespeare = "configs/causal.py:data={data}/prose/shakespeare.txt.gz"
  yield Run("shakespeare", shakespeare, splits=("validation",), metrics=("bits_per_byte",))
  multi30k = "configs/multi30k.py:data={data}/multi30k"
  yield Run("multi30k", multi30k, metrics=("bleu",))


EXPECTED = [
  Value("SCAN, simple split: exact match", "scan", "test/exact_match", 99.5, "the config", 0.5),
  Value("Shakespeare: bits a byte", "shakespeare", "validation/bits_per_byte", 2.576, NANOGPT),
  Value("Multi30k, test_2016_flickr: cased BLEU", "multi30k", "test/bleu", 32, "the config", 2.0),
  Value("SCAN: padding in packed rows", "scan", "train/padding_share"),
  Value("Multi30k: padding in packed rows", "multi30k", "train/padding_share"),
]
