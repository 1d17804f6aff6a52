"""JSON that somebody else may have made: not too long, not too deep, and of the types asked for."""

import json
import math
import os
import pathlib
import re
import reprlib
import sys
import types
import typing
from collections.abc import Mapping

from train.common.errors import UserError

MOST_BYTES = 100_000_000  # as of a safetensors header; the largest tokenizer.json known has 60 MB
MOST_DEEP = 100  # lists and objects inside each other; Python gives up at about 1000
LARGEST = 2**31 - 1  # whole number: ids and sizes are int32
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair, perhaps


def read(path: str | os.PathLike, of=dict, most: int = MOST_BYTES):
  """What the file holds: an `of`, as `fits` has it. UserError for anything else, or no file."""
  return parsed(text_of(path, most), path, of)


def text_of(path: str | os.PathLike, most: int = MOST_BYTES) -> str:
  """The text of a file of at most so many bytes."""
  try:
    return bytes_of(path, most).decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 ({error}): copy it anew") from None


def bytes_of(path: str | os.PathLike, most: int = MOST_BYTES) -> bytes:
  """The bytes of a file of at most so many."""
  path = pathlib.Path(path)
  try:
    if path.exists() and not path.is_file():  # a pipe or a device might never end
      raise UserError(f"{path} is no file")
    with open(path, "rb") as file:
      content = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
  except (OSError, ValueError) as error:  # ValueError: a zero in its name
    raise UserError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
  if len(content) > most:
    raise UserError(f"{path} has more than {most:,} bytes, the most that is read of such a file")
  return content


def parsed(text: str, where, of=dict):
  """What the text holds, an `of`; UserError that begins with `where`."""
  try:
    found = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where} is not JSON ({error}): copy it anew") from None
  if _depth(found) > MOST_DEEP:
    raise UserError(f"{where} has more than {MOST_DEEP} lists and objects inside each other")
  if HALF.search(text):
    try:
      json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
      raise UserError(f"{where} holds half a surrogate pair, which is no text") from None
  if not fits(found, of):
    told = "a JSON object" if of is dict else named(of)
    raise UserError(f"{where} is not {told}, but {reprlib.repr(found)}: copy it anew")
  return found


def check(found: Mapping, where, fields: Mapping) -> None:
  """UserError for a field that is there, not null, and does not fit its type in `fields`."""
  for name, kind in fields.items():
    if found.get(name) is not None and not fits(found[name], kind):
      raise UserError(f"{where}: {name} is {reprlib.repr(found[name])}; it must be {named(kind)}")


def fits(value, kind) -> bool:
  """Whether a value of JSON is of a type such as int, float | None, list[str], dict[str, int]. A
  bool is no int, an int is a float, no number is infinite and no int beyond int32."""
  if isinstance(kind, types.UnionType):
    return any(fits(value, one) for one in typing.get_args(kind))
  if (outer := typing.get_origin(kind)) is not None:
    inner = [one for one in typing.get_args(kind) if one is not ...][-1]
    inside = value.values() if type(value) is dict else value
    return type(value) is outer and all(fits(one, inner) for one in inside)
  if kind is typing.Any:
    return True
  if type(value) is int and kind in (int, float):
    return abs(value) <= (LARGEST if kind is int else sys.float_info.max)
  return type(value) is kind and (kind is not float or math.isfinite(value))


def named(kind) -> str:
  """The type in words."""
  return kind.__name__ if type(kind) is type else str(kind)


def _depth(value) -> int:
  """How many lists and objects are inside each other."""
  depth, level = 0, [value]
  while level and depth <= MOST_DEEP:
    level = [one for one in level if isinstance(one, (dict, list))]
    depth += bool(level)
    level = [x for one in level for x in (one.values() if isinstance(one, dict) else one)]
  return depth
