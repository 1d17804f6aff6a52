"""Cuts long texts into parts, so that the memory of encoding them does not grow with the text.

The `tokenizers` library takes some 130 bytes for each byte of a text that it encodes.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence

PART = 1 << 15  # characters of a part, at most 128 KiB
LONGEST = 16 * PART  # characters of a part in a text that cannot be cut sooner
GROUP = 8 * PART  # characters that are encoded at a time
CONTEXT = 200  # characters on each side of a cut whose ids are compared
TRIES = 50  # places that are tried where there is no blank
# before a blank, and between Chinese or Japanese letters and their punctuation
WORD_END = re.compile(
  r"(?<=\S)(?=\s)|(?<=[\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5])(?=[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])"
)

Encode = Callable[[Sequence[str]], list[list[int]]]


def encode(texts: Sequence[str], first: Encode, later: Encode) -> Iterator[tuple[int, list[int]]]:
  """Yields the ids of each part of each text, in order, with the number of the text.

  `first` encodes texts and their first parts, `later` the other parts. The ids of a text's parts
  joined are those of the whole text, except where a text has no place for a cut (see `cut`).
  """
  for is_later, group in list_groups(texts, first, later):
    numbers, _, parts = zip(*group)
    yield from zip(numbers, (later if is_later else first)(parts))


def list_groups(
  texts: Sequence[str], first: Encode, later: Encode
) -> Iterator[tuple[bool, list[tuple[int, int, str]]]]:
  """Yields the parts of texts in groups of some GROUP characters: whether they are later parts, and
  of each the number of its text, its place in the text and the part."""
  group, size = [], 0
  for number, text in enumerate(texts):
    for start, stop in _list_spans(text, first, later):
      group.append((number, start, text[start:stop]))
      size += stop - start
      if size >= GROUP:
        yield from _split_group(group)
        group, size = [], 0
  yield from _split_group(group)


def _split_group(group):
  for is_later, parts in itertools.groupby(group, key=lambda part: part[1] > 0):
    yield is_later, list(parts)


def join(parts: Iterator[tuple[int, list[int]]], count: int) -> list[list[int]]:
  """Returns the ids of each of `count` texts from those of their parts (see `encode`)."""
  rows = [[] for _ in range(count)]
  for number, ids in parts:
    rows[number] += ids
  return rows


def cut(text: str, first: Encode, later: Encode) -> Iterator[str]:
  """Yields the parts of a text, each of at most LONGEST characters.

  A cut is where the characters around it have the same ids whole and in two: at a WORD_END,
  without the blank if `later` puts one in front, or between two tokens. A text that has no such
  place for LONGEST characters, such as one endless word of a word tokenizer, is cut there anyway.
  """
  return (text[start:stop] for start, stop in _list_spans(text, first, later))


def _list_spans(text: str, first: Encode, later: Encode) -> Iterator[tuple[int, int]]:
  start = 0
  while len(text) - start > PART:
    for stop, following in _list_places(text, start):
      since = max(stop - CONTEXT, 0)
      before, after = text[since:stop], text[following : following + CONTEXT]
      around = text[since : following + CONTEXT]
      if first([around])[0] == first([before])[0] + later([after])[0]:
        break
    else:
      stop = following = min(start + LONGEST, len(text))
    yield start, stop
    start = following
  if start < len(text) or not start:
    yield start, len(text)


def _list_places(text: str, start: int) -> Iterator[tuple[int, int]]:
  """Yields where a part may end and where the next one then begins, the best first."""
  most = start + PART
  ends = [match.start() for match in WORD_END.finditer(text, start + PART // 2, most)]
  beyond = (match.start() for match in WORD_END.finditer(text, most, start + LONGEST))
  anywhere = range(most, max(most - TRIES, start), -1)
  for place in itertools.chain(ends[: -TRIES - 1 : -1], anywhere, itertools.islice(beyond, TRIES)):
    yield place, place
    if text[place : place + 1] == " ":
      yield place, place + 1


def cut_for_training(text: str) -> Iterator[str]:
  """Yields parts of at most PART characters that a ByteLevel pre-tokenizer without a prefix blank
  splits as it splits the whole text; a stretch without WORD_END is cut anywhere."""
  start = 0
  while len(text) - start > PART:
    ends = [match.start() for match in WORD_END.finditer(text, start + PART // 2, start + PART)]
    stop = ends[-1] if ends else start + PART
    yield text[start:stop]
    start = stop
  yield text[start:]
