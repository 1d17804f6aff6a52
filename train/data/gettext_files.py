"""Bytes of a gettext catalog as polib's entries, or an error that says where it is broken."""

import re
import struct

import polib

from train.common.errors import UserError

# Whitespace to str.split; polib, given a text, takes them for ends of lines.
SEPARATORS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# polib would take the last letter for the closing quote
UNENDED = re.compile(r'^(?:#~\s*)?(?:msg[\w\[\]]+\s*)?"(?:.*[^"\s])?[^\S\n]*$', re.MULTILINE)
BROKEN = (OSError, ValueError, LookupError, TypeError, struct.error)  # what polib raises


def _check_whole(mo: bytes):
  """ValueError if it is none, or a text lies beyond the end, where polib reads nothing and goes on,
  or texts lie over each other, which would make many large ones of a small file."""
  order = {polib.MOFile.MAGIC: "<", polib.MOFile.MAGIC_SWAPPED: ">"}.get(
    int.from_bytes(mo[:4], "little")
  )
  if order is None:
    raise ValueError("magic number is incorrect")
  count, *tables = struct.unpack(f"{order}3I", mo[8:20])
  size = 0
  for table in tables:
    if len(mo) < table + 8 * count:
      raise ValueError("cut short")
    for length, start in struct.iter_unpack(f"{order}2I", mo[table : table + 8 * count]):
      if start + length >= len(mo):  # each text ends with a zero
        raise ValueError("cut short")
      size += length
  if size > len(mo):
    raise ValueError("texts lie over each other")


def parsed(where: str, content: bytes):
  """polib's entries of a .po or .mo file, as its name says; UserError for what is none."""
  try:
    if where.endswith(".mo"):
      _check_whole(content)
      return polib.mofile(content)
    text = content.decode(polib.detect_encoding(content + b"\n"))
    if unended := UNENDED.search(text):
      raise ValueError(f"line {text[: unended.start()].count(chr(10)) + 1}: no closing quote")
    # the newline, as polib takes a text that is the name of a file for that file
    return polib.pofile(SEPARATORS.sub(" ", text).replace("\r\n", "\n") + "\n")
  except BROKEN as error:
    line = re.search(r"line (\d+)\)?:?(.*)", str(error))
    place, reason = (f", line {line[1]}", line[2].strip()) if line else ("", str(error))
    raise UserError(
      f"{where}{place}: not a gettext catalog ({reason or 'syntax'});"
      f" msgfmt --check says more of a .po file"
    ) from None
