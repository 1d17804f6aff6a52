"""python -m train.main --config configs/nllb.py:init=hf:DIR,data=PAIRS,source_lang=eng_Latn,\\
    target_lang=deu_Latn --workdir runs/nllb

Fine-tunes a translator of many languages (NLLB-200, M2M-100, mBART-50; init=hf:DIR) on pairs. The
folder holds train.eng_Latn, train.deu_Latn, dev.*, test.* (or .gz, .zst; source=en,target=de are
other endings), line by line; a table has columns that source= and target= name.

Several directions at once: directions=eng_Latn-deu_Latn+fra_Latn-eng_Latn reads a folder of that
name for each, directions=rows the columns source_lang and target_lang of a table; with `both` the
reverse of each pair is learned too. Then `--split test_eng_Latn-deu_Latn` evaluates one direction.
Without init, a small model learns from random weights; of several targets, the first token of a
source names the language.

Time: 30 seconds with `small` on tests/fixtures/nllb. The 600 million weights of NLLB-200 distilled
take 10 GB in training, on an accelerator; that was not measured.
"""

from configs import common
from configs.common import Argument

USUAL = ("eng_Latn", "deu_Latn")  # source_lang and target_lang


def get_config(arg=""):
  arg = common.parse(
    arg,
    init="",
    data=Argument("data/pairs", "a folder of line-aligned files, or a table"),
    source=Argument("", "the ending of the source's files, or its column; empty: its language"),
    target=Argument("", "the target likewise"),
    source_lang=Argument(USUAL[0], "the source's language, as the model names it"),
    target_lang=Argument(USUAL[1], "the target's language"),
    directions=Argument("", "several, as folders in data: A-B+C-B; rows: columns of a table"),
    both=Argument(False, "learns the reverse of each pair too"),
    dev=Argument("dev", "the validation file; 10% holds out the last tenth of train"),
    test=Argument("test", "the test file; 10% holds out the last tenth of train, behind dev"),
    steps=1000,
    peak=5e-5,
    small=False,
  )
  parts = directions(arg)
  task = dict(
    name="translation",
    source_len=128,
    target_len=128,
    decoding=dict(beam=4, length_penalty=1.0, penalty="length", max_len_ratio=1.5),
  )
  if len(parts) == 1 and arg.directions != "rows":
    ((pair, section),) = parts.items()
    task |= dict(data=section)
    if arg.init:
      task |= dict(zip(("source_lang", "target_lang"), pair))
  else:
    task |= dict(data=dict(name="concat", of=joined(parts)))
  arg.tokenizer = ""
  cfg = common.fine_tune(task, arg, best_metric="bleu", decoder=True)
  targets = dict.fromkeys(target for _, target in parts)
  if not arg.init and len(targets) > 1:
    special = tuple(f"<2{target}>" for target in targets)
    cfg.task.tokenizer = dict(name="bpe", vocab_size=400 if arg.small else 8000, special=special)
  return cfg


def directions(arg):
  """Returns (source language, target language) -> the section `data` of a direction."""
  if arg.directions and (arg.source_lang, arg.target_lang) != USUAL:
    raise ValueError("directions= names the languages: leave out source_lang and target_lang")
  if arg.directions == "rows":
    if not common.is_table(arg.data):
      raise ValueError("directions=rows is for a table, whose rows name their languages")
    columns = {field: field for field in ("source", "target", "source_lang", "target_lang")}
    columns |= {"source": arg.source or "source", "target": arg.target or "target"}
    parts = {("{source_lang}", "{target_lang}"): table(arg, columns)}
  elif arg.directions:
    pairs = [tuple(name.split("-")) for name in arg.directions.split("+")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
      raise ValueError(f"directions={arg.directions}: write SOURCE-TARGET, with + between several")
    parts = {pair: folder(arg, f"{arg.data}/{'-'.join(pair)}", *pair) for pair in pairs}
  elif common.is_table(arg.data):
    columns = {"source": arg.source or "source", "target": arg.target or "target"}
    parts = {(arg.source_lang, arg.target_lang): table(arg, columns)}
  else:
    ends = (arg.source or arg.source_lang, arg.target or arg.target_lang)
    parts = {(arg.source_lang, arg.target_lang): folder(arg, arg.data, *ends)}
  if not arg.both:
    return parts
  turned = {(target, source): reverse(section) for (source, target), section in parts.items()}
  if clash := turned.keys() & parts.keys():
    source, target = min(clash)
    raise ValueError(f"both: the reverse of {source}-{target} is among the directions already")
  return parts | turned


def table(arg, columns):
  """Returns the section of a table's columns."""
  splits = common.splits(arg.data, common.TABLES, arg.dev, arg.test)
  return dict(name=common.table_source(splits["train"]), splits=splits, columns=columns)


def folder(arg, path, source, target):
  """Returns the section of a folder of line-aligned files with these endings."""

  def split_files(end):
    def file(name):
      forms = [f"{path}/{name}.{end}{packed}" for packed in ("", *common.PACKED)]
      return next((x for x in forms if common.exists(x)), forms[0])

    names = (x if x.endswith("%") or x.isdecimal() else file(x) for x in (arg.dev, arg.test))
    return common.hold_out(file("train"), *names)

  sides = {"source": split_files(source), "target": split_files(target)}
  splits = {split: {side: sides[side][split] for side in sides} for split in sides["source"]}
  return dict(name="files", splits=splits)


def reverse(section):
  """Returns the section with sources and targets exchanged."""
  return dict(name="formatted", of=section, source="{target}", target="{source}")


def joined(parts):
  """Returns name -> section of directions whose examples have the fields of their languages."""
  sections = {}
  for (source, target), section in parts.items():
    name = "reverse" if source == "{target_lang}" else "rows" if "{" in source else ""
    turned = section["name"] == "formatted"
    files = dict(section["of"] if turned else section)
    if not name:
      name = f"{source}-{target}"
      files["splits"] = files["splits"] | {f"test_{name}": files["splits"]["test"]}
    texts = dict(source="{target}", target="{source}") if turned else {}
    texts = dict(source="{source}", target="{target}") | texts
    languages = dict(source_lang=source, target_lang=target)
    sections[name] = dict(name="formatted", of=files) | texts | languages
  return sections
