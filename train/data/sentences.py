"""Reads sentences of tagged words from files in columns (CoNLL, CoNLL-U). Errors name file and
line."""

import functools
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from train.common.errors import UserError
from train.data import reading, stored
from train.data.bad_records import BadRecords
from train.data.source import Source

SUFFIXES = (".conll", ".conllu", ".bio", ".tsv")
MOST_LINES = 1_000_000  # of a sentence
NODE = re.compile(r"\d+([-.]\d+)?")  # id of a word, a range of words (1-2) or an empty node (8.1)
COMMENT = re.compile(r"# ?[\w.:-]+ = |# ?(begin|end) document\b")  # CoNLL-U's, CoNLL-2012's


class Line(NamedTuple):
  """A line of a file; `text` is None if it cannot be read."""

  number: int
  text: str | None
  cells: list[str]


def open_conll(
  split: str, /, splits: Mapping, word: int = 0, tag: int = -1, on_bad_record: str = "error"
) -> Source:
  """Opens sentences {"words", "tags"} of column files; CoNLL-U (.conllu) gives forms and UPOS.
  "PATH[:90%]" is a part of each file's sentences. A sentence with a line that cannot be read is a
  bad record."""
  splits, start, stop = reading.parse_part(split, splits)
  paths = reading.list_files(split, splits, SUFFIXES)
  part = () if (start, stop) == (0, 100) else (start, stop)
  reader = functools.partial(read_sentences, word=word, tag=tag, start=start, stop=stop)
  return stored.open_files(reader, paths, ("sentences", word, tag, *part), on_bad_record)


def read_sentences(
  path: pathlib.Path, word: int, tag: int, bad: BadRecords, start: int = 0, stop: int = 100
) -> Iterator[dict]:
  """Reads a file's sentences between two percentages; they end at a line without text.

  Tabs part the columns of a line that has one, else blanks. Comments before a sentence are skipped
  (see `_is_comment`), and in CoNLL-U, or where an id stands before the word, ranges of words (1-2)
  and empty nodes (8.1).
  """
  first, last = 0, None
  if (start, stop) != (0, 100):
    count = sum(1 for _ in _parse_sentences(path, word, tag, BadRecords("skip")))
    first, last = count * start // 100, count * stop // 100
  sentences = enumerate(_parse_sentences(path, word, tag, bad))
  part = (sentence for i, sentence in sentences if i >= first and (last is None or i < last))
  return bad.drop_bad(reading.name_part(path, start, stop), part)


def _parse_sentences(path, word, tag, bad):
  """Yields a file's sentences, None for one with a bad line."""
  conllu = reading.file_type(path) == ".conllu"
  word, tag = (1, 3) if conllu else (word, tag)
  width = 0  # the columns of the last sentence's first word
  comments, first_comment = 0, None  # the number of lines that are comments, and the first line
  for lines in _split_sentences(path, bad):
    numbered = word != 0 and _has_ids(lines)
    if conllu:
      lines = [line for line in lines if line.text is None or not line.text.startswith("#")]
    else:
      count, width = _count_comments(lines, width, numbered)
      first_comment = first_comment or (lines[0].number if count else None)
      comments += count
      lines = lines[count:]
    if conllu or numbered:
      kept = [line for line in lines if line.text is None or not _is_extra_node(line)]
      bad.rules |= {"nodes"} if len(kept) < len(lines) and not conllu else set()
      lines = kept
    rows = [line.text and _parse_word(line, word, tag, conllu, path, bad) for line in lines]
    if rows:
      yield None if None in rows else dict(zip(("words", "tags"), map(list, zip(*rows))))
  if comments:
    bad.rules.add("comments")
    bad.note(
      f"{path}: {comments} lines before sentences begin with # and are read as comments, the first"
      f" is line {first_comment}"
    )


def _split_sentences(path, bad) -> Iterator[list[Line]]:
  """Yields the lines of each sentence; the starts of CoNLL-2003's documents are left out."""
  lines = []
  for number, text in enumerate(itertools.chain(reading.read_lines(path, bad), [""]), 1):
    if text is None:
      lines.append(Line(number, None, []))
    elif not text.strip():
      if lines:
        yield lines
      lines = []
    elif not text.startswith("-DOCSTART-"):
      lines.append(Line(number, text, _split_cells(text)))
    if len(lines) > MOST_LINES:
      raise UserError(
        f"{path}, line {number}: {MOST_LINES:,} lines without an empty one, which ends a sentence;"
        " is this a file in columns?"
      )


def _split_cells(text: str) -> list[str]:
  """Splits a line at tabs or, without one, at blanks; a no-break space is part of a word."""
  return text.split("\t") if "\t" in text else [cell for cell in text.split(" ") if cell]


def _has_ids(lines: Sequence[Line]) -> bool:
  """Returns True if the first column of a sentence's words has CoNLL-U's ids."""
  firsts = [line.cells[0] for line in lines if line.text and not line.text.startswith("#")]
  return any(map(str.isdecimal, firsts)) and all(map(NODE.fullmatch, firsts))


def _is_extra_node(line: Line) -> bool:
  return bool(NODE.fullmatch(line.cells[0])) and not line.cells[0].isdecimal()


def _count_comments(lines: Sequence[Line], width: int, numbered: bool) -> tuple[int, int]:
  """Returns how many of a sentence's first lines are comments, and the columns of the words."""
  heads = [*itertools.takewhile(lambda line: line.text and line.text.startswith("#"), lines)]
  if (first := len(heads)) < len(lines):
    width = len(lines[first].cells) or width
  comments = itertools.takewhile(lambda line: _is_comment(line, width, numbered), heads)
  return len(list(comments)), width


def _is_comment(line: Line, width: int, numbered: bool) -> bool:
  """Returns True for a line that begins with # and is no word.

  Such a line has the form of CoNLL-U's comments (# key = value) or of CoNLL-2012's, or its # stands
  alone before text and the line has other columns than the words (`width`, 0 if not known), or
  stands where the words have ids (`numbered`).
  """
  mark, *rest = line.text.split(None, 1)
  alone = rest and not mark.strip("#")
  other = numbered or (width and len(line.cells) != width)
  return bool(COMMENT.match(line.text) or (alone and other))


def _parse_word(line, word, tag, conllu, path, bad):
  """Returns a line's word and tag, None for a bad line."""
  cells = line.cells
  if "\t" not in line.text and cells != line.text.split():
    bad.rules.add("blanks")
  row = [cells[i] for i in (word, tag) if -len(cells) <= i < len(cells)]
  if len(cells) < 2 or len(row) < 2 or not all(row) or (conllu and not cells[0].isdigit()):
    reason = f"columns {word} and {tag} must be a word and its tag: {line.text[:200]!r}; correct it"
    return bad(path, f"line {line.number}", reason)
  return row
