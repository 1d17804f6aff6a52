"""python -m train.main --config configs/multi30k.py:data=DIR --workdir runs/multi30k

Multi30k image captions, English to German. DIR holds `train.en.gz`, `train.de.gz`, ... (raw text);
for form=wu2021 the files that Wu et al. 2021 published (lowercased, tokenised, BPE pieces).
Arguments: data=DIR, recipe=quick|tiny, form=raw|wu2021, small.

recipe=quick: 17 minutes on two CPU cores. Number to reach: 32 BLEU on test_2016_flickr (measured:
32.2 cased sacreBLEU, beam 4).
recipe=tiny: Transformer-Tiny of Wu et al. 2021, "Good for Misconceived Reasons", section 4: 4 + 4
layers, dim 128, 8,192 tokens an update, at most 8,000 updates, the last 10 checkpoints averaged
(about 5 hours). Number to reach: 36 cased BLEU on raw text; with form=wu2021 their 41.02 on
test2016. Not run at full length yet. Commands: README, "Results".
"""

from ml_collections import ConfigDict

from configs import common

FILES = {
  "raw": {"train": "train", "validation": "val", "test": "test_2016_flickr"},
  "wu2021": {"train": "train", "validation": "valid", "test": "test.2016"},
}
MORE_TESTS = {
  "raw": {"test_2017": "test_2017_flickr", "mscoco": "test_2017_mscoco"},
  "wu2021": {"test_2017": "test.2017", "mscoco": "test.coco"},
}


def get_config(arg=""):
  arg = common.parse(
    arg, data="data/multi30k", recipe=("quick", "tiny"), form=("raw", "wu2021"), small=False
  )
  tiny = arg.recipe == "tiny"
  cfg = ConfigDict()
  cfg.seed = 0
  cfg.steps = 20 if arg.small else 8000 if tiny else 800
  cfg.batch_size = 8 if arg.small else 128 if tiny else 32  # packed rows
  cfg.microbatches = 1
  cfg.workers = 0
  cfg.mesh = dict(data=-1, fsdp=1, tensor=1)
  cfg.log_every = 5 if arg.small else 50
  cfg.tensorboard = True
  cfg.init_from = dict(workdir="", which="latest", skip=())

  names = FILES[arg.form] | MORE_TESTS[arg.form]
  cfg.task = dict(
    name="translation",
    data=dict(
      name="files",
      splits={
        split: dict(source=f"{arg.data}/{name}.en.gz", target=f"{arg.data}/{name}.de.gz")
        for split, name in names.items()
      },
    ),
    tokenizer=dict(name="word")
    if arg.form == "wu2021"
    else dict(name="bpe", vocab_size=400 if arg.small else 8000 if tiny else 6000),
    source_len=64,
    target_len=64,
    pack=True,
    label_smoothing=0.1,
    z_loss=0.0,
    decode_batch=32,
    lowercase_scores=False,
    tokenized_scores=arg.form == "wu2021",
    piece_marker="@@ " if arg.form == "wu2021" else "",
    decoding=dict(beam=5 if tiny else 4, length_penalty=1.0, max_len_ratio=1.0, max_len_extra=20),
  )
  cfg.model = dict(
    dim=128 if tiny else 256,
    num_heads=4,
    mlp_dim=256 if tiny else 1024,
    encoder_layers=4 if tiny else 3,
    decoder_layers=4 if tiny else 3,
    norm_position="post" if tiny else "pre",
    activation="relu",
    positions="sinusoidal",
    dropout=0.3 if tiny else 0.1,
    share_embeddings=True,
    tie_output=True,
  )
  if arg.small:
    cfg.model.update(dim=32, mlp_dim=64, encoder_layers=1, decoder_layers=1)
  if tiny:
    cfg.optimizer = dict(
      name="adam", clip_norm=0.0, no_decay=r"(bias|scale)$", b1=0.9, b2=0.98, eps=1e-9
    )
    cfg.schedule = dict(name="rsqrt", peak=5e-3, warmup_steps=2000)
  else:
    cfg.optimizer = dict(
      name="adamw", clip_norm=1.0, no_decay=r"(bias|scale)$", b1=0.9, b2=0.98, weight_decay=0.01
    )
    cfg.schedule = dict(name="linear", peak=1.5e-3, warmup_steps=100, final=0.02)
  if arg.small:
    cfg.schedule.warmup_steps = 5
  every = 10 if arg.small else 200
  cfg.evaluate = dict(
    split="validation",
    every=every,
    decode_every=20 if arg.small else 1000,
    decode_examples=16 if arg.small else 300,
  )
  cfg.checkpoint = dict(
    every=every, keep_latest=10, keep_best=1, best_metric="loss", best_mode="min"
  )
  return cfg
