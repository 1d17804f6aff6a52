"""Sources read whole into memory: documents, tagged sentences, questions with answers.

A source of this kind is the files of a split and a reader, a function from one file to its
examples that names file and line where it cannot be read.
"""

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import logging

from train import json_files
from train.data import items, reading
from train.errors import NoSplit, UserError, choose, did_you_mean

DOCUMENTS = (".txt", ".md", ".jsonl")
ROW_OF_OTHERS = re.compile(r"\d+[-.]\d+")  # CoNLL-U's multiword tokens and empty nodes
PART = re.compile(r"(?P<path>.+)\[((?P<start>\d+)%)?:((?P<stop>\d+)%)?\]")


@dataclasses.dataclass(frozen=True)
class InMemory:
  """The examples of some files, read when the first is asked for; pickles as their names."""

  paths: tuple  # each a file, or what else the reader reads at once
  reader: Callable  # path, *arguments -> examples
  arguments: tuple
  fingerprint: str

  @functools.cached_property
  def _examples(self) -> list[dict]:
    return [one for path in self.paths for one in self.reader(path, *self.arguments)]

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> dict:
    return self._examples[index]

  def _getitems(self, indices: Sequence[int]) -> list[dict]:
    return [self._examples[index] for index in indices]

  def __reduce__(self):
    return InMemory, (self.paths, self.reader, self.arguments, self.fingerprint)


def of_split(split: str, splits: Mapping, suffixes: Sequence[str], reader, *arguments) -> InMemory:
  """The examples of `splits[split]`: a path, glob or folder, or several. UserError as `reading`."""
  paths = files(split, splits, suffixes)
  digests = [f"{reading.kind(path)} {reading.digest_of(path)}" for path in paths]
  return InMemory(
    tuple(paths), reader, arguments, items.digest(reader.__name__, *arguments, *digests)
  )


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


def open_text(split: str, /, splits: Mapping, unit: str = "file") -> InMemory:
  """Documents {"text"}: whole files, their paragraphs (between blank lines) or their lines; each
  line of .jsonl is one, its key "text". "PATH[:90%]" is a part of each file."""
  choose(UNITS, unit, "data.unit")
  splits, start, stop = part_of(split, splits)
  return of_split(split, splits, DOCUMENTS, documents, unit, start, stop)


def documents(path: pathlib.Path, unit: str, start: int, stop: int) -> list[dict]:
  """The documents of a file between two percentages: of its characters if it is one document."""
  if reading.kind(path) == ".jsonl":
    texts = [row[0] for row in reading.READERS[".jsonl"]((path,), ("text",))]
  else:
    texts = UNITS[unit]("\n".join(reading.read_lines(path, empty=True)))
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


def open_conll(split: str, /, splits: Mapping, word: int = 0, tag: int = -1) -> InMemory:
  """Sentences {"words", "tags"} of column files; of CoNLL-U (.conllu) forms and UPOS."""
  return of_split(split, splits, (".conll", ".conllu", ".bio", ".tsv"), sentences, word, tag)


def sentences(path: pathlib.Path, word: int, tag: int) -> Iterator[dict]:
  """Sentences end at a line without text. In CoNLL-U, comments, multiword tokens (1-2) and empty
  nodes (1.1) are skipped."""
  universal = reading.kind(path) == ".conllu"
  word, tag = (1, 3) if universal else (word, tag)
  words, tags = [], []
  for number, line in enumerate(reading.read_lines(path), 1):
    if not line.strip():
      if words:
        yield {"words": words, "tags": tags}
      words, tags = [], []
      continue
    if line.startswith("-DOCSTART-") or (universal and line.startswith("#")):
      continue
    cells = line.split("\t") if "\t" in line else line.split()
    if universal and ROW_OF_OTHERS.fullmatch(cells[0]):
      continue
    try:
      found = cells[word], cells[tag]
    except IndexError:
      found = ("", "")
    if len(cells) < 2 or not all(found) or (universal and not cells[0].isdigit()):
      raise UserError(
        f"{path}, line {number}: columns {word} and {tag} must be a word and its tag: {line!r}"
      )
    words.append(found[0])
    tags.append(found[1])
  if words:
    yield {"words": words, "tags": tags}


FEW = 10  # articles: a percentage of fewer says little


def open_squad(split: str, /, splits: Mapping) -> InMemory:
  """Questions {"id", "question", "context", "answers"} of SQuAD's JSON, 1.1 or 2.0. "PATH[:90%]" is
  a part of each file's articles, or of its paragraphs where articles are few."""
  splits, start, stop = part_of(split, splits)
  return of_split(split, splits, (".json",), questions, start, stop)


def questions(path: pathlib.Path, start: int, stop: int) -> Iterator[dict]:
  """answers: [{"text", "answer_start"}], none for a question without one. An answer that is not
  where its context says is left out, with its question if it was the only one, and counted. The
  articles (of fewer than FEW: the paragraphs) are those between two percentages."""
  wrong = []
  for context, where, qa in _asked(path, start, stop):
    name, question = _part(where, qa, "id", str), _part(where, qa, "question", str)
    answers = [] if qa.get("is_impossible") else _part(where, qa, "answers", list)
    found = [
      {"text": _part(where, a, "text", str), "answer_start": _part(where, a, "answer_start", int)}
      for a in answers
    ]
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


def _asked(path, start, stop):
  """Context, place in the file and question of each."""
  articles = []
  for i, article in enumerate(_part(path, _json(path), "data", list)):
    of = f"{path}, data[{i}]"
    paragraphs = _part(of, article, "paragraphs", list)
    articles.append([(f"{of}.paragraphs[{j}]", one) for j, one in enumerate(paragraphs)])
  if len(articles) < FEW:
    articles = [[paragraph] for paragraph in itertools.chain.from_iterable(articles)]
  for where, paragraph in itertools.chain.from_iterable(_between(articles, start, stop)):
    context = _part(where, paragraph, "context", str)
    for k, qa in enumerate(_part(where, paragraph, "qas", list)):
      yield context, f"{where}.qas[{k}]", qa


def _is_at(context, text, answer_start):
  return answer_start >= 0 and context.startswith(text, answer_start)


def _part(where, record, key, kind):
  if not isinstance(record, dict) or not isinstance(record.get(key), kind):
    raise UserError(f"{where}: SQuAD's JSON has a {kind.__name__} {key!r} here")
  return record[key]


def _json(path):
  return json_files.parsed("\n".join(reading.read_lines(path)), path)
