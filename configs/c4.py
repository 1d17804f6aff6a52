"""python -m train.main --config configs/c4.py:data=gs://BUCKET/c4 --workdir gs://BUCKET/t5_base \\
    --coordinator=auto     # on each host of a v5e pod

Pre-trains T5 (Raffel et al. 2020, section 3.7), or with style=ul2 the denoisers of UL2, on the
English documents of C4: 1,000,000 updates of 2,048 rows of 512 tokens with Adafactor, whose rate
rises to 0.01 at step 10,000 and falls by the inverse square root. data= is a folder that
train.prepare has written, or a glob of files for training, with those for validation beside them:
JSON lines as AllenAI publish them (DIR/c4-train.*.json.gz, DIR/c4-validation.*.json.gz), or
Parquet. Without data=, `c4/en` is read through TensorFlow Datasets. The vocabulary has UL2's modes
for either style, so that one prepared corpus serves both.

Preparing: python -m train.prepare --config "configs/c4.py:data=DIR/c4-train.*.json.gz" \\
    --out gs://BUCKET/c4
On paper, of 365 million documents and 156 billion tokens (Dodge et al. 2021, table 1): 312 GB at 2
bytes a token, 1,220 files of 256 MB, 101 core hours at 430,000 tokens a second of a 2.2 GHz core.

Time: not measured (python -m train.plan --config configs/c4.py --topology v5e:16x16 estimates a
step). With style=ul2 a process takes 35 MB for each of its streams (measured on Parquet: 2.2 GB for
all 64). Expected: no number was measured.
"""

from configs import common, corpora, span
from configs.common import Argument

ARGUMENTS = span.ARGUMENTS | dict(
  size=Argument(("base", "large", "3b", "11b", "mini"), "size of the model, as in configs/span.py"),
  steps=1_000_000,
  peak=0.01,
)


def get_config(arg=""):
  data = Argument("", "a folder of train.prepare, or a glob of files; empty: c4/en of TFDS")
  arg = common.parse(arg, data=data, data_dir="", **ARGUMENTS)
  cfg = span.build(arg, modes=True, **corpora.read(arg, "c4/en"))
  if arg.small:
    return cfg
  return corpora.of_days(cfg, 5000, name="rsqrt", peak=arg.peak, warmup_steps=10_000)
