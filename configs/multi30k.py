"""python -m train.main --config configs/multi30k.py:data=DIR --workdir runs/multi30k

Translates Multi30k's image captions from English to German. The folder holds `train.en.gz`,
`train.de.gz`, ... (raw text), or with form=wu2021 the files that Wu et al. 2021 published
(lowercased, tokenised, BPE pieces). Other data: data=pairs.csv,source=en,target=fr names columns of
a table (.csv, .tsv, .jsonl), source=a.en,target=a.fr two line-aligned files, and source=fr with a
folder another language there. dev=5%,test=5% holds out the end of train.

recipe=quick. Time: 12 minutes on two CPU cores. Expected: 32 BLEU on test_2016_flickr (measured:
33.4 cased sacreBLEU with beam 4; with 1,200 steps, in 15 minutes, 34.5). With model=lstm: 2 + 2
layers of 256 units.

recipe=tiny: Transformer-Tiny of Wu et al. 2021, "Good for Misconceived Reasons", section 4: 4 + 4
layers, dim 128, 8,192 tokens an update, at most 8,000 updates or until 10 epochs bring no lower
validation loss, the last 10 checkpoints averaged. Time: 3 hours on a CPU core (2 s an update), 10
minutes on an H200. Expected: with form=wu2021 41.02 BLEU on test2016, as theirs (measured: 41.3,
mean of three seeds; on raw text 40.2 cased): experiments/wu2021_multi30k.py.
"""

from configs import common, sections, smaller
from configs.common import Argument

FILES = {
  "raw": {
    "train": "train",
    "validation": "val",
    "test": "test_2016_flickr",
    "test_2017": "test_2017_flickr",
    "mscoco": "test_2017_mscoco",
  },
  "wu2021": {
    "train": "train",
    "validation": "valid",
    "test": "test.2016",
    "test_2017": "test.2017",
    "mscoco": "test.coco",
  },
}


def get_config(arg=""):
  arg = common.parse(
    arg,
    data="data/multi30k",
    recipe=Argument(("quick", "tiny"), "the most BLEU in 12 minutes, or Wu et al. 2021"),
    model=("transformer", "lstm"),
    form=Argument(("raw", "wu2021"), "raw text, or the files of Wu et al. 2021"),
    source=Argument("", "the source: a language (en), a column of a table, or a file"),
    target=Argument("", "the target likewise (de)"),
    dev=Argument("", "the validation file of the folder, or a share of train: 10%"),
    test=Argument("", "the test file likewise"),
    init="",
    tokenizer="",
    small=False,
    distilled=Argument("", "outputs of train.predict --split train: the targets to train on"),
    **smaller.OF_BOTH,
  )
  if arg.init and arg.tokenizer:
    raise ValueError("init=RUN brings its tokenizer: tokenizer=RUN is for random weights")
  if arg.model == "lstm" and (arg.recipe == "tiny" or arg.init):
    raise ValueError("model=lstm goes with recipe=quick and random weights")
  cfg = tiny() if arg.recipe == "tiny" else quick()
  cfg.task.name = "translation"
  prepared = common.prepared(arg.data)
  data = prepared.get("data") or pairs(arg)
  if arg.distilled:
    if prepared or common.is_table(arg.data):
      raise ValueError(
        "distilled=FILE has columns source and target: give the texts that it was made of as a"
        " folder, or as line-aligned files"
      )
    data["splits"]["train"] = arg.distilled
  cfg.task.data = data
  if arg.small:
    cfg.steps, cfg.batch_size, cfg.log_every = 20, 8, 5
    cfg.schedule.warmup_steps = 5
    cfg.model.update(dim=32, num_heads=4, mlp_dim=64, encoder_layers=1, decoder_layers=1)
    cfg.task.tokenizer.vocab_size = 400
    cfg.evaluate.every = cfg.checkpoint.every = 10
  cfg.evaluate.decode_every = 20 if arg.small else 1000
  cfg.evaluate.decode_examples = 16 if arg.small else 300
  if arg.model == "lstm":
    cfg.model = dict(name="lstm", dim=32 if arg.small else 256)
  if arg.form == "wu2021":
    cfg.task.tokenizer = dict(name="word")
    cfg.task.bleu_tokenizer, cfg.task.piece_marker = "none", "@@ "
  if prepared:
    cfg.task.tokenizer = prepared["tokenizer"]
  taken = smaller.start(arg)
  if arg.init:
    start = common.inherit(arg.init, **taken)
    cfg.model, cfg.init_from = start["model"], start["init_from"]
  if arg.tokenizer:
    cfg.task.tokenizer = dict(name="file", path=f"{arg.tokenizer}/tokenizer.json")
  cfg.update(smaller.distill(arg))
  return cfg


def pairs(arg):
  """Returns the data: a table with its columns, or line-aligned files."""
  if common.is_table(arg.data):
    if bool(arg.source) != bool(arg.target):
      raise ValueError("name both columns of a table, source= and target=, or none")
    columns = {"source": arg.source, "target": arg.target} if arg.source else ("source", "target")
    splits = common.splits(arg.data, common.TABLES, arg.dev or "10%", arg.test or "10%")
    return dict(name=common.table_source(splits["train"]), splits=splits, columns=columns)
  ends = {"source": arg.source or "en", "target": arg.target or "de"}
  are_files = ["/" in end or "." in end for end in ends.values()]
  if any(are_files) and not all(are_files):
    raise ValueError(f"source={ends['source']},target={ends['target']}: give two files")
  sides = {
    side: parts_of_file(arg, end) if all(are_files) else parts_of_folder(arg, end)
    for side, end in ends.items()
  }
  splits = {split: {side: sides[side][split] for side in sides} for split in sides["source"]}
  return dict(name="files", splits=splits)


def parts_of_file(arg, path):
  """Returns the splits of one of two line-aligned files, all parts of it."""
  dev, test = arg.dev or "10%", arg.test or "10%"
  if not (dev.endswith("%") and test.endswith("%")):
    raise ValueError("with source=FILE and target=FILE, dev and test are shares, such as dev=5%")
  return common.hold_out(path, dev, test)


def parts_of_folder(arg, language):
  """Returns the files of a language in the folder; they end in .gz unless others are there."""
  names = dict(FILES[arg.form])
  names |= {"validation": arg.dev or names["validation"], "test": arg.test or names["test"]}

  def path(name):
    forms = [f"{arg.data}/{name}.{language}{packed}" for packed in (".gz", "", ".zst")]
    return next((form for form in forms if common.exists(form)), forms[0])

  files = {split: name if name.endswith("%") else path(name) for split, name in names.items()}
  parts = common.hold_out(files["train"], files["validation"], files["test"])
  return files | parts


def quick():
  """Returns the most BLEU in a quarter of an hour: small enough to pass over the data often."""
  return common.run(
    steps=1000,
    batch_size=32,  # packed rows
    log_every=50,
    task=dict(
      tokenizer=dict(name="bpe", vocab_size=6000),
      decoding=dict(beam=4, length_penalty=1.0, max_len_ratio=1.0, max_len_extra=20),
    ),
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
    evaluate=dict(every=200),
    checkpoint=dict(every=200, keep_latest=10),
  )


def tiny():
  """Returns Wu et al.'s Transformer-Tiny; an epoch is about 50 updates."""
  return common.run(
    steps=8000,
    batch_size=128,
    log_every=50,
    patience=10,
    task=dict(
      tokenizer=dict(name="bpe", vocab_size=8000),
      decoding=dict(beam=5, length_penalty=1.0, max_len_ratio=1.0, max_len_extra=20),
    ),
    model=dict(dim=128, num_heads=4, mlp_dim=256, encoder_layers=4, decoder_layers=4, dropout=0.3),
    optimizer=sections.ADAM,
    schedule=dict(name="rsqrt", peak=5e-3, warmup_steps=2000),
    evaluate=dict(every=50),
    checkpoint=dict(every=50, keep_latest=10),
  )
