"""Sources read whole into memory: documents, tagged sentences, questions with answers.

A source of this kind is the files of a split and a reader, a function from one file to its
examples that names file and line where it cannot be read.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import logging

from train.common.errors import NoSplit, UserError, choose, did_you_mean
from train.data import reading
from train.data.bad_records import MOST_BYTES, BadRecords
from train.data.source import digest, reduced

DOCUMENTS = (".txt", ".md", ".jsonl")
ENDLESS = 2**62
ROW_OF_OTHERS = re.compile(r"\d+[-.]\d+")  # CoNLL-U's multiword tokens and empty nodes
PART = re.compile(r"(?P<path>.+)\[((?P<start>\d+)%)?:((?P<stop>\d+)%)?\]")


@dataclasses.dataclass(frozen=True)
class InMemory:
  """The examples of some files, read when the first is asked for; pickles as their names."""

  paths: tuple  # each a file, or what else the reader reads at once
  reader: Callable  # path, *arguments, BadRecords -> examples
  arguments: tuple
  fingerprint: str
  on_bad_record: str = "error"

  @functools.cached_property
  def _examples(self) -> list[dict]:
    bad = BadRecords(self.on_bad_record)
    found = [one for path in self.paths for one in self.reader(path, *self.arguments, bad)]
    bad.limit("data")
    return found

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> dict:
    return self._examples[index]

  def _getitems(self, indices: Sequence[int]) -> list[dict]:
    return [self._examples[index] for index in indices]

  __reduce__ = reduced


def of_split(
  split: str, splits: Mapping, suffixes: Sequence[str], on_bad_record: str, reader, *arguments
) -> InMemory:
  """The examples of `splits[split]`: a path, glob or folder, or several. UserError as `reading`."""
  paths = files(split, splits, suffixes)
  digests = [f"{reading.kind(path)} {reading.digest_of(path)}" for path in paths]
  how = [on_bad_record] if on_bad_record != "error" else []
  fingerprint = digest(reader.__name__, *arguments, *digests, *how)
  return InMemory(tuple(paths), reader, arguments, fingerprint, on_bad_record)


def files(split: str, splits: Mapping, suffixes: Sequence[str]) -> list[pathlib.Path]:
  """The files of `splits[split]`; in folders, those with one of the suffixes."""
  if not isinstance(splits, Mapping):
    raise UserError(f"data.splits is {splits!r}; it must say which files each split has")
  if split not in splits:
    raise NoSplit(
      f"data.splits has no {split!r}; listed are {', '.join(splits)}{did_you_mean(split, splits)}"
    )
  where, patterns = f"data.splits.{split}", splits[split]
  patterns = (patterns,) if isinstance(patterns, str) else patterns
  if not isinstance(patterns, Sequence) or not all(isinstance(one, str) for one in patterns):
    raise UserError(f"{where} is {patterns!r}; it must be a path, glob or folder, or several")
  return [path for pattern in patterns for path in _files(where, pattern, suffixes)]


def _files(where, pattern, suffixes):
  pattern = reading.resolved(where, pattern)
  folder = pathlib.Path(pattern).expanduser()
  if folder.is_dir():
    found = [path for path in sorted(folder.rglob("*")) if reading.kind(path) in suffixes]
    if not found:
      raise UserError(f"{where}: {folder} has no {' or '.join(suffixes)} file (.gz or not)")
    return found
  return reading.find(where, pattern)


def part_of(split: str, splits) -> tuple[Mapping, int, int]:
  """`splits` with "PATH[10%:90%]" as PATH for the split, and the two percentages (else 0, 100)."""
  pattern = splits[split] if isinstance(splits, Mapping) and split in splits else None
  if not isinstance(pattern, str) or not (match := PART.fullmatch(pattern)):
    return splits, 0, 100
  start, stop = int(match["start"] or 0), int(match["stop"] or 100)
  if not start < stop <= 100:
    raise UserError(f"data.splits.{split}: {pattern} is no part of a file, such as [:90%]")
  return {**splits, split: match["path"]}, start, stop


def open_text(
  split: str, /, splits: Mapping, unit: str = "file", on_bad_record: str = "error"
) -> InMemory:
  """Documents {"text"}: whole files, their paragraphs (between blank lines) or their lines; each
  line of .jsonl is one, its key "text". "PATH[:90%]" is a part of each file. A line that cannot be
  read is a bad record, also where it is a part of a document."""
  choose(UNITS, unit, "data.unit")
  splits, start, stop = part_of(split, splits)
  return of_split(split, splits, DOCUMENTS, on_bad_record, documents, unit, start, stop)


def documents(path: pathlib.Path, unit: str, start: int, stop: int, bad: BadRecords) -> list[dict]:
  """The documents of a file between two percentages: of its characters if it is one document."""
  if reading.kind(path) == ".jsonl":
    rows = bad.among(str(path), reading.READERS[".jsonl"]((path,), ("text",), bad))
    texts = [text for (text,) in rows]
  else:
    most = ENDLESS if unit == "file" else MOST_BYTES  # a file may be one line, as text8 is
    lines = bad.among(str(path), reading.read_lines(path, bad, empty=True, most=most))
    texts = UNITS[unit]("\n".join(lines))
  if len(texts) == 1:
    return [{"text": _between(texts[0], start, stop)}]
  return [{"text": text} for text in _between(texts, start, stop)]


def _between(sequence, start, stop):
  return sequence[len(sequence) * start // 100 : len(sequence) * stop // 100]


UNITS = {
  "file": lambda text: [text],
  "paragraph": lambda text: [part for part in re.split(r"\n\s*\n", text) if part.strip()],
  "line": lambda text: [line for line in text.split("\n") if line.strip()],
}


def open_conll(
  split: str, /, splits: Mapping, word: int = 0, tag: int = -1, on_bad_record: str = "error"
) -> InMemory:
  """Sentences {"words", "tags"} of column files; of CoNLL-U (.conllu) forms and UPOS. A sentence
  with a line that cannot be read is a bad record."""
  suffixes = (".conll", ".conllu", ".bio", ".tsv")
  return of_split(split, splits, suffixes, on_bad_record, sentences, word, tag)


def sentences(path: pathlib.Path, word: int, tag: int, bad: BadRecords) -> Iterator[dict]:
  """Sentences end at a line without text. In CoNLL-U, comments, multiword tokens (1-2) and empty
  nodes (1.1) are skipped."""
  return bad.among(str(path), _sentences(path, word, tag, bad))


def _sentences(path, word, tag, bad):
  universal = reading.kind(path) == ".conllu"
  word, tag = (1, 3) if universal else (word, tag)
  rows = []  # of a sentence: word and tag, None for a bad line
  for number, line in enumerate(itertools.chain(reading.read_lines(path, bad), [""]), 1):
    if line is None:
      rows.append(None)
    elif not line.strip():
      if rows:
        yield None if None in rows else dict(zip(("words", "tags"), map(list, zip(*rows))))
      rows = []
    elif not line.startswith("-DOCSTART-") and not (universal and line.startswith("#")):
      cells = line.split("\t") if "\t" in line else line.split()
      if universal and ROW_OF_OTHERS.fullmatch(cells[0]):
        continue
      try:
        found = cells[word], cells[tag]
      except IndexError:
        found = ("", "")
      if len(cells) < 2 or not all(found) or (universal and not cells[0].isdigit()):
        reason = f"columns {word} and {tag} must be a word and its tag: {line[:200]!r}; correct it"
        found = bad(path, f"line {number}", reason)
      rows.append(found)


FEW = 10  # articles: a percentage of fewer says little


class Wrong(ValueError):
  """What SQuAD's JSON should have had in a place."""


def open_squad(split: str, /, splits: Mapping, on_bad_record: str = "error") -> InMemory:
  """Questions {"id", "question", "context", "answers"} of SQuAD's JSON, 1.1 or 2.0. "PATH[:90%]" is
  a part of each file's articles, or of its paragraphs where articles are few."""
  splits, start, stop = part_of(split, splits)
  return of_split(split, splits, (".json",), on_bad_record, questions, start, stop)


def questions(path: pathlib.Path, start: int, stop: int, bad: BadRecords) -> Iterator[dict]:
  """answers: [{"text", "answer_start"}], none for a question without one. An answer that is not
  where its context says is left out, with its question if it was the only one, and counted. The
  articles (of fewer than FEW: the paragraphs) are those between two percentages."""
  part = "" if (start, stop) == (0, 100) else f"[{start}%:{stop}%]"
  wrong = []
  for context, qa in bad.among(f"{path}{part}", _asked(path, start, stop, bad)):
    name, question, found = qa
    right = [a for a in found if _is_at(context, **a)]
    if len(right) < len(found):
      wrong.append(name)
    if right or not found:
      yield {"id": name, "question": question, "context": context, "answers": right}
  if wrong:
    logging.warning(
      "%s: %d questions have an answer that is not in its context and is left out: %s",
      *(path, len(wrong), ", ".join(wrong[:5])),
    )


def _asked(path, start, stop, bad):
  """Context and question of each; None for what has not the parts that SQuAD's has."""
  articles = []
  for i, article in enumerate(_data(path)):
    try:
      paragraphs = _part(article, "paragraphs", list)
      articles.append([(f"data[{i}].paragraphs[{j}]", one) for j, one in enumerate(paragraphs)])
    except Wrong as error:
      yield bad(path, f"data[{i}]", error)
  if len(articles) < FEW:
    articles = [[paragraph] for paragraph in itertools.chain.from_iterable(articles)]
  for place, paragraph in itertools.chain.from_iterable(_between(articles, start, stop)):
    try:
      context, asked = _part(paragraph, "context", str), _part(paragraph, "qas", list)
    except Wrong as error:
      yield bad(path, place, error)
      continue
    for k, qa in enumerate(asked):
      one = None
      try:
        one = context, _question(qa)
      except Wrong as error:
        bad(path, f"{place}.qas[{k}]", error)
      yield one


def _question(qa):
  """Its id, text and answers."""
  answers = [] if isinstance(qa, dict) and qa.get("is_impossible") else _part(qa, "answers", list)
  found = [
    {"text": _part(a, "text", str), "answer_start": _part(a, "answer_start", int)} for a in answers
  ]
  return _part(qa, "id", str), _part(qa, "question", str), found


def _is_at(context, text, answer_start):
  return answer_start >= 0 and context.startswith(text, answer_start)


def _part(record, key, kind):
  if not isinstance(record, dict) or not isinstance(record.get(key), kind):
    raise Wrong(f"SQuAD's JSON has a {kind.__name__} {key!r} here; correct it")
  try:
    if kind is str and len(reading.utf8(key, record[key])) > MOST_BYTES:
      raise Wrong(f"{key!r} has more than {MOST_BYTES:,} bytes")
  except UnicodeError as error:
    raise Wrong(error) from None
  return record[key]


def _data(path) -> list:
  """The articles."""
  try:
    with reading.open_bytes(path) as file:
      return _part(json.loads(file.read().decode("utf-8")), "data", list)
  except Wrong as error:
    raise UserError(f"{path}: {error}") from None
  # an error however on_bad_record is set: nobody can tell how much is lost
  except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
    raise UserError(f"{path}: not JSON ({error}); SQuAD's is needed") from error
