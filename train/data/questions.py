"""Reads questions with answers in a text: SQuAD's JSON, 1.1 or 2.0, and the flat examples of
Hugging Face's data sets. Errors name file and place."""

import functools
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from train.common.errors import as_user_error
from train.data import reading, texts
from train.data.bad_records import FEW, MAX_RECORD_BYTES, BadRecords, log_once, report

SUFFIXES = (".json", ".jsonl")
FEW_ARTICLES = 10  # a percentage of fewer articles is taken of their paragraphs
NOWHERE = -1  # `answer_start` of an answer that has no place in its context
MOVED = "stand elsewhere in the context, once, and are taken from there"
UNPLACED = "are not in the context, or several times: they have no loss, yet count in scores"
EXTRA = "Extra data"  # the JSON parser's message for a second value: the file is JSON lines


class Paragraph(NamedTuple):
  """A record with a context, and its questions with their places; None: under its key "qas"."""

  place: str
  record: object
  questions: list[tuple[str, object]] | None = None


def open_squad(split: str, /, splits: Mapping, on_bad_record: str = "error") -> texts.InMemory:
  """Opens questions {"id", "question", "context", "answers"}. "PATH[:90%]" is a part of each file's
  articles, or of its paragraphs if the articles are few.

  The split "train" has only questions that can be learned.
  """
  splits, start, stop = reading.parse_part(split, splits)
  paths = reading.list_files(split, splits, SUFFIXES)
  reader = functools.partial(read_questions, start=start, stop=stop, learnable=split == "train")
  return texts.open_and_read(reader, paths, on_bad_record, ("questions", start, stop))


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
  name, count, moved, unplaced, left_out = reading.name_part(path, start, stop), 0, [], [], []
  for question in bad.drop_bad(name, _parse_questions(path, start, stop, bad)):
    count += 1
    given = question.get("answers", ())
    answers = [answer | {"answer_start": _find(question["context"], **answer)} for answer in given]
    known = [answer for answer in answers if answer["answer_start"] != NOWHERE]
    lost = [answer for answer in answers if answer["answer_start"] == NOWHERE]
    if any(a != b for a, b in zip(given, answers) if b not in lost):
      moved.append(question["id"])
    if lost:
      unplaced.append(question["id"])
    if learnable and ("answers" not in question or (lost and not known)):
      reason = f"no place in its context has {lost[0]['text']!r}" if lost else "it has no 'answers'"
      bad.rules |= set() if lost else {"no answers"}
      left_out.append(f"{path}, question {question['id']}: {reason}")
      continue
    yield question | {"answers": known if learnable else known + lost} if answers else question
  if moved:
    bad.rules.add("moved answers")
    log_once(f"{name}: of {len(moved)} questions, answers {MOVED}: {', '.join(moved[:FEW])}")
  if unplaced and not learnable:
    bad.rules.add("answers without a place")
    log_once(
      f"{name}: of {len(unplaced)} questions, answers {UNPLACED}: {', '.join(unplaced[:FEW])}"
    )
  counts = {"records": len(left_out), "of": count, "first": left_out[:FEW]}
  report(f"{name} (questions to learn from)", counts)


def _find(context: str, text: str, answer_start: int) -> int:
  """Returns the place of an answer in its context: the given one, or the only one, or NOWHERE."""
  if answer_start >= 0 and context.startswith(text, answer_start):
    return answer_start
  place = context.find(text) if text else NOWHERE
  return place if context.find(text, place + 1) == NOWHERE else NOWHERE


def _parse_questions(path, start, stop, bad):
  """Yields the questions, and None for a part without SQuAD's shape."""
  articles, title = [], None
  for entry in _read_records(path, bad):
    if entry is None:
      yield None
      continue
    place, record = entry
    try:
      if not _is_flat(record):
        parts = enumerate(_part(record, "paragraphs", list))
        articles.append([Paragraph(f"{place}.paragraphs[{i}]", part) for i, part in parts])
        continue
    except ValueError as error:
      yield bad(path, place, error)
      continue
    if not articles or record.get("title") != title:
      articles.append([])
    title = record.get("title")
    paragraphs = articles[-1]
    if not paragraphs or paragraphs[-1].record.get("context") != record.get("context"):
      paragraphs.append(Paragraph(place, record, []))
    paragraphs[-1].questions.append((place, record))
  if len(articles) < FEW_ARTICLES:
    articles = [[paragraph] for paragraph in itertools.chain.from_iterable(articles)]
  for paragraph in itertools.chain.from_iterable(texts.between(articles, start, stop)):
    yield from _parse_paragraph(path, *paragraph, bad)


def _is_flat(record) -> bool:
  """Returns True for an example of Hugging Face's form: a question with its own context."""
  return isinstance(record, dict) and "question" in record and "paragraphs" not in record


def _parse_paragraph(path, place, record, questions, bad):
  try:
    context = _part(record, "context", str)
    if questions is None:
      asked = enumerate(_part(record, "qas", list))
      questions = [(f"{place}.qas[{i}]", question) for i, question in asked]
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
  # an error under every policy: the size of the loss is unknown
  with as_user_error(f"{path}: not JSON in SQuAD's format"), reading.open_bytes(path) as file:
    text = file.read().decode("utf-8-sig")
    try:
      content = json.loads(text)
    except json.JSONDecodeError as error:
      if error.msg != EXTRA:
        raise
      content = None
  if content is None and text.strip() != "null":
    yield from _read_lines(path, bad)
  elif isinstance(content, list) and content:
    yield from ((f"[{i}]", record) for i, record in enumerate(content))
  elif _is_flat(content):
    yield "line 1", content
  else:
    with as_user_error(str(path)):
      records = _part(content, "data", list)
    yield from ((f"data[{i}]", record) for i, record in enumerate(records))


def _read_lines(path, bad):
  for number, text in enumerate(reading.read_lines(path, bad), 1):
    place = f"line {number}"
    try:
      if text is None or text.strip():
        yield None if text is None else (place, json.loads(text))
    except (ValueError, RecursionError) as error:
      yield bad(path, place, f"not JSON ({error}); correct it")
