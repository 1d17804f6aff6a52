"""Reads JSON files of any origin: bounded in length and depth, and checked against types."""

import json
import math
import os
import re
import reprlib
import sys
import types
import typing
from collections.abc import Mapping

from train.common import paths
from train.common.errors import UserError

MOST_BYTES = 100_000_000  # as in a safetensors header; the largest known tokenizer.json has 60 MB
MOST_DEEP = 100  # lists and objects inside each other; Python stops at about 1000
LARGEST = 2**31 - 1  # whole number: ids and sizes are int32
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # half of a pair, perhaps a lone one


def read(path: str | os.PathLike, of=dict, most: int = MOST_BYTES):
  """Returns the value in a file, of the type `of` (see `fits`); raises UserError for others."""
  return parse(read_text(path, most), path, of)


def read_text(path: str | os.PathLike, most: int = MOST_BYTES) -> str:
  """Returns the text of a file of at most `most` bytes; raises UserError otherwise."""
  try:
    return read_bytes(path, most).decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 ({error}): copy it anew") from None


def read_bytes(path: str | os.PathLike, most: int = MOST_BYTES) -> bytes:
  """Returns the bytes of a file; raises UserError if it has more than `most` or can't be read."""
  path = paths.of(path)
  try:
    if paths.is_bucket(path):
      content = path.read_bytes()
    elif path.exists() and not path.is_file():  # a pipe or a device might never end
      raise UserError(f"{path} is not a regular file")
    else:
      with open(path, "rb") as file:
        content = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
  except (OSError, ValueError) as error:  # ValueError: a zero in its name
    raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
  if len(content) > most:
    raise UserError(f"{path} has more than {most:,} bytes, the most that is read of such a file")
  return content


def parse(text: str, where, of=dict):
  """Returns the value in a text, of the type `of`; raises UserError that begins with `where`."""
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where} is not JSON ({error}): copy it anew") from None
  if _depth(value) > MOST_DEEP:
    raise UserError(f"{where} has more than {MOST_DEEP} lists and objects inside each other")
  if SURROGATE.search(text):
    try:
      json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
      raise UserError(f"{where} holds half a surrogate pair, which is no text") from None
  if not fits(value, of):
    kind = "a JSON object" if of is dict else type_name(of)
    raise UserError(f"{where} is not {kind}, but {reprlib.repr(value)}: copy it anew")
  return value


def check(values: Mapping, where, fields: Mapping) -> None:
  """Raises UserError for a value that is not null and does not fit its type in `fields`."""
  for name, kind in fields.items():
    if values.get(name) is not None and not fits(values[name], kind):
      value = reprlib.repr(values[name])
      raise UserError(f"{where}: {name} is {value}; it must be {type_name(kind)}")


def fits(value, kind) -> bool:
  """Returns whether a JSON value has a type such as int, float | None, list[str], dict[str, int].

  A bool is no int, an int is a float, no number is infinite, and no int lies beyond int32.
  """
  if isinstance(kind, types.UnionType):
    return any(fits(value, option) for option in typing.get_args(kind))
  if (outer := typing.get_origin(kind)) is not None:
    inner = [argument for argument in typing.get_args(kind) if argument is not ...][-1]
    items = value.values() if type(value) is dict else value
    return type(value) is outer and all(fits(item, inner) for item in items)
  if kind is typing.Any:
    return True
  if type(value) is int and kind in (int, float):
    return abs(value) <= (LARGEST if kind is int else sys.float_info.max)
  return type(value) is kind and (kind is not float or math.isfinite(value))


def type_name(kind) -> str:
  """Returns the name of a type, for a message."""
  return kind.__name__ if type(kind) is type else str(kind)


def _depth(value) -> int:
  """Returns how deep lists and objects are nested, at most MOST_DEEP + 1."""
  depth, level = 0, [value]
  while level and depth <= MOST_DEEP:
    nests = [x for x in level if isinstance(x, (dict, list))]
    depth += bool(nests)
    level = [x for nest in nests for x in (nest.values() if isinstance(nest, dict) else nest)]
  return depth
