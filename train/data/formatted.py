"""Examples of any source as text, by patterns: how a text-to-text model reads them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from train.common.errors import UserError, did_you_mean
from train.data.source import Source, digest, read_many


@dataclasses.dataclass(frozen=True)
class Formatted:
  """The examples of another source as text: `patterns` are name -> "question: {question}".

  A list is joined by blanks; of `answers` it is the first one's text, nothing without one.
  """

  of: Source
  patterns: Mapping[str, str]

  @functools.cached_property
  def fingerprint(self) -> str:
    return digest(self.of.fingerprint, *sorted(self.patterns.items()))

  def __len__(self) -> int:
    return len(self.of)

  def __getitem__(self, index: int) -> dict:
    return self._getitems([index])[0]

  def _getitems(self, indices: Sequence[int]) -> list[dict]:
    return [self._formatted(example) for example in read_many(self.of, indices)]

  def _formatted(self, example) -> dict:
    words = {name: _as_text(value) for name, value in example.items()}
    golds = {"answers": example["answers"]} if "answers" in example else {}
    try:
      return {name: pattern.format_map(words) for name, pattern in self.patterns.items()} | golds
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
      raise UserError(
        f"data: a pattern asks for {error}; the examples have {', '.join(words)}"
        + did_you_mean(str(error).strip("'"), words)
      ) from None


def _as_text(value) -> str:
  if isinstance(value, list):
    texts = [one["text"] if isinstance(one, dict) else one for one in value]
    return texts[0] if value and isinstance(value[0], dict) else " ".join(texts)
  return value
