"""Finds the columns of Parquet and Arrow files that hold our fields, and reads their values as text
or, for words, tags and answers, as lists."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.common.errors import UserError, did_you_mean
from train.data.bad_records import MAX_RECORD_BYTES
from train.data.source import Example
from train.data.tables import LIST, LISTS

WORDS = ("words", "tags")  # fields that are lists of texts
ANSWERS = "answers"  # the field that is a list of {"text", "answer_start"}


class Column(NamedTuple):
  """The place of a field: a column, or a field of a column that has fields itself."""

  field: str
  name: str  # as the config has it
  path: tuple[str, ...]  # the column, and the fields within it
  classes: tuple[str, ...]  # names of the numbers from 0, where the column has classes
  is_single: bool  # float32, or of less precision


def find_columns(where: str, schema, columns: Mapping[str, str]) -> list[Column]:
  """Returns the column of each field of `columns` (field -> name, such as "translation.en").

  Raises UserError, which begins with `where`, for a column that is not in the pyarrow `schema`, and
  for one whose type has no text.
  """
  found = []
  for field, name in columns.items():
    path, kind = _resolve(where, schema, field, name)
    if problem := _find_problem(field, kind):
      raise UserError(
        f"{where}: data.columns: {field} is column {name!r} of type {kind}; {problem}"
      )
    found.append(Column(field, name, path, _classes(schema, path), str(_leaf(kind)) in SINGLE))
  return found


SINGLE = ("float", "halffloat")  # what pyarrow calls float32 and float16


def _resolve(where, schema, field, name):
  """Returns the path and the type of the column `name`."""
  parts = name.split(".")
  for count in range(len(parts), 0, -1):  # a column's own name may have dots
    head = ".".join(parts[:count])
    if head not in schema.names:
      continue
    kind = schema.field(head).type
    for part in parts[count:]:
      kind = kind.field(part).type if part in _fields(kind) else None
    if kind is not None:
      return (head, *parts[count:]), kind
  known = [
    f"{column.name}.{part}" if part else column.name
    for column in schema
    for part in (_fields(column.type) if field != ANSWERS else ()) or [""]
  ]
  raise UserError(
    f"{where}: data.columns: {field} is column {name!r}, which is not there;"
    f" the columns are {', '.join(known)[:1000]}{did_you_mean(name, known)}"
  )


def _fields(kind) -> list[str]:
  """Returns the names of the fields of a struct, none of another type."""
  import pyarrow as pa

  if kind is None or not pa.types.is_struct(kind):
    return []
  return [kind.field(number).name for number in range(kind.num_fields)]


def _find_problem(field: str, kind) -> str:
  """Returns why a column of this type cannot be the field, "" if it can."""
  import pyarrow as pa

  if field == ANSWERS:
    if {"text", "answer_start"} <= set(_fields(kind) or _fields(_leaf(kind))):
      return ""
    return "answers have the fields text and answer_start, as SQuAD's in Hugging Face's form"
  if nested := _fields(kind):
    return f"name one of its fields, such as {field}=COLUMN.{nested[0]}"
  is_list = _leaf(kind) is not kind
  if is_list and field not in (*WORDS, *LISTS):
    return f"a list can be one of {', '.join((*WORDS, *LISTS))}, and no other field"
  if not is_list and field in WORDS:
    return "a list of texts is needed, one for each word"
  leaf = _leaf(kind)
  if pa.types.is_dictionary(leaf):
    leaf = leaf.value_type
  checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
  checks += (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
  return "" if any(check(leaf) for check in checks) else "it is no text, number or boolean"


def _leaf(kind):
  """Returns the type of a list's elements, or the type itself."""
  import pyarrow as pa

  checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
  return kind.value_type if any(check(kind) for check in checks) else kind


def _classes(schema, path: Sequence[str]) -> tuple[str, ...]:
  """Returns the names that Hugging Face's metadata in the schema give the classes of a column."""
  try:
    content = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = content["info"]["features"]
    for part in path:
      feature = feature[part]
    if isinstance(feature, list):  # an older form of a sequence
      (feature,) = feature
    feature = feature.get("feature", feature)
    return tuple(feature["names"]) if feature.get("_type") == "ClassLabel" else ()
  except (ValueError, LookupError, TypeError, AttributeError):  # there are no such metadata
    return ()


class Cells:
  """The values of some rows: an array for each of the columns of a record batch."""

  def __init__(self, batch, columns: Sequence[Column]):
    self.num_rows, self.num_bytes = batch.num_rows, batch.nbytes
    self._columns = [(column, pick(batch, column.path)) for column in columns]

  def example(self, row: int) -> Example:
    """Returns the example of a row; raises ValueError for a value that cannot be read."""
    example = {column.field: _value(array, row, column) for column, array in self._columns}
    for answer in example.get(ANSWERS, ()):
      context = example.get("context")
      if context is not None and not context.startswith(answer["text"], answer["answer_start"]):
        raise ValueError(f"the context has no {answer['text']!r} at {answer['answer_start']}")
    return example


def pick(batch, path: Sequence[str]):
  """Returns the array of a column, or of a field within it."""
  import pyarrow.compute as pc

  array = batch.column(path[0])
  return pc.struct_field(array, list(path[1:])) if path[1:] else array


def _value(array, row: int, column: Column):
  try:
    value = array[row].as_py()
    if column.field == ANSWERS:
      return _answers(value)
    if isinstance(value, list):
      texts = [_text(element, column) for element in value]
      return texts if column.field in WORDS else json.dumps(texts, ensure_ascii=False)
    text = _text(value, column)
    return "[]" if column.field == LIST and not text.strip() else text  # as in files.py
  except UnicodeDecodeError:
    raise ValueError(f"column {column.name!r} is not UTF-8") from None
  except ValueError as error:
    raise ValueError(f"column {column.name!r} {error}") from None


def _text(value, column: Column) -> str:
  if isinstance(value, str):
    # a character has at most 4 bytes, so most texts need no encoding to be measured
    if len(value) * 4 > MAX_RECORD_BYTES < len(value.encode()):
      raise ValueError(f"has {len(value.encode()):,} bytes, more than {MAX_RECORD_BYTES:,}")
    return value
  if value is None:
    raise ValueError("is null")
  if isinstance(value, bool):
    return json.dumps(value)
  if isinstance(value, float):
    if not math.isfinite(value):
      raise ValueError(f"is {value}, which is no number")
    return str(np.float32(value)) if column.is_single else str(value)
  if not column.classes or value < 0:  # test sets have class -1
    return str(value)
  if value >= len(column.classes):
    raise ValueError(f"is class {value} of {len(column.classes)}, numbered from 0")
  return column.classes[value]


def _answers(value) -> list[dict]:
  if value is None:
    raise ValueError("is null")
  if isinstance(value, dict):
    texts, starts = value["text"] or [], value["answer_start"] or []
    if len(texts) != len(starts):
      raise ValueError("has lists of different lengths")
    value = [dict(text=text, answer_start=start) for text, start in zip(texts, starts)]
  for answer in value:
    if not isinstance(answer["text"], str) or not isinstance(answer["answer_start"], int):
      raise ValueError(f"has the answer {answer}")
  return value
