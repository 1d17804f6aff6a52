"""Describes a file that a command is given (--data) as data of a task."""

import pathlib
import re
import string
from collections.abc import Mapping, Sequence

from train.common.errors import UserError
from train.data import languages, reading, sources, texts
from train.data.source import Source, digest

SPLIT = "data"  # the name of the split
PAIR = re.compile(r"source=(?P<source>.+),target=(?P<target>.+)")
WITH_SPLITS = ("files", "text", "conll", "squad")  # sources whose option `splits` names files
STORED = {".parquet": "parquet", ".arrow": "arrow"}  # files by columns, and their sources
TABLES = ("files", *STORED.values())
SHARED = ("columns", "label_names", "label_columns", "on_bad_record")  # options of TABLES
ANSWERS = ("target", "label", "labels", "tags", "answers", "summary")  # fields that inputs may lack


def describe(
  file: str, like: Mapping, fields: Sequence[str], columns: str = "", labels: Sequence[str] = ()
) -> dict:
  """Returns the section `data` that reads `file` as its split SPLIT.

  `file` is a path or a glob, perhaps a part (PATH[:10%]), or "source=PATH,target=PATH". It is read
  as the data `like` of a run, or where these have no files in the form for the `fields` of a task.
  `columns` are names or numbers of a table's columns with + between. `labels` are names for labels
  that are numbers from 0.
  """
  if like.get("name") == "formatted":
    inner = describe(file, like["of"], _used(like), columns)
    return {**like, "of": inner}
  data = _form(file, like, fields)
  pair = PAIR.fullmatch(file)
  if data["name"] in TABLES:
    if columns:
      listed = columns.split("+")
      inputs = [field for field in fields if not is_answer(field)]
      # predicting, answers may lack; a translator's table may have the languages of each row
      choices = (fields, inputs, (*fields, *languages.FIELDS), (*inputs, *languages.FIELDS))
      picked = next((x for x in choices if len(x) == len(listed)), ())
      if not picked or (picked[-1] in languages.FIELDS and "target" not in fields):
        raise UserError(f"--columns {columns}: give {len(fields)}, {'+'.join(fields)}")
      data |= dict(columns=dict(zip(picked, listed)))
      data.pop("header", None)
      data.pop("label_columns", None)  # these columns are the run's; `columns` has one of labels
    data.setdefault("columns", tuple(fields))
    if labels and not any(map(str.isdecimal, labels)):
      data["label_names"] = tuple(labels)
  elif columns and data["name"] == "conll":
    listed = columns.split("+")
    if not all(map(str.isdecimal, listed)) or "0" in listed or not 1 <= len(listed) <= 2:
      raise UserError(f"--columns {columns}: give the numbers of words and tags, from 1: 2+3")
    data |= {key: int(number) - 1 for key, number in zip(("word", "tag"), listed)}
  elif columns or pair:
    raise UserError(f"--data {file}: columns and pairs of files are for tables and translations")
  return data | dict(splits={**data.get("splits", {}), SPLIT: pair.groupdict() if pair else file})


def _form(file, like, fields) -> dict:
  """Returns a section `data` without the file: that of `like`, or by the fields."""
  types, name = file_types(file), like.get("name")
  is_table = types <= {".csv", ".tsv"}
  options = {key: like[key] for key in SHARED if key in like} if name in TABLES else {}
  if stored := types & STORED.keys():
    return options | dict(name=STORED[min(stored)], stream=False)
  if name in STORED.values() and (is_table or types == {".jsonl"}):
    return options | dict(name="files")
  if name in WITH_SPLITS and not (name == "text" and is_table):
    return dict(like)
  policy = {key: like[key] for key in ("on_bad_record",) if key in like}
  if "words" in fields:
    return policy | dict(name="conll")
  if "context" in fields:
    return policy | dict(name="squad")
  if tuple(fields) == ("text",) and not is_table:
    return policy | dict(name="text", unit="file")
  return policy | dict(name="files")


def _used(formatted: Mapping) -> tuple[str, ...]:
  """Returns the fields that the patterns of the source `formatted` take, in their order."""
  patterns = [value for key, value in formatted.items() if isinstance(value, str) and key != "name"]
  parsed = [part for pattern in patterns for part in string.Formatter().parse(pattern)]
  return tuple(dict.fromkeys(field for _, field, *_ in parsed if field))


def digests(file: str) -> dict[str, str]:
  """Returns the SHA-256 of each file that `describe` reads, by its path."""
  return {str(path): reading.file_digest(path) for path in _files(file)}


def short_name(file: str, contents: Mapping[str, str]) -> str:
  """Returns the files' name for the names of results: a word, and eight digits of their `contents`,
  which `digests` returns."""
  word = re.sub(r"[^\w.]", "_", pathlib.Path(next(iter(contents))).name)
  key = digest(file[file.index("[") :] if reading.PART.fullmatch(file) else "", *contents.values())
  return f"data-{word}-{key[:8]}"


def file_types(file: str) -> set[str]:
  """Returns the endings of the files without .gz or .zst."""
  return {reading.file_type(path) for path in _files(file)}


def _files(file: str) -> list[pathlib.Path]:
  """Returns the files; raises UserError where there is none."""
  pair = PAIR.fullmatch(file)
  patterns = list(pair.groupdict().values()) if pair else [file]
  patterns = [part["path"] if (part := reading.PART.fullmatch(x)) else x for x in patterns]
  suffixes = (*texts.SUFFIXES["documents"], *STORED)
  return [path for pattern in patterns for path in reading.find_files("--data", pattern, suffixes)]


def open_inputs(data: Mapping) -> Source:
  """Opens the split SPLIT to predict from, all of it in its order: its examples have answers, or
  none has."""
  data = {**data, "stream": False}
  try:
    return sources.open_split(data, SPLIT)
  except UserError as error:
    try:
      return sources.open_split(_without_answers(data), SPLIT)
    except UserError as second:  # which names a missing input, and not an answer that may lack
      raise (second if isinstance(data.get("columns"), Mapping) else error) from None


def _without_answers(data: Mapping) -> dict:
  """Returns a section `data` that reads inputs alone."""
  if data["name"] == "formatted":
    patterns = {key: value for key, value in data.items() if key not in ANSWERS}
    return patterns | dict(of=_without_answers(data["of"]))
  if "columns" not in data:
    return dict(data)
  columns = data["columns"]
  if isinstance(columns, Mapping):
    kept = {key: columns[key] for key in columns if not is_answer(key)}
  else:
    kept = tuple(name for name in columns if not is_answer(name))
  rest = {key: data[key] for key in data if key not in ("label_names", "label_columns")}
  return rest | dict(columns=kept)


def is_answer(field: str) -> bool:
  """Returns whether inputs may lack the field, such as `label` or `label_0`."""
  return field.split("_")[0] in ANSWERS
