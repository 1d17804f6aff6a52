"""python -m train.main --config configs/multi30k.py:data=DIR --workdir runs/multi30k

Multi30k image captions, English to German. DIR holds `train.en.gz`, `train.de.gz`, ... (raw text);
for form=wu2021 the files that Wu et al. 2021 published (lowercased, tokenised, BPE pieces).
Arguments: data=DIR, recipe=quick|tiny, model=transformer|lstm (of the quick recipe: 2 + 2 layers of
256 units, not run yet), form=raw|wu2021, init=RUN (go on from the weights, model and tokenizer of
another encoder-decoder), small.

recipe=quick: 12 minutes on two CPU cores. Number to reach: 32 BLEU on test_2016_flickr (measured:
33.4 cased sacreBLEU, beam 4; with 1,200 steps and 15 minutes 34.5).
recipe=tiny: Transformer-Tiny of Wu et al. 2021, "Good for Misconceived Reasons", section 4: 4 + 4
layers, dim 128, 8,192 tokens an update, at most 8,000 updates or until 10 epochs bring no lower
validation loss, the last 10 checkpoints averaged (2 s an update on a CPU core, so about 3 hours; 10
minutes on an H200). Number to reach: with form=wu2021 their 41.02 BLEU on test2016 (measured: 41.3,
mean of three seeds; on raw text 40.2 cased): experiments/wu2021_multi30k.py.
Commands: README, "Results".
"""

from configs import common, sections

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
    arg,
    data="data/multi30k",
    recipe=("quick", "tiny"),
    model=("transformer", "lstm"),
    form=("raw", "wu2021"),
    init="",
    small=False,
  )
  if arg.model == "lstm" and (arg.recipe == "tiny" or arg.init):
    raise ValueError("model=lstm is of recipe=quick, with random weights")
  names = FILES[arg.form] | MORE_TESTS[arg.form]
  files = {
    split: dict(source=f"{arg.data}/{name}.en.gz", target=f"{arg.data}/{name}.de.gz")
    for split, name in names.items()
  }
  task = sections.TRANSLATION | dict(data=dict(name="files", splits=files))
  recipe = tiny() if arg.recipe == "tiny" else quick()
  model, task["decoding"] = recipe.pop("model"), recipe.pop("decoding")
  vocab_size, every = recipe.pop("vocab_size"), recipe.pop("every")
  if arg.small:
    vocab_size, every = 400, 10
    model |= dict(dim=32, num_heads=4, mlp_dim=64, encoder_layers=1, decoder_layers=1)
    recipe |= dict(steps=20, batch_size=8, log_every=5)
    recipe["schedule"] |= dict(warmup_steps=5)
  if arg.model == "lstm":
    model = dict(name="lstm", dim=32 if arg.small else 256)
  task["tokenizer"] = dict(name="bpe", vocab_size=vocab_size)
  if arg.form == "wu2021":
    task |= dict(tokenizer=dict(name="word"), bleu_tokenizer="none", piece_marker="@@ ")
  start = dict(model=model)
  if arg.init:
    start = common.pretrained(arg.init)
    task["tokenizer"] = start.pop("tokenizer")
  return common.run(
    task=task,
    **start,
    evaluate=dict(
      split="validation",
      every=every,
      decode_every=20 if arg.small else 1000,
      decode_examples=16 if arg.small else 300,
    ),
    checkpoint=common.checkpoints(every, keep_latest=10),
    **recipe,
  )


def quick():
  """The most BLEU in a quarter of an hour: small enough to pass over the data often."""
  return dict(
    steps=1000,
    batch_size=32,  # packed rows
    log_every=50,
    vocab_size=6000,
    every=200,
    model=dict(
      dim=192,
      num_heads=4,
      mlp_dim=768,
      encoder_layers=3,
      decoder_layers=3,
      norm_position="pre",
    ),
    optimizer=sections.ADAMW,
    schedule=dict(name="linear", peak=2e-3, warmup_steps=100, final=0.02),
    decoding=dict(beam=4, length_penalty=1.0, max_len_ratio=1.0, max_len_extra=20),
  )


def tiny():
  """Wu et al.'s Transformer-Tiny; an epoch is about 50 updates."""
  return dict(
    steps=8000,
    batch_size=128,
    log_every=50,
    patience=10,
    vocab_size=8000,
    every=50,
    model=dict(dim=128, num_heads=4, mlp_dim=256, encoder_layers=4, decoder_layers=4, dropout=0.3),
    optimizer=sections.ADAM,
    schedule=dict(name="rsqrt", peak=5e-3, warmup_steps=2000),
    decoding=dict(beam=5, length_penalty=1.0, max_len_ratio=1.0, max_len_extra=20),
  )
