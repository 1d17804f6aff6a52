"""python -m train.main --config configs/scan.py --workdir runs/scan

SCAN (Lake & Baroni 2018), commands to actions, made from its grammar. About 5 minutes on two CPU
cores. Number to reach: 99.5% exact match on the simple split's test commands (measured: 99.57,
greedy; README, "Results").
Arguments: split=simple|length|add_jump|add_turn_left, positions=sinusoidal|learned|relative|
rotary|alibi|none, small.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=""):
  arg = common.parse(
    arg,
    split=("simple", "length", "add_jump", "add_turn_left"),
    positions=("sinusoidal", "learned", "relative", "rotary", "alibi", "none"),
    small=False,
  )
  cfg = ConfigDict()
  cfg.seed = 0
  cfg.steps = 40 if arg.small else 1500
  cfg.batch_size = 8 if arg.small else 32  # packed rows
  cfg.microbatches = 1
  cfg.workers = 0
  cfg.mesh = dict(data=-1, fsdp=1, tensor=1)
  cfg.log_every = 10 if arg.small else 50
  cfg.tensorboard = True
  cfg.init_from = dict(workdir="", which="latest", skip=())

  cfg.task = dict(
    name="translation",
    data=dict(name="scan", split=arg.split, holdout=500),
    tokenizer=dict(name="word"),
    source_len=40,
    target_len=64,
    pack=True,
    label_smoothing=0.0,
    z_loss=0.0,
    decode_batch=64,
    lowercase_scores=False,
    tokenized_scores=True,
    piece_marker="",
    decoding=dict(beam=1, length_penalty=0.0, max_len_ratio=0.0, max_len_extra=50),
  )
  cfg.model = dict(
    dim=32 if arg.small else 128,
    num_heads=8,
    mlp_dim=64 if arg.small else 256,
    encoder_layers=1 if arg.small else 2,
    decoder_layers=1 if arg.small else 2,
    positions=arg.positions,
    norm_position="pre",
    dropout=0.1,
    tie_output=True,
    share_embeddings=True,
    max_len=64,
  )
  cfg.optimizer = dict(
    name="adamw", clip_norm=1.0, no_decay=r"(bias|scale)$", b1=0.9, b2=0.98, weight_decay=0.01
  )
  cfg.schedule = dict(name="cosine", peak=2e-3, warmup_steps=10 if arg.small else 150)
  cfg.evaluate = dict(split="validation", every=500, decode_every=500, decode_examples=500)
  cfg.checkpoint = dict(every=500, keep_latest=2, keep_best=1, best_metric="loss", best_mode="min")
  return cfg
