"""Defines recipes of models and optimizers that several config files share.

A recipe has only what is not a default: train/resolve.py adds the rest.
"""

# An encoder of about 10 million parameters with a vocabulary of 8,000.
ENCODER = dict(
  dim=320,
  num_heads=5,
  mlp_dim=1280,
  encoder_layers=6,
  decoder_layers=0,
  activation="gelu",
  norm_position="pre",
  positions="rotary",
  embed_scale=False,
  # Without the norm, embeddings of deviation 0.05 meet a first block whose output has deviation 15:
  # positions are lost behind it, and pre-trained weights do worse than random ones.
  embedding_norm=True,
  init_std=0.05,  # with BERT's 0.02, which is for dim 768, attention stays flat for 400 steps
)
# Devlin et al. 2019, base.
BERT = dict(
  dim=768,
  num_heads=12,
  mlp_dim=3072,
  encoder_layers=12,
  decoder_layers=0,
  activation="gelu",
  norm_eps=1e-12,
  embedding_norm=True,
  positions="learned",
  embed_scale=False,
  init_std=0.02,
  attention_dropout=0.1,
  dtype="bfloat16",
)
# Raffel et al. 2020, base. T5's embeddings have deviation 1 and its logits are scaled down; here
# embeddings are scaled up, which is the same function.
T5 = dict(
  dim=768,
  num_heads=12,
  head_dim=64,
  mlp_dim=3072,
  encoder_layers=12,
  decoder_layers=12,
  norm="rms",
  norm_position="pre",
  norm_eps=1e-6,
  bias=False,
  positions="relative",
  attention_dropout=0.1,
  activation_dropout=0.1,
  dtype="bfloat16",
)
SMALL = dict(dim=32, num_heads=4, mlp_dim=64)

ADAMW = dict(name="adamw", b1=0.9, b2=0.98, weight_decay=0.01)
# Vaswani et al. 2017.
ADAM = dict(name="adam", clip_norm=0.0, no_decay="", b1=0.9, b2=0.98, eps=1e-9)

# Older config files begin a section with one of these names, and add what they change.
MODEL, LSTM = dict(name="transformer"), dict(name="lstm")
TRANSLATION, MLM, CAUSAL, SPAN, CLASSIFICATION, TAGGING, QA = (
  dict(name=name)
  for name in ("translation", "mlm", "causal", "span", "classification", "tagging", "qa")
)
