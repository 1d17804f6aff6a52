"""Reads questions with answers in a text: SQuAD's JSON, 1.1 or 2.0, and the flat examples of
Hugging Face's data sets. Errors name file and place."""

import functools
import json
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from train.common.errors import as_user_error
from train.data import reading, stored
from train.data.bad_records import FEW, MAX_RECORD_BYTES, BadRecords
from train.data.json_stream import Document
from train.data.source import Source

SUFFIXES = (".json", ".jsonl")
FEW_ARTICLES = 10  # a percentage of fewer articles is taken of their paragraphs
NOWHERE = -1  # `answer_start` of an answer that has no place in its context
MOVED = "stand elsewhere in the context, once, and are taken from there"
UNPLACED = "are not in the context, or several times: they have no loss, yet count in scores"


class Some:
  """Counts texts and keeps the first few."""

  def __init__(self):
    self.count, self.first = 0, []

  def add(self, text: str) -> None:
    self.count += 1
    self.first += [text] * (len(self.first) < FEW)


class Paragraph(NamedTuple):
  """A record with a context, and its questions under the key "qas"."""

  place: str
  record: object
  is_flat: bool = False  # the record is a question itself


def open_squad(split: str, /, splits: Mapping, on_bad_record: str = "error") -> Source:
  """Opens questions {"id", "question", "context", "answers"}. "PATH[:90%]" is a part of each file's
  articles, or of its paragraphs if the articles are few.

  The split "train" has only questions that can be learned.
  """
  splits, start, stop = reading.parse_part(split, splits)
  paths = reading.list_files(split, splits, SUFFIXES)
  learnable = split == "train"
  reader = functools.partial(read_questions, start=start, stop=stop, learnable=learnable)
  key = ("questions", start, stop)
  return stored.open_files(reader, paths, key, on_bad_record, "context", (learnable,))


def read_questions(
  path: pathlib.Path, start: int, stop: int, bad: BadRecords, learnable: bool = True
) -> Iterator[dict]:
  """Reads a file's questions between two percentages of its articles, or of its paragraphs if there
  are fewer than FEW_ARTICLES articles.

  `answers` is a list of {"text", "answer_start"}, empty for a question without an answer, missing
  where the file gives none. An answer that is not at its place is moved to the only place where the
  context has it. If there is none, or several, its `answer_start` is NOWHERE, and it comes last.
  With `learnable` such answers are left out, and questions that have no other or lack the key,
  which are counted.
  """
  name, count = reading.name_part(path, start, stop), 0
  moved, unplaced, left_out = Some(), Some(), Some()
  for question in bad.drop_bad(name, _parse_questions(path, start, stop, bad)):
    count += 1
    given = question.get("answers", ())
    answers = [answer | {"answer_start": _find(question["context"], **answer)} for answer in given]
    known = [answer for answer in answers if answer["answer_start"] != NOWHERE]
    lost = [answer for answer in answers if answer["answer_start"] == NOWHERE]
    if any(a != b for a, b in zip(given, answers) if b not in lost):
      moved.add(question["id"])
    if lost:
      unplaced.add(question["id"])
    if learnable and ("answers" not in question or (lost and not known)):
      reason = f"no place in its context has {lost[0]['text']!r}" if lost else "it has no 'answers'"
      bad.rules |= set() if lost else {"no answers"}
      left_out.add(f"{path}, question {question['id']}: {reason}")
      continue
    yield question | {"answers": known if learnable else known + lost} if answers else question
  if moved.count:
    bad.rules.add("moved answers")
    bad.note(f"{name}: of {moved.count} questions, answers {MOVED}: {', '.join(moved.first)}")
  if unplaced.count and not learnable:
    bad.rules.add("answers without a place")
    first = ", ".join(unplaced.first)
    bad.note(f"{name}: of {unplaced.count} questions, answers {UNPLACED}: {first}")
  counts = {"records": left_out.count, "of": count, "first": left_out.first}
  bad.report(f"{name} (questions to learn from)", counts)


def _find(context: str, text: str, answer_start: int) -> int:
  """Returns the place of an answer in its context: the given one, or the only one, or NOWHERE."""
  if answer_start >= 0 and context.startswith(text, answer_start):
    return answer_start
  place = context.find(text) if text else NOWHERE
  return place if context.find(text, place + 1) == NOWHERE else NOWHERE


def _parse_questions(path, start, stop, bad):
  """Yields the questions, and None for a part without SQuAD's shape.

  The file is read twice: the first time for the errors outside of paragraphs, which come first, and
  for the number of articles.
  """
  counts = Counter()
  yield from (None for paragraph in _list_paragraphs(path, bad, counts) if paragraph is None)
  unit = "paragraphs" if counts["articles"] < FEW_ARTICLES else "articles"
  first, last = counts[unit] * start // 100, counts[unit] * stop // 100
  counts.clear()
  for paragraph in _list_paragraphs(path, BadRecords("skip"), counts):
    if paragraph is not None and first < counts[unit] <= last:
      yield from _parse_paragraph(path, *paragraph, bad)


def _list_paragraphs(path, bad, counts: Counter) -> Iterator[Paragraph | None]:
  """Yields the paragraphs of a file, which `counts` counts with their articles, and None for an
  article without SQuAD's shape.

  Flat examples that follow one another are of one article if they have the same title, and of one
  paragraph if they have the same context too: each is then yielded for itself.
  """
  title = context = None
  for entry in _read_records(path, bad):
    if entry is None:
      yield None
      continue
    place, record = entry
    try:
      parts = None if _is_flat(record) else _part(record, "paragraphs", list)
    except ValueError as error:
      yield bad(path, place, error)
      continue
    if parts is None:
      is_new = not counts["articles"] or record.get("title") != title
      counts["articles"] += is_new
      counts["paragraphs"] += is_new or record.get("context") != context
      title, context = record.get("title"), record.get("context")
      yield Paragraph(place, record, is_flat=True)
      continue
    counts["articles"] += 1
    context = object()  # unlike any context
    for i, part in enumerate(parts):
      counts["paragraphs"] += 1
      yield Paragraph(f"{place}.paragraphs[{i}]", part)


def _is_flat(record) -> bool:
  """Returns True for an example of Hugging Face's form: a question with its own context."""
  return isinstance(record, dict) and "question" in record and "paragraphs" not in record


def _parse_paragraph(path, place, record, is_flat, bad):
  try:
    context = _part(record, "context", str)
    asked = [] if is_flat else enumerate(_part(record, "qas", list))
    questions = [(f"{place}.qas[{i}]", question) for i, question in asked]
    questions += [(place, record)] * is_flat
  except ValueError as error:
    yield bad(path, place, error)
    return
  for place, question in questions:
    try:
      yield _parse_question(question, place) | {"context": context}
    except ValueError as error:
      yield bad(path, place, error)


def _parse_question(record, place):
  """Returns a question without its context; its id is its place if the record has none."""
  question = {"id": _parse_id(record, place), "question": _part(record, "question", str)}
  if _is_impossible(record):
    return question | {"answers": []}
  answers = record.get("answers")
  if answers is None:
    return question
  if isinstance(answers, dict):
    columns = [_part(answers, key, list) for key in ("text", "answer_start")]
    if len({*map(len, columns)}) > 1:
      raise ValueError("'text' and 'answer_start' of 'answers' have different lengths; correct it")
    answers = [dict(zip(("text", "answer_start"), pair)) for pair in zip(*columns)]
  elif not isinstance(answers, list):
    raise ValueError("SQuAD's JSON has a list 'answers' here; correct it")
  types = dict(text=str, answer_start=int)
  return question | {
    "answers": [{key: _part(answer, key, types[key]) for key in types} for answer in answers]
  }


def _parse_id(record, place) -> str:
  name = record.get("id") if isinstance(record, dict) else None
  if name is None:
    return place
  return str(name) if type(name) is int else _part(record, "id", str)


def _is_impossible(record) -> bool:
  value = record.get("is_impossible")
  if value is not None and not isinstance(value, bool):
    raise ValueError(f"'is_impossible' is {value!r}; write true or false without quotation marks")
  return bool(value)


def _part(record, key, kind):
  """Returns `record[key]`; raises ValueError if it is missing, of another type or too long."""
  value = record.get(key) if isinstance(record, dict) else None
  if not isinstance(value, kind) or isinstance(value, bool):
    raise ValueError(f"SQuAD's JSON has a {kind.__name__} {key!r} here; correct it")
  if kind is str and len(reading.encode_utf8(key, value)) > MAX_RECORD_BYTES:
    raise ValueError(f"{key!r} has more than {MAX_RECORD_BYTES:,} bytes")
  return value


def _read_records(path, bad) -> Iterator[tuple[str, object] | None]:
  """Yields a file's articles or flat examples with their places, None for a bad line."""
  if reading.file_type(path) == ".jsonl":
    yield from _read_lines(path, bad)
    return
  content, is_listed = None, False  # a document without a list; it has one
  # an error under every policy: the size of the loss is unknown
  with as_user_error(f"{path}: not JSON in SQuAD's format"), reading.open_bytes(path) as file:
    document = Document(file)
    if document.peek() == "[":
      for i, record in enumerate(document.items()):
        is_listed = True
        yield f"[{i}]", record
    elif document.peek() == "{":
      content = {}
      for key in document.members():
        if key == "data" and document.peek() == "[":
          is_listed = True
          yield from ((f"data[{i}]", record) for i, record in enumerate(document.items()))
        else:
          content[key] = document.value()
    else:
      document.value()
    is_more = bool(document.peek())
    if is_more and is_listed:
      raise document.error("Extra data")
  if is_more:
    yield from _read_lines(path, bad)
  elif _is_flat(content):
    yield "line 1", content
  elif not is_listed:
    with as_user_error(str(path)):
      _part(content, "data", list)


def _read_lines(path, bad):
  for number, text in enumerate(reading.read_lines(path, bad), 1):
    place = f"line {number}"
    try:
      if text is None or text.strip():
        yield None if text is None else (place, json.loads(text))
    except (ValueError, RecursionError) as error:
      yield bad(path, place, f"not JSON ({error}); correct it")
