"""The sections of a config with all their keys.

A key that is in no section cannot be set by `--config.KEY=VALUE`: so each is written out here,
once, and a config says only what is different in its run.
"""

# model.config.TransformerConfig's fields and defaults (tests/test_configs.py holds them equal).
MODEL = dict(
  name="transformer",
  vocab_size=None,  # rows of the embedding table; None: as many as the tokenizer has tokens
  dim=512,
  num_heads=8,
  num_kv_heads=None,
  head_dim=None,
  mlp_dim=2048,
  encoder_layers=6,
  decoder_layers=6,
  activation="relu",
  gated=False,
  norm="layer",
  norm_position="post",
  norm_eps=1e-5,
  embedding_dim=None,
  embedding_norm=False,
  token_types=0,
  bias=True,
  positions="sinusoidal",
  max_len=512,
  position_offset=0,
  relative_buckets=32,
  relative_max_distance=128,
  rope_theta=10000.0,
  share_embeddings=True,
  tie_output=True,
  output_bias=False,
  embed_scale=True,
  logits_scale=1.0,
  attention_scale=None,
  window=None,
  global_tokens=0,
  init_std=None,
  dropout=0.1,
  attention_dropout=0.0,
  activation_dropout=0.0,
  attention_impl="einsum",
  remat="none",
  scan_layers=False,
  dtype="float32",
)
# model.config.LSTMConfig's; another model is another section.
LSTM = dict(
  name="lstm",
  vocab_size=None,
  dim=512,
  encoder_layers=2,
  decoder_layers=2,
  bidirectional=True,
  share_embeddings=True,
  tie_output=True,
  output_bias=False,
  forget_bias=1.0,
  init_std=None,
  dropout=0.2,
  dtype="float32",
)
MODELS = {"transformer": MODEL, "lstm": LSTM}
# Of every task's data: a record that cannot be read is an "error", or "skip": left out and counted.
DATA = dict(on_bad_record="error")
TRANSLATION = dict(
  name="translation",
  data=DATA,
  tokenizer=dict(name="bpe", vocab_size=8000),
  source_len=64,
  target_len=64,
  pack=True,
  label_smoothing=0.1,
  z_loss=0.0,
  loss_chunks=1,
  decode_batch=64,
  lowercase_scores=False,
  bleu_tokenizer="13a",
  piece_marker="",
  decoding=dict(beam=4, length_penalty=0.6, max_len_ratio=1.0, max_len_extra=50),
)
TEXT_TO_TEXT = dict(
  name="text_to_text",
  data=DATA,
  tokenizer=dict(name="bpe", vocab_size=8000),
  source_len=128,
  target_len=32,
  pack=True,
  label_smoothing=0.0,
  z_loss=0.0,
  loss_chunks=1,
  decode_batch=64,
  kind="classes",
  decoding=dict(beam=1, length_penalty=0.0, max_len_ratio=0.0, max_len_extra=8),
)
LANGUAGE = dict(beam=1, length_penalty=0.0, temperature=0.8, max_len_ratio=0.0, max_len_extra=200)
MLM = dict(
  name="mlm",
  data=DATA,
  tokenizer=dict(name="bpe", vocab_size=8000, special=("<mask>",)),
  source_len=128,
  rate=0.15,
  whole_words=False,
  fixed_masks=False,
  cross_documents=False,
  seed=0,
  pack=True,
  decode_batch=32,
)
CAUSAL = dict(
  name="causal",
  data=DATA,
  tokenizer=dict(name="bpe", vocab_size=8000),
  target_len=128,
  cross_documents=True,
  prefix=False,
  seed=0,
  pack=True,
  label_smoothing=0.0,
  z_loss=0.0,
  loss_chunks=1,
  decoding=LANGUAGE,
  decode_batch=32,
)
SPAN = dict(
  name="span",
  data=DATA,
  tokenizer=dict(name="bpe", vocab_size=8000, special=("<mask>",), sentinels=100),
  length=128,
  source_len=128,
  target_len=128,
  style="spans",
  rate=0.15,
  mean_span=3.0,
  cross_documents=False,
  seed=0,
  pack=True,
  label_smoothing=0.0,
  z_loss=0.0,
  loss_chunks=1,
  decoding=dict(beam=1, length_penalty=0.0, max_len_ratio=1.0, max_len_extra=20),
  decode_batch=32,
)
CLASSIFICATION = dict(
  name="classification",
  data=DATA,
  tokenizer=dict(name="bpe", vocab_size=8000, special=("<mask>",)),
  source_len=128,
  labels=(),
  fields=("text",),
  regression=False,
  pool="first",
  pool_activation="tanh",
  stride=0,
  label_smoothing=0.0,
  pack=True,
  decode_batch=32,
)
TAGGING = dict(
  name="tagging",
  data=DATA,
  tokenizer=dict(name="bpe", vocab_size=8000, special=("<mask>",)),
  source_len=128,
  labels=(),
  stride=96,
  label_smoothing=0.0,
  pack=True,
  decode_batch=32,
)
QA = dict(
  name="qa",
  data=DATA,
  tokenizer=dict(name="bpe", vocab_size=8000, special=("<mask>",)),
  source_len=256,
  stride=128,
  reading=dict(no_answer=False, threshold=0.0, max_answer=30),
  pack=True,
  decode_batch=32,
)
# An encoder of about 10 million parameters, with 8,000 words.
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
  # Without it words enter at 0.05 what the first block answers with 15: after it nobody can tell
  # which word stood where, and what was pre-trained is worse than random weights.
  embedding_norm=True,
  init_std=0.05,  # BERT's 0.02 is for 768 wide: here attention stays flat for 400 steps with it
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
# Raffel et al. 2020, base. Theirs has words of deviation 1 and scales logits down; here words are
# scaled up, which is the same function.
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

# None: optax's default. rates: ((pattern, factor), ...), the learning rate of the weights whose
# path matches; 0 freezes them.
OPTIMIZER = dict(
  name="adamw",
  clip_norm=1.0,
  no_decay=r"(bias|scale)$",
  rates=(),
  b1=None,
  b2=None,
  eps=None,
  weight_decay=None,
  weight_decay_rate=None,  # adafactor's
  momentum=None,
  nesterov=None,
  mu_dtype=None,  # "bfloat16" halves the first moment
)
ADAMW = dict(name="adamw", b1=0.9, b2=0.98, weight_decay=0.01)
ADAM = dict(name="adam", clip_norm=0.0, no_decay="", b1=0.9, b2=0.98, eps=1e-9)  # Vaswani's
# final: share of the peak at the end; decay_steps: of wsd, at the end.
SCHEDULE = dict(name="linear", peak=1e-3, warmup_steps=0, final=None, decay_steps=None)
