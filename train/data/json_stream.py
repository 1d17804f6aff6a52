"""Reads a JSON document value by value, so that a large one is never in memory whole."""

import codecs
import json
from collections.abc import Iterator

READ = 1 << 20  # bytes that are read at a time
LAST = 32  # characters at the end of what was read: an error there may be that of a cut value
MOST = 1 << 28  # characters of a value
BLANKS = " \t\n\r"
decode = json.JSONDecoder().raw_decode


class Document:
  """The text of a binary file in UTF-8, with or without a byte order mark, and a place in it.

  Raises ValueError, with line and column, for what is not JSON.
  """

  def __init__(self, file):
    self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
    self._text, self._place = "", 0
    self._lines, self._column, self._characters = 0, 0, 0  # of what was before the text

  def peek(self) -> str:
    """Returns the next character that is no blank, "" at the document's end."""
    while True:
      while self._place < len(self._text):
        if self._text[self._place] not in BLANKS:
          return self._text[self._place]
        self._place += 1
      if not self._read():
        return ""

  def skip(self, characters: str) -> str:
    """Skips the next character, which must be one of `characters`, and returns it."""
    character = self.peek()
    if not character or character not in characters:
      raise self.error(f"Expecting {' or '.join(map(repr, characters))}", self._place)
    self._place += 1
    return character

  def value(self):
    """Returns the next value."""
    self.peek()
    while True:
      try:
        value, stop = decode(self._text, self._place)
      except json.JSONDecodeError as error:
        is_cut = error.pos > len(self._text) - LAST or error.msg.startswith("Unterminated string")
        if not is_cut or not self._read():
          raise self.error(error.msg, error.pos) from None
      else:
        if stop < len(self._text) or not self._read():  # a number may go on behind the text
          self._place = stop
          return value

  def items(self) -> Iterator:
    """Yields the values of a list."""
    self.skip("[")
    if self.peek() == "]":
      self.skip("]")
      return
    while True:
      yield self.value()
      if self.skip(",]") == "]":
        return

  def members(self) -> Iterator[str]:
    """Yields the keys of an object; the caller reads the value of each."""
    self.skip("{")
    if self.peek() == "}":
      self.skip("}")
      return
    while True:
      if self.peek() != '"':
        raise self.error("Expecting property name enclosed in double quotes", self._place)
      key = self.value()
      self.skip(":")
      yield key
      if self.skip(",}") == "}":
        return

  def error(self, message: str, place: int | None = None) -> ValueError:
    """Returns an error at a place in the text, by default at the present one."""
    place = self._place if place is None else place
    line = self._lines + self._text.count("\n", 0, place) + 1
    start = self._text.rfind("\n", 0, place)
    column = place - start if start >= 0 else self._column + place + 1
    return ValueError(f"{message}: line {line} column {column} (char {self._characters + place})")

  def _read(self) -> bool:
    """Reads on, as much again as is left of the text; returns whether there was more."""
    left = len(self._text) - self._place
    if left > MOST:
      raise self.error(f"a value of more than {MOST:,} characters")
    content = self._file.read(max(READ, left))
    more = self._decoder.decode(content, final=not content)
    passed = self._text[: self._place]
    self._lines += passed.count("\n")
    start = passed.rfind("\n")
    self._column = len(passed) - start - 1 if start >= 0 else self._column + len(passed)
    self._characters += len(passed)
    self._text, self._place = self._text[self._place :] + more, 0
    return bool(content)
