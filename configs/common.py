"""Defines what config files share: arguments, splits of data, and the recipe of fine-tuning."""

import ast
import dataclasses
import types
from collections.abc import Collection, Sequence

from ml_collections import ConfigDict

from configs import smaller
from configs.sections import ADAMW, ENCODER, SMALL
from configs.stored import PACKED, PARQUET, exists, has, is_file, table_source

MASKED = dict(name="bpe", vocab_size=8000, special=("<mask>",))  # a tokenizer with <mask>

# Endings of files, the usual one first. Each may be packed.
TABLES = (".tsv", ".csv", ".jsonl", *PARQUET)
TAGS = (".conllu.gz", ".conllu", ".conll", ".bio", ".tsv")
QUESTIONS = (".json", ".jsonl")

MESH = dict()  # older config files add their changes to it

# Arguments that mean the same in every config file.
MEANINGS = dict(
  data="the folder with the data",
  data_dir="the folder of TensorFlow Datasets (empty: its default)",
  init="a run's folder or hf:DIR to start from: its weights, model and tokenizer",
  tokenizer="a run's folder: random weights with its vocabulary",
  teacher="a run's folder or hf:DIR whose outputs are learned too (settings: distill.KEY)",
  layers="the layers of init to start from: 0+2+5 (empty: all)",
  decoder_layers="the layers of its decoder likewise",
  steps="updates",
  peak="the highest learning rate",
  model="the architecture",
  small="a run of seconds",
)


@dataclasses.dataclass(frozen=True)
class Argument:
  """An argument of a config file: its default, or a tuple of choices (the first is the default)."""

  default: object
  meaning: str = ""

  @property
  def value(self):
    """Returns the default."""
    return self.default[0] if isinstance(self.default, tuple) else self.default

  def usage(self, name: str) -> str:
    """Returns the argument as it is written, with its choices or its default."""
    if self.default is False:
      return name
    choices = self.default if isinstance(self.default, tuple) else (self.default,)
    return f"{name}={'|'.join(map(str, choices))}"


class Help(Exception):
  """Raised for FILE.py:help; `arguments` are (usage, meaning) pairs, which train.main prints."""

  def __init__(self, arguments: list[tuple[str, str]]):
    super().__init__("\n".join(usage for usage, _ in arguments))
    self.arguments = arguments


class UnknownWord(ValueError):
  """Raised for a `word` that is none of the `known` ones; train.main adds the nearest of them."""

  def __init__(self, message: str, word: str, known: Collection[str]):
    super().__init__(message)
    self.word, self.known = word, known


def parse(text: str, /, **arguments) -> types.SimpleNamespace:
  """Returns the arguments that `text` ("size=big,small") sets, over their defaults.

  An argument is an `Argument`, or its default alone. A value has the type of the default; a default
  of None takes any. A bare word sets a bool to True. Values hold no comma.
  Raises Help for the word `help`, and ValueError for an unknown name or value.
  """
  table = {
    name: given if isinstance(given, Argument) else Argument(given, MEANINGS.get(name, ""))
    for name, given in arguments.items()
  }
  values, seen = {name: argument.value for name, argument in table.items()}, set()
  for item in filter(None, (part.strip() for part in text.split(","))):
    name, equals, word = (part.strip() for part in item.partition("="))
    if name == "help" and not word:
      raise Help([(argument.usage(key), argument.meaning) for key, argument in table.items()])
    if not name:
      raise ValueError(f"{item!r} names no argument: write NAME=VALUE")
    if name not in table:
      raise _unknown(name, table)
    if name in seen:
      raise ValueError(f"argument {name} is given twice in {text!r}")
    seen.add(name)
    if not equals and not isinstance(values[name], bool):
      raise ValueError(f"argument {name} needs a value: {table[name].usage(name)}")
    values[name] = _value(name, word if equals else "true", table[name])
  return types.SimpleNamespace(**values)


def _unknown(name, table):
  for owner, argument in table.items():
    if isinstance(argument.default, tuple) and name in map(str, argument.default):
      return ValueError(f"no argument is called {name}; did you mean {owner}={name}?")
  known = ", ".join(table) or "none"
  return UnknownWord(f"no argument is called {name}; there are: {known}", name, {*table, "help"})


def _value(name, text, argument):
  """Returns `text` as a value of the argument's type, which is one of its choices."""
  kind = type(argument.value)
  try:
    if kind is bool:
      value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
        text.lower()
      ]
    else:
      value = kind(text) if kind in (int, float, str) else _literal(text)
  except (KeyError, ValueError):
    raise ValueError(f"argument {name}={text}: {name} is of type {kind.__name__}") from None
  if isinstance(argument.default, tuple) and value not in argument.default:
    known = [str(choice) for choice in argument.default]
    message = f"argument {name}={text}: {name} is one of {', '.join(known)}"
    raise UnknownWord(message, text, known)
  return value


def _literal(text):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def run(**sections) -> ConfigDict:
  """Returns the config of a run, which has only what is not a default.

  train/resolve.py completes it from the defaults of the run, the task, the model, the optimizer and
  the schedule. A nested section may leave out keys, unless it has a `name` (a tokenizer).
  """
  return ConfigDict(sections)


def prose(pattern: str, share: int = 98) -> dict:
  """Returns texts of which what follows `share` percent is held out: of each file, or of the rows
  (column `text`) of Parquet files or of a folder that Hugging Face's `datasets` has saved."""
  train = f"{pattern}/train" if has(pattern, "dataset_dict.json") else pattern
  splits = {"train": f"{train}[:{share}%]", "validation": f"{train}[{share}%:]"}
  if (name := table_source(train)) == "files":
    return dict(name="text", splits=splits, unit="file")
  return dict(name=name, splits=splits, columns=dict(text="text"))


def prepared(folder: str) -> dict:
  """Returns the settings of a task that reads a corpus which train.prepare has written, with its
  tokenizer; nothing for other data."""
  if not has(folder, "manifest.json"):
    return {}
  tokenizer = dict(name="file", path=f"{folder}/tokenizer.json")
  return dict(data=dict(name="prepared", folder=folder), tokenizer=tokenizer)


def splits(data: str, endings: str | Sequence[str], dev: str = "dev", test: str = "test") -> dict:
  """Returns the files train, `dev` and `test` of a folder, with the first of the endings that its
  train has. If `data` is itself a file with one of the endings, dev and test are parts of it (10%
  by default) or other files. A share such as "10%" holds out the end of train: dev, then test.
  A folder that `datasets` has saved is a file, or has a folder for each split.
  """
  endings = (endings,) if isinstance(endings, str) else endings
  if is_file(data, endings) or has(data, "state.json"):
    files = {"dev": "10%", "test": "10%"}
    return hold_out(data, files.get(dev, dev), files.get(test, test))
  if exists(data):
    raise ValueError(f"data={data}: a file ends in {', '.join(endings)}, or is a folder of such")
  forms = [*endings, *(f"{ending}{packed}" for packed in PACKED for ending in endings)]
  if has(data, "dataset_dict.json"):
    forms = [""]
  ending = next((form for form in forms if has(data, f"train{form}")), forms[0])
  if dev == "dev" and not has(data, f"dev{ending}") and has(data, f"validation{ending}"):
    dev = "validation"  # its name in Hugging Face's data sets
  shares = [name.endswith("%") or name.isdecimal() for name in (dev, test)]
  names = (name if share else f"{data}/{name}{ending}" for name, share in zip((dev, test), shares))
  return hold_out(f"{data}/train{ending}", *names)


def is_table(data: str) -> bool:
  """Returns whether `data` has columns: a file, or a folder that `datasets` has saved."""
  return is_file(data, TABLES) or table_source(data) == "arrow"


def hold_out(train: str, validation: str, test: str) -> dict:
  """Returns splits in which "10%" for validation or test is a part of train at its end."""
  stop, parts = 100, {}
  for split, name in (("test", test), ("validation", validation)):
    parts[split] = name
    if name.isdecimal():
      raise ValueError(f"{split} is {name}: a share of train is written {name}%")
    if name.endswith("%"):
      start = stop - (int(share) if (share := name.removesuffix("%")).isdecimal() else 100)
      if not 0 < start < stop:
        raise ValueError(f"{split} is {name}: give a whole percentage that leaves some of train")
      parts[split] = f"{train}[{start}%:{stop}%]" if stop < 100 else f"{train}[{start}%:]"
      stop = start
  return dict(train=train if stop == 100 else f"{train}[:{stop}%]", **parts)


def table(arg, fields: Sequence[str] | dict[str, str]) -> dict:
  """Returns the source of a table's fields, from the arguments data, dev, test, columns, header."""
  files = splits(arg.data, TABLES, arg.dev, arg.test)
  header = {} if arg.header == "auto" else dict(header=arg.header == "yes")
  name = table_source(files["train"])
  return dict(name=name, splits=files, columns=columns(arg.columns, fields), **header)


def columns(names: str, fields: Sequence[str] | dict[str, str]) -> Sequence[str] | dict[str, str]:
  """Returns where a table has the fields: as "review+sentiment" or "2+1" names or numbers the
  columns, else in this order, or in the columns that a dict names."""
  if not names:
    return fields
  if len(listed := names.split("+")) != len(fields):
    raise ValueError(f"columns={names}: give {len(fields)} with + between: {'+'.join(fields)}")
  return dict(zip(fields, listed))


def inherit(init: str, how: str = "model", changes=(), **start) -> dict:
  """Returns the sections `model` and `init_from` of a run that starts from another run, or from
  hf:DIR; train/inheriting.py describes `how`, and also takes over the tokenizer."""
  return dict(model=dict(changes, inherit=how), init_from=dict(workdir=init, **start))


def pretrained(init: str, skip=None) -> dict:
  """Returns `inherit` as older config files use it, which set the `tokenizer` in it."""
  return inherit(init, **({} if skip is None else dict(skip=skip))) | dict(tokenizer={})


def checkpoints(every: int, keep_latest: int) -> dict:
  """Returns the section `checkpoint` as older config files write it."""
  return dict(every=every, keep_latest=keep_latest)


def pretrain(arg, *, batch_size: int, vocab_size: int, task: dict, **more) -> ConfigDict:
  """Returns the config of a run that pre-trains on the texts `arg.data`; `more` as in `run`."""
  every = 10 if arg.small else 200
  tokenizer = dict(name="bpe", vocab_size=vocab_size, special=("<mask>",), sentinels=100)
  return run(
    steps=20 if arg.small else arg.steps,
    batch_size=batch_size,
    log_every=5 if arg.small else 50,
    task=dict(data=prose(arg.data), tokenizer=tokenizer) | prepared(arg.data) | task,
    schedule=dict(name="linear", peak=arg.peak, warmup_steps=5 if arg.small else 100, final=0.0),
    evaluate=dict(every=every),
    checkpoint=dict(every=every),
    **more,
  )


def fine_tune(task: dict, arg, *, best_metric: str, decoder: bool = False) -> ConfigDict:
  """Returns a run on labelled data of an encoder, or with `decoder` of an encoder-decoder.

  The run starts from a pre-trained model (arg.init) or from random weights, with another run's
  tokenizer (arg.tokenizer) or one trained on its own data.
  """
  taken = smaller.start(arg)
  if arg.init and arg.tokenizer:
    raise ValueError("init=RUN brings its tokenizer: tokenizer=RUN is for random weights")
  if arg.init:
    start = inherit(arg.init, "model" if decoder else "encoder", **taken)
  else:
    depths = dict(encoder_layers=3, decoder_layers=2) if decoder else {}
    if arg.small:
      depths = SMALL | dict(encoder_layers=1, decoder_layers=int(decoder))
    start = dict(model=ENCODER | depths)
    if arg.tokenizer:
      task = task | dict(tokenizer=dict(name="file", path=f"{arg.tokenizer}/tokenizer.json"))
    elif arg.small:
      task = task | dict(tokenizer=dict(vocab_size=400))
  every = 10 if arg.small else max(arg.steps // 5, 1)
  warmup_steps = 2 if arg.small else arg.steps // 10
  return run(
    steps=20 if arg.small else arg.steps,
    batch_size=8 if arg.small else 16,  # packed rows
    log_every=5 if arg.small else 50,
    task=task,
    optimizer=ADAMW,
    schedule=dict(name="linear", peak=arg.peak, warmup_steps=warmup_steps, final=0.0),
    evaluate=dict(
      every=every, decode_every=every, decode_examples=16 if arg.small and decoder else 1000
    ),
    checkpoint=dict(every=every, best_metric=best_metric, best_mode="max"),
    **smaller.distill(arg),
    **start,
  )
