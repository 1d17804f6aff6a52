"""Reads sources that fit into memory, file by file: documents, tagged sentences, questions with
answers. Errors name file and line."""

import dataclasses
import functools
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from absl import logging

from train.common.errors import as_user_error, choose
from train.data import reading, tables
from train.data.bad_records import MAX_RECORD_BYTES, BadRecords
from train.data.source import PickledByFields, digest

SUFFIXES = {
  "documents": (".txt", ".md", ".jsonl"),
  "sentences": (".conll", ".conllu", ".bio", ".tsv"),
  "questions": (".json",),
}
EXTRA_NODE = re.compile(r"\d+[-.]\d+")  # id of a CoNLL-U multiword token or empty node
FEW_ARTICLES = 10  # a percentage of fewer articles is taken of their paragraphs


@dataclasses.dataclass(frozen=True)
class InMemory(PickledByFields):
  """Examples that are read at the first access; pickles as the reader's arguments."""

  read: Callable[..., Iterable[dict]]
  arguments: tuple
  fingerprint: str

  @functools.cached_property
  def _examples(self) -> list[dict]:
    return list(self.read(*self.arguments))

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> dict:
    return self._examples[index]


def _open(kind: str, reader, split, splits, on_bad_record, *arguments) -> InMemory:
  """Opens the files of `splits[split]`; `kind` stands for the reader in the fingerprint."""
  paths = reading.list_files(split, splits, SUFFIXES[kind])
  digests = [f"{reading.file_type(path)} {reading.file_digest(path)}" for path in paths]
  policy = [on_bad_record] if on_bad_record != "error" else []
  fingerprint = digest(kind, *arguments, *digests, *policy)
  return InMemory(_read_files, (reader, paths, on_bad_record, *arguments), fingerprint)


def _read_files(reader, paths, on_bad_record, *arguments):
  bad = BadRecords(on_bad_record)
  yield from itertools.chain.from_iterable(reader(path, *arguments, bad) for path in paths)
  bad.check_limit("data")


def _between(sequence, start, stop):
  """Returns the part of a sequence between two percentages."""
  return sequence[len(sequence) * start // 100 : len(sequence) * stop // 100]


# Documents


def open_text(
  split: str, /, splits: Mapping, unit: str = "file", on_bad_record: str = "error"
) -> InMemory:
  """Opens documents {"text"}: whole files, paragraphs (between blank lines) or lines.

  Each line of a .jsonl file is a document, its key "text". "PATH[:90%]" is a part of each file. A
  line that cannot be read is a bad record, also within a longer document.
  """
  choose(UNITS, unit, "data.unit")
  splits, start, stop = reading.parse_part(split, splits)
  return _open("documents", read_documents, split, splits, on_bad_record, unit, start, stop)


def read_documents(path: pathlib.Path, unit: str, start: int, stop: int, bad) -> list[dict]:
  """Reads a file's documents between two percentages, of its characters if it is one document."""
  if reading.file_type(path) == ".jsonl":
    table = tables.find_table(path, ("text",), None)
    rows = bad.drop_bad(path, tables.read_rows(table, ("text",), bad))
    texts = [text for (text,) in rows]
  else:
    most = 2**62 if unit == "file" else MAX_RECORD_BYTES  # a file may be one line, as text8 is
    lines = bad.drop_bad(path, reading.read_lines(path, bad, empty=True, most=most))
    texts = UNITS[unit]("\n".join(lines))
  if len(texts) == 1:
    return [{"text": _between(texts[0], start, stop)}]
  return [{"text": text} for text in _between(texts, start, stop)]


UNITS = {
  "file": lambda text: [text],
  "paragraph": lambda text: [part for part in re.split(r"\n\s*\n", text) if part.strip()],
  "line": lambda text: [line for line in text.split("\n") if line.strip()],
}


# Tagged sentences


def open_conll(
  split: str, /, splits: Mapping, word: int = 0, tag: int = -1, on_bad_record: str = "error"
) -> InMemory:
  """Opens sentences {"words", "tags"} of column files; CoNLL-U (.conllu) gives forms and UPOS. A
  sentence with a line that cannot be read is a bad record."""
  return _open("sentences", read_sentences, split, splits, on_bad_record, word, tag)


def read_sentences(path: pathlib.Path, word: int, tag: int, bad: BadRecords) -> Iterator[dict]:
  """Reads a file's sentences, which end at a line without text. In CoNLL-U, comments, multiword
  tokens (1-2) and empty nodes (1.1) are skipped."""
  return bad.drop_bad(path, _parse_sentences(path, word, tag, bad))


def _parse_sentences(path, word, tag, bad):
  conllu = reading.file_type(path) == ".conllu"
  word, tag = (1, 3) if conllu else (word, tag)
  rows = []  # (word, tag) of each line of the sentence, None for a bad line
  for number, line in enumerate(itertools.chain(reading.read_lines(path, bad), [""]), 1):
    if line is None:
      rows.append(None)
    elif not line.strip():
      if rows:
        yield None if None in rows else dict(zip(("words", "tags"), map(list, zip(*rows))))
      rows = []
    elif not line.startswith("-DOCSTART-") and not (conllu and line.startswith("#")):
      cells = line.split("\t") if "\t" in line else line.split()
      if conllu and EXTRA_NODE.fullmatch(cells[0]):
        continue
      row = [cells[i] for i in (word, tag) if -len(cells) <= i < len(cells)]
      if len(cells) < 2 or len(row) < 2 or not all(row) or (conllu and not cells[0].isdigit()):
        reason = f"columns {word} and {tag} must be a word and its tag: {line[:200]!r}; correct it"
        row = bad(path, f"line {number}", reason)
      rows.append(row)


# Questions with answers


def open_squad(split: str, /, splits: Mapping, on_bad_record: str = "error") -> InMemory:
  """Opens questions {"id", "question", "context", "answers"} of SQuAD's JSON, 1.1 or 2.0.
  "PATH[:90%]" is a part of each file's articles, or of its paragraphs if the articles are few."""
  splits, start, stop = reading.parse_part(split, splits)
  return _open("questions", read_questions, split, splits, on_bad_record, start, stop)


def read_questions(path: pathlib.Path, start: int, stop: int, bad: BadRecords) -> Iterator[dict]:
  """Reads a file's questions between two percentages of its articles, or of its paragraphs if there
  are fewer than FEW_ARTICLES articles.

  `answers` is a list of {"text", "answer_start"}, empty for a question without an answer. An answer
  that is not at its place in the context is left out and counted, with its question if it was the
  only one.
  """
  part = "" if (start, stop) == (0, 100) else f"[{start}%:{stop}%]"
  misplaced = []
  for question in bad.drop_bad(f"{path}{part}", _parse_questions(path, start, stop, bad)):
    answers, context = question["answers"], question["context"]
    right = [answer for answer in answers if _is_at(context, **answer)]
    if len(right) < len(answers):
      misplaced.append(question["id"])
    if right or not answers:
      yield question | {"answers": right}
  if misplaced:
    logging.warning(
      f"{path}: {len(misplaced)} questions have an answer that is not in its context and is left"
      f" out: {', '.join(misplaced[:5])}"
    )


def _parse_questions(path, start, stop, bad):
  """Yields the questions, and None for a part without SQuAD's shape."""
  articles = []
  for i, article in enumerate(_load_articles(path)):
    try:
      paragraphs = _part(article, "paragraphs", list)
      articles.append([(f"data[{i}].paragraphs[{j}]", part) for j, part in enumerate(paragraphs)])
    except ValueError as error:
      yield bad(path, f"data[{i}]", error)
  if len(articles) < FEW_ARTICLES:
    articles = [[paragraph] for paragraph in itertools.chain.from_iterable(articles)]
  for place, paragraph in itertools.chain.from_iterable(_between(articles, start, stop)):
    try:
      context, questions = _part(paragraph, "context", str), _part(paragraph, "qas", list)
    except ValueError as error:
      yield bad(path, place, error)
      continue
    for k, question in enumerate(questions):
      try:
        yield _parse_question(question) | {"context": context}
      except ValueError as error:
        yield bad(path, f"{place}.qas[{k}]", error)


def _parse_question(question):
  impossible = isinstance(question, dict) and question.get("is_impossible")
  answers = [
    {"text": _part(answer, "text", str), "answer_start": _part(answer, "answer_start", int)}
    for answer in ([] if impossible else _part(question, "answers", list))
  ]
  return {key: _part(question, key, str) for key in ("id", "question")} | {"answers": answers}


def _is_at(context, text, answer_start):
  return answer_start >= 0 and context.startswith(text, answer_start)


def _part(record, key, kind):
  """Returns `record[key]`; raises ValueError if it is missing, of another type or too long."""
  if not isinstance(record, dict) or not isinstance(record.get(key), kind):
    raise ValueError(f"SQuAD's JSON has a {kind.__name__} {key!r} here; correct it")
  if kind is str and len(reading.encode_utf8(key, record[key])) > MAX_RECORD_BYTES:
    raise ValueError(f"{key!r} has more than {MAX_RECORD_BYTES:,} bytes")
  return record[key]


def _load_articles(path) -> list:
  # an error under every policy: the size of the loss is unknown
  with as_user_error(f"{path}: not JSON in SQuAD's format"), reading.open_bytes(path) as file:
    content = json.loads(file.read().decode("utf-8-sig"))
  with as_user_error(str(path)):
    return _part(content, "data", list)
