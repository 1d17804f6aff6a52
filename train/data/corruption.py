"""Corrupts texts for pre-training (masks, spans, shuffles) as a function of numpy's generator.

A `Corruption` turns the ids of a window into (source, target), an encoder-decoder's training pair;
`hide` masks tokens of an encoder's input. The styles are named after Raffel et al. 2020 (T5),
tables 3 to 7, but for that of Tay et al. 2022 (UL2), section 3.1.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from train.common.errors import UserError, choose

STYLES = {
  "spans": "a sentinel replaces each span of mean length `mean_span`; the target is each sentinel"
  " with the tokens of its span (T5's own objective)",
  "iid": "the same with each token chosen by itself; neighbours share a sentinel (T5's baseline)",
  "drop": "the chosen tokens are removed; the target is these tokens",
  "mask": "<mask> replaces each chosen token; the target is the whole text (MASS-style)",
  "bert": "the same with BERT's 80% <mask>, 10% random, 10% unchanged (BERT-style)",
  "deshuffle": "the source is the text in random order, the target the text",
  "prefix": "the source is the text up to a random place, the target the rest (prefix LM)",
  "suffix": "the same with a target of `rate` of the tokens on average (the S-denoiser of UL2)",
}


@dataclasses.dataclass(frozen=True)
class Corruption:
  """A corruption of windows into pairs of source and target, in one of STYLES."""

  style: str
  rate: float = 0.15  # share of tokens that are chosen
  mean_span: float = 3.0
  mask: int = 0  # id of <mask>
  sentinels: Sequence[int] = ()  # their ids, in order
  words: np.ndarray = ()  # ids from which random tokens are drawn

  def __post_init__(self):
    choose(STYLES, self.style, "task.style")
    check_rate(self.rate)
    if self.mean_span < 1:
      raise UserError(f"task.mean_span is {self.mean_span}: a span has at least 1 token")

  def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns source and target of a window of at least 2 tokens, without eos."""
    ids = np.asarray(ids)
    if self.style == "deshuffle":
      return rng.permutation(ids), ids
    if self.style == "prefix":
      place = rng.integers(1, len(ids))
      return ids[:place], ids[place:]
    if self.style == "suffix":
      place = len(ids) - rng.integers(1, self._longest_suffix(len(ids)) + 1)
      return ids[:place], ids[place:]
    if self.style == "spans":
      return self._replace_by_sentinels(ids, self._choose_spans(len(ids), rng))
    chosen = np.zeros(len(ids), bool)
    chosen[rng.choice(len(ids), number_chosen(len(ids), self.rate), replace=False)] = True
    if self.style == "iid":
      return self._replace_by_sentinels(ids, chosen)
    if self.style == "drop":
      return ids[~chosen], ids[chosen]
    if self.style == "mask":
      return np.where(chosen, self.mask, ids), ids
    return hide(ids, chosen, self.mask, self.words, rng), ids

  def max_lengths(self, length: int) -> tuple[int, int]:
    """Returns the most tokens that source and target of a window can have, without eos."""
    noise = number_chosen(length, self.rate)
    if self.style in ("spans", "iid"):
      iid = min(noise, length - noise + 1)
      spans = self.number_of_spans(length) if self.style == "spans" else iid
      return length - noise + spans, noise + spans
    if self.style == "drop":
      return length - noise, noise
    if self.style == "prefix":
      return length - 1, length - 1
    if self.style == "suffix":
      return length - 1, self._longest_suffix(length)
    return length, length

  def _longest_suffix(self, length: int) -> int:
    """Returns the most tokens of a target whose length is uniform with the mean of `rate`."""
    return min(2 * number_chosen(length, self.rate) - 1, length - 1)

  def number_of_spans(self, length: int) -> int:
    """Returns the number of spans that the chosen tokens of a window form."""
    noise = number_chosen(length, self.rate)
    return max(1, min(round(noise / self.mean_span), noise, length - noise))

  def _choose_spans(self, length, rng):
    """Chooses spans of random lengths with random gaps; a window begins with a gap."""
    noise, spans = number_chosen(length, self.rate), self.number_of_spans(length)
    hidden = _split_randomly(noise, spans, rng)
    shown = _split_randomly(length - noise, spans, rng)
    return np.repeat(np.tile([False, True], spans), np.stack([shown, hidden], 1).ravel())

  def _replace_by_sentinels(self, ids, chosen):
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


def check_rate(rate: float) -> None:
  """Raises UserError for a share of tokens that is not between 0 and 1."""
  if not 0 < rate < 1:
    raise UserError(f"task.rate is {rate}: the share of tokens to hide is between 0 and 1")


def number_chosen(length: int, rate: float) -> int:
  """Returns how many of `length` tokens are hidden: at least one token, and not all."""
  return min(max(round(length * rate), 1), length - 1)


def _split_randomly(total, count, rng):
  """Returns `count` random positive whole numbers that add up to `total`."""
  cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
  return np.diff(np.concatenate([[0], cuts, [total]]))


def hide(ids, chosen, mask: int, words: np.ndarray, rng) -> np.ndarray:
  """Hides chosen tokens as in Devlin et al. 2019: 80% become masks, 10% random tokens, 10% stay."""
  draw = rng.random(len(ids))
  random_ids = np.asarray(words)[rng.integers(len(words), size=len(ids))]
  hidden = np.where(draw < 0.8, mask, np.where(draw < 0.9, random_ids, ids))
  return np.where(chosen, hidden, ids)


def most_hidden(length: int, rate: float) -> int:
  """Returns the most tokens of `length` that `choose_words` hides: `rate` of them, at least one."""
  return max(1, int(length * rate))


def choose_words(starts: np.ndarray, rate: float, rng) -> np.ndarray:
  """Chooses whole words to hide, together at most `rate` of the tokens or one: bool per token.

  `starts` is True for each token that begins a word. Words are taken in random order; a word that
  would exceed the limit is skipped. If every token is a word, the choice is BERT's. If no word is
  within the limit, as many tokens in a row are hidden, since a window must teach something.
  """
  limit = most_hidden(len(starts), rate)
  word = np.cumsum(starts)
  word -= word[0]  # the tokens before the first start are a word too
  sizes = np.bincount(word)
  chosen, used = np.zeros(len(sizes), bool), 0
  for number in rng.permutation(len(sizes)):
    if used + sizes[number] <= limit:
      chosen[number] = True
      used += sizes[number]
      if used == limit:
        break
  if not used:
    place = rng.integers(len(starts) - limit + 1)
    return (np.arange(len(starts)) >= place) & (np.arange(len(starts)) < place + limit)
  return chosen[word]
