"""Builds tasks, which define what a run learns and how its model is used, from a config's section.

base.py has the base of all tasks and the batch keys, windows.py and seq2seq.py the bases of tasks
with an encoder and with a decoder.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

from train.common import json_files, paths
from train.common.errors import UserError, choose, did_you_mean
from train.common.files import write_atomically
from train.data import samples, sources, token_corpus
from train.data.batches import Layout
from train.data.source import read_all
from train.data.tokenizer import Tokenizer
from train.data.tokenizer_training import train_tokenizer
from train.scoring import scores
from train.tasks.base import Settings, Task
from train.tasks.causal import Causal
from train.tasks.choice import Choice
from train.tasks.classification import Classification
from train.tasks.decoding_settings import Decoding
from train.tasks.denoising import Denoising
from train.tasks.electra import Electra
from train.tasks.embedding import Embedding
from train.tasks.mixture import PART, Mixture
from train.tasks.mlm import Mlm
from train.tasks.multi_label import MultiLabel
from train.tasks.numbers import Numbers
from train.tasks.qa import Qa
from train.tasks.replaced import Replaced
from train.tasks.tagging import Tagging
from train.tasks.text_to_text import TextToText
from train.tasks.translation import Translation

TASKS = {
  "translation": Translation,
  "text_to_text": TextToText,
  "mlm": Mlm,
  "electra": Electra,
  "causal": Causal,
  "span": Denoising,
  "classification": Classification,
  "multi_label": MultiLabel,
  "numbers": Numbers,
  "tagging": Tagging,
  "qa": Qa,
  "choice": Choice,
  "replaced": Replaced,
  "embedding": Embedding,
}
STYLES = {"prefix": "prefix", "denoise": "bert"}  # names of span tasks with a style of their own
NAMES = (*TASKS, *STYLES, "mixture")
# Folder of a run -> what this process has trained its tokenizer on, for run.json: the fields of
# samples.Sample, and the seed.
TRAINED_ON: dict[paths.Path, dict] = {}


def layout(task: Task, batch_size: int) -> Layout:
  """Returns the shape of the task's batches, which the processes share."""
  index, count = jax.process_index(), jax.process_count()
  sizes = (batch_size, task.source_len, task.target_len, task.pack, index, count)
  return Layout(*sizes, most_hidden=task.most_hidden)


def predicts_labels(name: str) -> bool:
  """Returns whether a task predicts labels, by the states of any stack that a model has."""
  return name in TASKS and TASKS[name].any_stack


def defaults(name: str) -> dict[str, Any]:
  """Returns the section of a task with every key but `data`, which has no default, as plain values.

  The sections inside (tokenizer, decoding, reading) are complete too.
  """
  task, style = _class(name)
  section = dict(name=name, tokenizer=dict(task.default_tokenizer))
  for field in dataclasses.fields(task):
    if field.default is not dataclasses.MISSING:
      whole = isinstance(field.default, Settings)
      section[field.name] = dataclasses.asdict(field.default) if whole else field.default
  return section | style


def prediction_options() -> dict[str, list[dataclasses.Field]]:
  """Returns the fields of all tasks' settings of prediction that can be flags, by name; tasks may
  share a name."""
  options: dict[str, list[dataclasses.Field]] = {}
  for settings in dict.fromkeys(task.settings_class for task in TASKS.values()):
    for field in dataclasses.fields(settings):
      if field.type is not tuple:
        options.setdefault(field.name, []).append(field)
  return options


def metric_names(section: Mapping) -> tuple[list[str], list[str]]:
  """Returns the names of the losses and of the scores that an evaluation of a complete section
  reports. Those of a mixture's part `main` have no prefix."""
  if section["name"] != "mixture":
    task = _class(section["name"])[0]
    return list(task.loss_names(section)), list(task.score_names(section))
  main, parts = section["main"], section["parts"]
  losses, _ = metric_names(choose(parts, main, "task.main"))
  names = {"" if name == main else f"{name}/": metric_names(parts[name])[1] for name in parts}
  return losses, [prefix + score for prefix, scores in names.items() for score in scores]


def check(section: Mapping, prefix: str = "task.") -> None:
  """Raises UserError for settings of prediction in a complete section that are none."""
  for name, part in section.get("parts", {}).items():
    check(part, f"{prefix}parts.{name}.")
  if section["name"] == "mixture":
    return
  task = _class(section["name"])[0]
  for field in dataclasses.fields(task):
    if isinstance(field.default, Settings):
      settings = field.default.changed(section[field.name], task, f"{prefix}{field.name}.")
      if isinstance(settings, Decoding):
        length = section.get("source_len") or section.get("target_len") or 0
        settings.check_size(section["decode_batch"], length)


def check_packages(section: Mapping) -> None:
  """Raises UserError if a package is missing that the scores of a complete section need."""
  sections = (section, *section.get("parts", {}).values())
  if any(each.get("kind") == "summaries" for each in sections):
    scores.check_rouge()


def build(cfg, workdir, write: bool = True) -> Task:
  """Returns the task of a config section, with the tokenizer and labels of the workdir.

  Where these files are missing, they are made from the training split first; without `write` that
  is a UserError.
  """
  settings, folder = cfg.to_dict(), paths.of(workdir)
  if settings["name"] != "mixture":
    tokenizer = _tokenizer(settings.pop("tokenizer"), [settings["data"]], folder, write)
    return make(settings | {"tokenizer": tokenizer}, folder, write=write)
  del settings["name"]
  main, parts, spec = (settings.pop(key) for key in ("main", "parts", "tokenizer"))
  shares, max_epochs = (
    {name: part.pop(key, usual) for name, part in parts.items()} for key, usual in PART.items()
  )
  tokenizer = _tokenizer(spec, [part["data"] for part in parts.values()], folder, write)
  shared = settings | {"tokenizer": tokenizer}
  parts = {name: make(part, folder, shared, write) for name, part in parts.items()}
  return Mixture(main=main, shares=shares, max_epochs=max_epochs, parts=parts, **shared)


def make(settings, folder=None, shared=types.MappingProxyType({}), write: bool = True) -> Task:
  """Returns the task of a section whose tokenizer is an object, with the settings of `shared` for
  which the task has a field. Labels that the section lacks come from the folder, see `build`."""
  name = settings.pop("name")
  task, style = _class(name)
  for key, value in style.items():
    if settings.setdefault(key, value) != value:
      raise UserError(f"task.{key} is {settings[key]!r}: a {name} task has {value!r} (use span)")
  known = [field.name for field in dataclasses.fields(task)]
  if unknown := settings.keys() - set(known):
    key = min(unknown)
    raise UserError(f"task.{key}: a {name} task has no such setting{did_you_mean(key, known)}")
  settings = {key: value for key, value in shared.items() if key in known} | settings
  if task.label_column and not settings.get("labels") and not settings.get("regression"):
    settings["labels"] = _labels(task, settings, folder / "labels.json", write)
  return task(**settings)


def main_part(task: Task | Mixture) -> Task:
  """Returns the part of a mixture that defines its loss and predicts, or the task itself."""
  return task.parts[task.main] if isinstance(task, Mixture) else task


def _class(name) -> tuple[type, dict[str, str]]:
  """Returns the class of the task of that name, and the style that the name stands for."""
  if name in STYLES:
    return TASKS["span"], {"style": STYLES[name]}
  if name == "mixture":  # `build` makes the outer one
    raise UserError("task.parts: a part of a mixture can't be a mixture itself")
  return choose(dict.fromkeys(NAMES) | TASKS, name, "task.name"), {}


def _is_to_write(path, write: bool) -> bool:
  """Returns whether a file is missing; raises UserError if so without `write`."""
  missing = not path.exists()
  if missing and not write:
    raise UserError(f"{path} is missing: restore it; only training makes it, of its data")
  return missing


def _tokenizer(spec, data, folder, write) -> Tokenizer:
  """Returns the folder's tokenizer. If there is none, another run's (name "file") or a new
  tokenizer, trained on the texts of all `data` or a sample of them, is saved first."""
  path = folder / "tokenizer.json"
  if _is_to_write(path, write):
    if spec["name"] == "file":
      if not spec.get("path"):
        raise UserError("tokenizer.path is missing: a tokenizer named file is read from that path")
      Tokenizer.load(paths.of(spec["path"])).save(path)
    else:
      for section in data:
        token_corpus.check_raw(section)
      spec, limits = samples.split_limits(spec)
      splits = [sources.open_split(section, "train") for section in data]
      logging.info("training the tokenizer (%s) on the texts of the training split", spec["name"])
      texts = samples.take(splits, limits) if spec["name"] != "byte" else ()
      train_tokenizer(spec, texts).save(path)
      if texts:
        TRAINED_ON[folder] = dataclasses.asdict(texts) | dict(seed=limits.sample_seed)
  tokenizer = Tokenizer.load(path)
  for section in data:
    token_corpus.check_tokenizer(section, tokenizer)
  return tokenizer


FEW_EXAMPLES = 20  # with fewer, each label may well be of one example


def _check_swapped(source, labels) -> None:
  """Raises UserError where most labels are unlike all others while another field repeats."""
  count = len(source)
  if count < FEW_EXAMPLES or 2 * len(labels) <= count:
    return
  for field in source[0].keys() - {"label"}:
    values = {example[field] for example in read_all(source)}
    if 2 * len(values) <= count:
      raise UserError(
        f"data: {count} training examples have {len(labels)} different labels, such as"
        f" {min(labels)[:80]!r}, and {len(values)} different values of {field!r}: the columns are"
        " probably swapped. Name them in the order of the file in data.columns, or give their"
        " numbers to configs/classify.py, the label's last: columns=2+1, of pairs columns=2+3+1"
      )


def _labels(task, section, path, write) -> tuple[str, ...]:
  """Returns the training split's labels from a file that is written first if need be: in the order
  of their names (label_names.py), else sorted."""
  if _is_to_write(path, write):
    data = {**section["data"], "stream": False}  # as the task opens them
    source = sources.open_split(data, "train", (task.label_column,))
    labels = task.find_labels(source, section)
    if task.label_column == "label":
      _check_swapped(source, labels)
    ordered = getattr(source, "names", None) or sorted(labels)
    write_atomically(path, json.dumps(ordered, ensure_ascii=False) + "\n")
  return tuple(json_files.read(path, list[str]))
