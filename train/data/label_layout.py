"""Lays classes, tags and answers along the tokens of an encoder's rows (labelled.LabelLayout)."""

import dataclasses
import types
from collections.abc import Mapping

from train.common.decimals import parse_decimal
from train.common.errors import UserError
from train.data.labelled import Encoded, LabelLayout


def parse_number(label: str) -> float:
  """Returns a regression's label; raises UserError if it is no finite decimal number."""
  if (number := parse_decimal(label)) is None:
    raise UserError(f"a label is {label!r}: task.regression needs numbers such as -0.5")
  return number


@dataclasses.dataclass(frozen=True)
class Classes(LabelLayout):
  """Lays out one or two texts, their class (without `labels`, a number) on the first token.

  A label that is missing, or is not in `labels`, has weight 0.
  """

  fields: tuple[str, ...]  # one text, or two
  labels: tuple[str, ...] | None

  @property
  def kind(self) -> tuple[str, ...]:
    return ("classes", *self.fields)

  @property
  def extras(self) -> Mapping[str, str]:
    labels = "float32" if self.labels is None else "int32"
    has_types = self.tokenizer.roles.types and len(self.fields) > 1
    types = {"source_types": "int32"} if has_types else {}
    return {"labels": labels, "weights": "float32", **types}

  def encode(self, examples):
    roles, encode = self.tokenizer.roles, self.tokenizer.encode_batch
    *first, bodies = (encode([example[field] for example in examples]) for field in self.fields)
    heads = [[*roles.before] for _ in examples]
    for texts in first:
      heads = [[*head, *ids, *roles.between] for head, ids in zip(heads, texts)]
    return list(map(Encoded, heads, bodies, map(self.label_of, examples)))

  def label_of(self, example):
    """Returns an example's label, None without one."""
    return example.get("label")

  def item(self, encoded, window):
    rows, label = self.blank_item(encoded, window), encoded.label
    if label is not None and (self.labels is None or label in self.labels):
      number = parse_number(label) if self.labels is None else self.labels.index(label)
      rows["labels"][0], rows["weights"][0] = number, 1
    return rows


@dataclasses.dataclass(frozen=True)
class Tags(LabelLayout):
  """Lays out words, the tag of each on its first token."""

  labels: tuple[str, ...]

  kind = ("tags",)
  extras = types.MappingProxyType({"labels": "int32", "weights": "float32"})

  def encode(self, examples):
    """Encodes the examples; a label is the words' places in the body and the numbers of their tags,
    None for an unknown tag. Raises UserError if the tags are more or fewer than the words.
    """
    words = [word for example in examples for word in example["words"]]
    ids = iter(self.tokenizer.encode_words(words))
    numbers, encoded = {label: number for number, label in enumerate(self.labels)}, []
    for example in examples:
      body, places = [], []
      for _ in example["words"]:
        pieces = next(ids)
        places.append(len(body) if pieces else -1)  # -1: a word without tokens
        body += pieces
      tags = [numbers.get(tag) for tag in example.get("tags", [None] * len(places))]
      if len(tags) != len(places):
        raise UserError(
          f"{len(places)} words have {len(tags)} tags, and each needs one: {example['words']!r}"
        )
      encoded.append(Encoded([*self.tokenizer.roles.before], body, (places, tags)))
    return encoded

  def item(self, encoded, window):
    rows = self.blank_item(encoded, window)
    for place, tag in zip(*encoded.label):
      if tag is not None and window.own_start <= place < window.own_stop:
        i = len(encoded.head) + place - window.start
        rows["labels"][i], rows["weights"][i] = tag, 1
    return rows


class Answers(LabelLayout):
  """Lays out a question, its context in windows, and marks on the answer's first and last token.

  In a window without the answer the marks are on the row's first token.
  """

  kind = ("answers",)

  @property
  def extras(self) -> Mapping[str, str]:
    types = {"source_types": "int32"} if self.tokenizer.roles.types else {}
    marks = dict.fromkeys(("starts", "ends", "answerable"), "int32")
    return {**marks, "weights": "float32", **types}

  def encode(self, examples):
    """Encodes the examples. A label has the characters (from, to) of each token of the context, the
    indices of the answer's first and last token, or None without an answer, and False if the answer
    is unknown or has no place in the context."""
    heads = self.tokenizer.encode_batch([example["question"].strip() for example in examples])
    bodies = self.tokenizer.encode_offsets([example["context"] for example in examples])
    encoded, roles = [], self.tokenizer.roles
    for example, head, (body, characters) in zip(examples, heads, bodies):
      span, answers = None, example.get("answers")
      known = answers is not None and all(x["answer_start"] >= 0 for x in answers[:1])
      for answer in answers[:1] if known else ():
        text = answer["text"].lstrip()
        first = answer["answer_start"] + len(answer["text"]) - len(text)
        last = first + len(text.rstrip())
        inside = [i for i, (a, b) in enumerate(characters) if a < last and b > first]
        span = (inside[0], inside[-1]) if inside and last > first else None
      label = (characters, span, known)
      encoded.append(Encoded([*roles.before, *head, *roles.between], body, label))
    return encoded

  def item(self, encoded, window):
    rows, (_, span, known) = self.blank_item(encoded, window), encoded.label
    end = len(rows["answerable"]) - len(self.tokenizer.roles.behind)
    rows["answerable"][0] = rows["answerable"][len(encoded.head) : end] = 1
    if not known:
      return rows
    rows["weights"][0] = 1
    first = last = 0
    if span is not None and window.start <= span[0] and span[1] < window.stop:
      first, last = (len(encoded.head) + place - window.start for place in span)
    rows["starts"][first] = rows["ends"][last] = 1
    return rows
