"""Lays classes, tags and answers along the tokens of an encoder's rows (labelled.LabelLayout)."""

import dataclasses
import types
from collections.abc import Mapping, Sequence

import numpy as np

from train.common.errors import UserError
from train.data.labelled import Encoded, Window
from train.data.source import digest
from train.data.tokenizer import Tokenizer


def _zeros(encoded: Encoded, window: Window, dtype) -> np.ndarray:
  """Returns zeros for head, window and eos."""
  return np.zeros(len(encoded.head) + window.stop - window.start + 1, dtype)


def _token_types(encoded: Encoded, window: Window) -> np.ndarray:
  """Returns 0 for the head's tokens and 1 for those after it."""
  types = _zeros(encoded, window, np.int32)
  types[len(encoded.head) :] = 1
  return types


def _number(labels: Sequence[str]) -> dict[str, int]:
  return {label: number for number, label in enumerate(labels)}


def parse_number(label: str) -> float:
  """Returns a regression's label; raises UserError if it is no number."""
  try:
    return float(label)
  except ValueError:
    raise UserError(f"a label is {label!r}: task.regression needs numbers") from None


@dataclasses.dataclass(frozen=True)
class Classes:
  """Lays out one or two texts, their class (without `labels`, a number) on the first token.

  A missing label, and one that is not in `labels`, has weight 0.
  """

  tokenizer: Tokenizer
  fields: tuple[str, ...]  # one text, or two
  labels: tuple[str, ...] | None

  @property
  def fingerprint(self) -> str:
    return digest(self.tokenizer.fingerprint, "classes", *self.fields)

  @property
  def extras(self) -> Mapping[str, str]:
    labels = "float32" if self.labels is None else "int32"
    types = {"source_types": "int32"} if self._has_types else {}
    return {"labels": labels, "weights": "float32", **types}

  @property
  def _has_types(self) -> bool:
    return self.tokenizer.roles.types and len(self.fields) > 1

  def encode(self, examples):
    texts = [
      self.tokenizer.encode_batch([example[field] for example in examples]) for field in self.fields
    ]
    roles = self.tokenizer.roles
    heads = [[*roles.first] for _ in examples]
    if len(texts) > 1:
      heads = [[*head, *ids, *roles.between] for head, ids in zip(heads, texts[0])]
    return [
      Encoded(head, body, example.get("label"))
      for head, body, example in zip(heads, texts[-1], examples)
    ]

  def item(self, encoded, window):
    labels = _zeros(encoded, window, self.extras["labels"])
    weights = _zeros(encoded, window, np.float32)
    if self.labels is None:
      value = None if encoded.label is None else parse_number(encoded.label)
    else:
      value = _number(self.labels).get(encoded.label)
    if value is not None:
      labels[0], weights[0] = value, 1
    types = {"source_types": _token_types(encoded, window)} if self._has_types else {}
    return {"labels": labels, "weights": weights, **types}


@dataclasses.dataclass(frozen=True)
class Tags:
  """Words with their tags, each on its word's first token."""

  tokenizer: Tokenizer
  labels: tuple[str, ...]

  extras = types.MappingProxyType({"labels": "int32", "weights": "float32"})

  @property
  def fingerprint(self) -> str:
    return digest(self.tokenizer.fingerprint, "tags")

  def encode(self, examples):
    """Encodes the examples; a label is the words' places in the body and the numbers of their tags,
    None for an unknown tag. Raises UserError if the tags are more or fewer than the words.
    """
    words = [word for example in examples for word in example["words"]]
    ids = iter(self.tokenizer.encode_words(words))
    numbers, encoded = _number(self.labels), []
    for example in examples:
      body, places = [], []
      for _ in example["words"]:
        pieces = next(ids)
        places.append(len(body) if pieces else -1)  # -1: a word without tokens
        body += pieces
      tags = [None] * len(places)
      if "tags" in example:
        tags = [numbers.get(tag) for tag in example["tags"]]
      if len(tags) != len(places):
        raise UserError(
          f"{len(places)} words have {len(tags)} tags, and each needs one: {example['words']!r}"
        )
      encoded.append(Encoded([*self.tokenizer.roles.first], body, (places, tags)))
    return encoded

  def item(self, encoded, window):
    labels = _zeros(encoded, window, np.int32)
    weights = _zeros(encoded, window, np.float32)
    for place, tag in zip(*encoded.label):
      if tag is not None and window.own_start <= place < window.own_stop:
        i = len(encoded.head) + place - window.start
        labels[i], weights[i] = tag, 1
    return {"labels": labels, "weights": weights}


@dataclasses.dataclass(frozen=True)
class Answers:
  """A question, its context in windows, and marks on the answer's first and last token.

  In a window without the answer the marks are on the row's first token.
  """

  tokenizer: Tokenizer

  @property
  def extras(self) -> Mapping[str, str]:
    types = {"source_types": "int32"} if self.tokenizer.roles.types else {}
    marks = dict.fromkeys(("starts", "ends", "answerable"), "int32")
    return {**marks, "weights": "float32", **types}

  @property
  def fingerprint(self) -> str:
    return digest(self.tokenizer.fingerprint, "answers")

  def encode(self, examples):
    """Encodes the examples; a label is the characters (from, to) of the body's tokens, and the
    answer's first and last place in the body, None without an answer."""
    heads = self.tokenizer.encode_batch([example["question"].strip() for example in examples])
    bodies = self.tokenizer.encode_offsets([example["context"] for example in examples])
    encoded, roles = [], self.tokenizer.roles
    for example, head, (body, characters) in zip(examples, heads, bodies):
      span = None
      for answer in example.get("answers", ())[:1]:
        text = answer["text"].lstrip()
        first = answer["answer_start"] + len(answer["text"]) - len(text)
        last = first + len(text.rstrip())
        inside = [i for i, (a, b) in enumerate(characters) if a < last and b > first]
        span = (inside[0], inside[-1]) if inside and last > first else None
      encoded.append(Encoded([*roles.first, *head, *roles.between], body, (characters, span)))
    return encoded

  def item(self, encoded, window):
    rows = {key: _zeros(encoded, window, dtype) for key, dtype in self.extras.items()}
    if "source_types" in rows:
      rows["source_types"] = _token_types(encoded, window)
    rows["weights"][0] = 1
    rows["answerable"][0] = 1
    rows["answerable"][len(encoded.head) : -1] = 1
    _, span = encoded.label
    first = last = 0
    if span is not None and window.start <= span[0] and span[1] < window.stop:
      first, last = (len(encoded.head) + place - window.start for place in span)
    rows["starts"][first] = rows["ends"][last] = 1
    return rows
