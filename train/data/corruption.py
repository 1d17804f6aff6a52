"""What pre-training does to a text: masks, spans, shuffles. Numpy, and a function of the generator.

A `Corruption` turns the ids of a window into (source, target), the pair that an encoder-decoder
learns from; `mask` turns them into what an encoder reads and the labels of what it cannot see.
Names are those of Raffel et al. 2020 (T5), tables 3 to 7.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from train.common.errors import UserError, choose


@dataclasses.dataclass(frozen=True)
class Corruption:
  """A window's ids as source and target.

  style:
    spans     spans of mean length `mean_span` become a sentinel each; the target is each sentinel
              with what it stands for (T5's own objective)
    iid       the same with each token chosen by itself; neighbours share a sentinel (its baseline)
    drop      the chosen tokens are left out and the target is what they were, one after another
    mask      each chosen token becomes <mask>; the target is the whole text (MASS-style)
    bert      the same with BERT's 80% <mask>, 10% random, 10% as they were (BERT-style)
    deshuffle the source is the text in random order, the target the text
    prefix    the source is the text up to a random place, the target the rest (prefix LM)
  """

  style: str
  rate: float = 0.15  # share of tokens that are chosen
  mean_span: float = 3.0
  mask: int = 0  # id of <mask>
  sentinels: Sequence[int] = ()  # their ids, in order
  words: np.ndarray = ()  # ids of which random tokens are drawn

  def __post_init__(self):
    choose(STYLES, self.style, "task.style")
    check_rate(self.rate)
    if self.mean_span < 1:
      raise UserError(f"task.mean_span is {self.mean_span}: a span has at least 1 token")

  def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of a window of at least 2 tokens, without eos."""
    return STYLES[self.style](self, np.asarray(ids), rng)

  def room(self, length: int) -> tuple[int, int]:
    """The most tokens that source and target of a window can have, without eos."""
    noise = number_chosen(length, self.rate)
    if self.style == "spans":
      spans = self.number_of_spans(length)
      return length - noise + spans, noise + spans
    if self.style == "iid":
      spans = min(noise, length - noise + 1)
      return length - noise + spans, noise + spans
    if self.style == "drop":
      return length - noise, noise
    if self.style == "prefix":
      return length - 1, length - 1
    return length, length

  def number_of_spans(self, length: int) -> int:
    """How many spans the chosen tokens of a window come in."""
    noise = number_chosen(length, self.rate)
    return max(1, min(round(noise / self.mean_span), noise, length - noise))


def check_rate(rate: float) -> None:
  """UserError for a share of tokens to choose that is none."""
  if not 0 < rate < 1:
    raise UserError(f"task.rate is {rate}: the share of tokens to hide is between 0 and 1")


def number_chosen(length: int, rate: float) -> int:
  """How many of `length` tokens are hidden: at least one, and at least one stays."""
  return min(max(round(length * rate), 1), length - 1)


def _spans(self, ids, rng):
  """Random lengths for the spans and for what lies between them; a window begins with text."""
  noise, spans = number_chosen(len(ids), self.rate), self.number_of_spans(len(ids))
  hidden = _parts(noise, spans, rng)
  shown = _parts(len(ids) - noise, spans, rng)
  chosen = np.repeat(np.tile([False, True], spans), np.stack([shown, hidden], 1).ravel())
  return _with_sentinels(self, ids, chosen)


def _parts(total, count, rng):
  """`count` random whole numbers from 1 on that add up to `total`."""
  cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
  return np.diff(np.concatenate([[0], cuts, [total]]))


def _iid(self, ids, rng):
  return _with_sentinels(self, ids, _choose(ids, self.rate, rng))


def _choose(ids, rate, rng):
  chosen = np.zeros(len(ids), bool)
  chosen[rng.choice(len(ids), number_chosen(len(ids), rate), replace=False)] = True
  return chosen


def _with_sentinels(self, ids, chosen):
  first = chosen & ~np.concatenate([[False], chosen[:-1]])
  if first.sum() > len(self.sentinels):
    raise UserError(
      f"a window of {len(ids)} tokens has {first.sum()} spans to hide, but the vocabulary has"
      f" {len(self.sentinels)} sentinels: train it with more (tokenizer.sentinels), or hide less"
    )
  sentinel = np.asarray(self.sentinels, ids.dtype)[np.cumsum(first)[first] - 1]
  source = ids.copy()
  source[first] = sentinel
  target = np.insert(ids[chosen], np.flatnonzero(first[chosen]), sentinel)
  return source[~chosen | first], target


def _drop(self, ids, rng):
  chosen = _choose(ids, self.rate, rng)
  return ids[~chosen], ids[chosen]


def _mask(self, ids, rng):
  return np.where(_choose(ids, self.rate, rng), self.mask, ids), ids


def _bert(self, ids, rng):
  return hide(ids, _choose(ids, self.rate, rng), self.mask, self.words, rng), ids


def _deshuffle(self, ids, rng):
  return rng.permutation(ids), ids


def _prefix(self, ids, rng):
  place = rng.integers(1, len(ids))
  return ids[:place], ids[place:]


STYLES = {
  "spans": _spans,
  "iid": _iid,
  "drop": _drop,
  "mask": _mask,
  "bert": _bert,
  "deshuffle": _deshuffle,
  "prefix": _prefix,
}


def hide(ids, chosen, mask: int, words: np.ndarray, rng) -> np.ndarray:
  """The chosen tokens as Devlin et al. 2019 hide them: 80% mask, 10% a random word, 10% as is."""
  how = rng.random(len(ids))
  drawn = np.asarray(words)[rng.integers(len(words), size=len(ids))]
  hidden = np.where(how < 0.8, mask, np.where(how < 0.9, drawn, ids))
  return np.where(chosen, hidden, ids)


def choose_words(starts: np.ndarray, rate: float, rng) -> np.ndarray:
  """Whole words to hide (a bool per token), together at most `rate` of the tokens.

  `starts` says which tokens begin a word. Words are taken in random order; one that would pass the
  limit is left out. With every token a word this is BERT's own choice.
  """
  limit = int(len(starts) * rate)
  word = np.cumsum(starts)
  word -= word[0]  # what stands before the first start is a word too
  sizes = np.bincount(word)
  chosen, used = np.zeros(len(sizes), bool), 0
  for number in rng.permutation(len(sizes)):
    if used + sizes[number] <= limit:
      chosen[number] = True
      used += sizes[number]
      if used == limit:
        break
  return chosen[word]
