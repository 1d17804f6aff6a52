"""Reads the messages of one gettext catalog with polib, with errors that name the broken place."""

import collections
import gettext
import re
import struct
from collections.abc import Iterator

import polib

from train.common.errors import UserError

# str.split() takes these for whitespace, polib for line ends
SEPARATORS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# a line without its closing quote, whose last letter polib would take for the quote
UNENDED = re.compile(r'^(?:#~\s*)?(?:msg[\w\[\]]+\s*)?"(?:.*[^"\s])?[^\S\n]*$', re.MULTILINE)
DEFAULT = re.compile(r'Default:\s*"(.*)"\s*', re.DOTALL)
MANY = 5  # in every language, the form for five is the most general plural form or close to it
PARSE_ERRORS = (OSError, ValueError, LookupError, TypeError, struct.error)  # raised by polib


def read_messages(name: str, content: bytes) -> Iterator[tuple[str, str, str]]:
  """Yields English, translation and defect of each message of the .po or .mo file `name`.

  The defect is "obsolete", "fuzzy", "untranslated" or empty. The English text is the msgid, or the
  comment's `Default: "..."` where the msgid is a mere key (in Zope's and Plone's catalogs). Raises
  UserError for a broken file.
  """
  entries = _parse(name, content)
  for entry in entries:
    defect = "fuzzy" if "fuzzy" in entry.flags else ""
    if entry.obsolete:
      defect = "obsolete"
    if entry.msgid_plural:
      pairs = _pair_plurals(name, entries.metadata, entry)
    else:
      default = DEFAULT.fullmatch(entry.comment)
      pairs = [(polib.unescape(default[1]) if default else entry.msgid, entry.msgstr)]
    for source, target in pairs:
      yield source, target, defect or ("" if target.strip() else "untranslated")


def _parse(name: str, content: bytes):
  """Returns polib's entries of a .po or .mo file."""
  try:
    if name.endswith(".mo"):
      _check_mo(content)
      return polib.mofile(content)
    text = content.decode(polib.detect_encoding(content + b"\n"))
    if unended := UNENDED.search(text):
      raise ValueError(f"line {text[: unended.start()].count(chr(10)) + 1}: no closing quote")
    # polib opens a file if the text is the name of one; a text with a newline is none
    return polib.pofile(SEPARATORS.sub(" ", text).replace("\r\n", "\n") + "\n")
  except PARSE_ERRORS as error:
    line = re.search(r"line (\d+)\)?:?(.*)", str(error))
    place, reason = (f", line {line[1]}", line[2].strip()) if line else ("", str(error))
    raise UserError(
      f"{name}{place}: not a gettext catalog ({reason or 'syntax'});"
      f" msgfmt --check describes errors of a .po file"
    ) from None


def _check_mo(content: bytes) -> None:
  """Raises ValueError for a file that is no .mo file, whose texts lie beyond the end (polib reads
  them as empty) or overlap (a small file could then hold many large texts)."""
  orders = {polib.MOFile.MAGIC: "<", polib.MOFile.MAGIC_SWAPPED: ">"}
  order = orders.get(int.from_bytes(content[:4], "little"))
  if order is None:
    raise ValueError("magic number is incorrect")
  count, *tables = struct.unpack(f"{order}3I", content[8:20])
  size = 0
  for table in tables:
    if len(content) < table + 8 * count:
      raise ValueError("cut short")
    for length, start in struct.iter_unpack(f"{order}2I", content[table : table + 8 * count]):
      if start + length >= len(content):  # each text ends with a zero
        raise ValueError("cut short")
      size += length
  if size > len(content):
    raise ValueError("texts overlap")


def _pair_plurals(name, header, entry) -> list[tuple[str, str]]:
  """Pairs the singular with the form for one and the plural with the form for many.

  A language with one form has only the second pair: its form may contain a number that the English
  singular omits.
  """
  rule = re.search(r"plural\s*=\s*([^;]+)", header.get("Plural-Forms", ""))
  try:
    number = gettext.c2py(rule[1] if rule else "n != 1")  # the rule of English and most languages
    one, many = number(1), number(MANY)
  except (ValueError, ArithmeticError, RecursionError) as error:  # "1 / 0" is a valid rule
    raise UserError(
      f"{name}: Plural-Forms in the header cannot be read ({error}), but"
      f" {entry.msgid!r} has plurals; correct the header"
    ) from None
  forms = collections.defaultdict(str, entry.msgstr_plural)
  pairs = [(entry.msgid, forms[one]), (entry.msgid_plural, forms[many])]
  return pairs if one != many else pairs[1:]
