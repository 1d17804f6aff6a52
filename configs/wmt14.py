"""python -m train.main --config configs/wmt14.py:size=base --workdir runs/wmt14_base

WMT14 German-English through TensorFlow Datasets (`wmt14_translate/de-en`, English to German), the
recipe of Vaswani et al. 2017, section 5. Arguments: size=base|big, data_dir=DIR, small.

Numbers to reach (their table 2, newstest2014, checkpoints averaged, compound splitting): base 27.3,
big 28.4 BLEU. Not run here: 100,000 (base) and 300,000 (big) steps of 25,000 target tokens are days
on 8 GPUs. Afterwards, with 5 (base) or 20 (big) checkpoints averaged:
python -m train.evaluate --workdir runs/wmt14_base --split test --checkpoint average:5
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=""):
  arg = common.parse(arg, size=("base", "big"), data_dir="", small=False)
  big = arg.size == "big"
  cfg = ConfigDict()
  cfg.seed = 0
  cfg.steps = 20 if arg.small else 300_000 if big else 100_000
  cfg.batch_size = 8 if arg.small else 104  # packed rows of 256: 25k tokens at 94% filled
  cfg.microbatches = 1
  cfg.workers = 0 if arg.small else 4
  cfg.mesh = dict(data=-1, fsdp=1, tensor=1)
  cfg.log_every = 5 if arg.small else 100
  cfg.tensorboard = True
  cfg.init_from = dict(workdir="", which="latest", skip=())

  cfg.task = dict(
    name="translation",
    data=dict(
      name="tfds",
      dataset="wmt14_translate/de-en",
      data_dir=arg.data_dir or None,
      source="en",
      target="de",
    ),
    tokenizer=dict(name="bpe", vocab_size=500 if arg.small else 37_000),
    source_len=256,
    target_len=256,
    pack=True,
    label_smoothing=0.1,
    z_loss=0.0,
    decode_batch=64,
    lowercase_scores=False,
    tokenized_scores=False,
    piece_marker="",
    decoding=dict(beam=4, length_penalty=0.6, max_len_ratio=1.0, max_len_extra=50),
  )
  cfg.model = dict(
    dim=1024 if big else 512,
    num_heads=16 if big else 8,
    mlp_dim=4096 if big else 2048,
    encoder_layers=6,
    decoder_layers=6,
    activation="relu",
    norm="layer",
    norm_position="post",
    positions="sinusoidal",
    dropout=0.3 if big else 0.1,
    share_embeddings=True,
    tie_output=True,
    dtype="bfloat16",
  )
  if arg.small:
    cfg.model.update(
      dim=32, num_heads=4, mlp_dim=64, encoder_layers=1, decoder_layers=1, dtype="float32"
    )
  cfg.optimizer = dict(
    name="adam", clip_norm=0.0, no_decay=r"(bias|scale)$", b1=0.9, b2=0.98, eps=1e-9
  )
  # The paper's dim**-0.5 * warmup**-0.5 is the schedule's peak.
  warmup = 5 if arg.small else 4000
  cfg.schedule = dict(name="rsqrt", peak=(cfg.model.dim * 4000) ** -0.5, warmup_steps=warmup)
  every = 10 if arg.small else 1500
  cfg.evaluate = dict(
    split="validation",
    every=every,
    decode_every=20 if arg.small else 10_500,
    decode_examples=8 if arg.small else 500,
  )
  cfg.checkpoint = dict(
    every=every,
    keep_latest=20 if big else 5,
    keep_best=1,
    best_metric="loss",
    best_mode="min",
  )
  return cfg
