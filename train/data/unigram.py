"""Trains the pieces of a unigram tokenizer by expectation-maximisation (Kudo 2018, section 3.2).

The trainer of `tokenizers` 0.23.3 is not used because its result differs from process to process,
also on one thread (RAYON_NUM_THREADS=1): eleven trainings on three corpora gave equal pieces, but
eleven different orders of them, which are the ids, and scores that differed by up to 0.017.
"""

import array
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

MAX_PIECE = 16  # bytes, as SentencePiece's default
SEED_PIECES = 100_000  # initial candidates


class _Lattice:
  """All segmentations of words into known pieces, as a graph.

  Nodes are the places between characters; an edge is a piece from one node to another. The edges
  are sorted by the depth of the end in its word, end and start; each takes 12 bytes.
  """

  def __init__(self, words: Sequence[str], index: Mapping[str, int]):
    offsets = np.cumsum([0] + [len(word) + 1 for word in words])
    self.nodes, self.first, self.last = int(offsets[-1]), offsets[:-1], offsets[1:] - 1
    self.word = np.repeat(np.arange(len(words), dtype=np.int32), np.diff(offsets))  # of each node
    start, end, piece = array.array("i"), array.array("i"), array.array("i")
    for word, first in zip(words, offsets.tolist()):
      for i in range(len(word)):
        for j in range(i + 1, min(i + MAX_PIECE, len(word)) + 1):
          if (number := index.get(word[i:j])) is not None:
            start.append(first + i)
            end.append(first + j)
            piece.append(number)
    self.edges = tuple(np.frombuffer(column, np.int32) for column in (start, end, piece))
    order = np.lexsort((self.edges[1], self._depth()))
    self.keep(order)

  def keep(self, chosen: np.ndarray) -> None:
    """Keeps the edges that a mask or an array of indices chooses."""
    self.edges = tuple(column[chosen] for column in self.edges)

  def _depth(self) -> np.ndarray:
    _, end, _ = self.edges
    return end - self.first.astype(np.int32)[self.word[end]]

  def _depths(self) -> list[slice]:
    cuts = np.flatnonzero(np.diff(self._depth(), prepend=-1, append=-1))
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]

  def scores(self, score: np.ndarray, best: bool = False) -> np.ndarray:
    """Returns the log of the summed (or best) probability of reaching each node."""
    alpha = np.zeros(self.nodes)
    for group in self._depths():
      start, end, piece = (column[group] for column in self.edges)
      value = alpha[start] + score[piece]
      cuts = np.flatnonzero(np.diff(end, prepend=-1))
      top = np.maximum.reduceat(value, cuts)
      if not best:
        lengths = np.diff(cuts, append=len(end))
        top = top + np.log(np.add.reduceat(np.exp(value - np.repeat(top, lengths)), cuts))
      alpha[end[cuts]] = top
    return alpha

  def expected(self, score: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the expected count of each piece over all segmentations of all words."""
    alpha, flow = self.scores(score), np.zeros(self.nodes)
    used = np.zeros(len(score))
    flow[self.last] = counts
    for group in reversed(self._depths()):
      start, end, piece = (column[group] for column in self.edges)
      share = flow[end] * np.exp(alpha[start] + score[piece] - alpha[end])
      np.add.at(flow, start, share)
      np.add.at(used, piece, share)
    return used.round(6)  # ties must not depend on the last bits of a float


def list_seeds(words: Sequence[str], counts: Sequence[int], size: int) -> dict[str, int]:
  """Returns the substrings of 2 to MAX_PIECE characters that occur more than once in counted words,
  the `size` with the most occurrences times characters, in that order, with their occurrences.

  The substrings of each length are numbered from those one shorter, in some 50 bytes a character
  of the words, whatever the number of different substrings is.
  """
  text = "\0".join(words) + "\0" * MAX_PIECE
  characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
  weights = np.repeat(np.asarray(counts, np.float64), [len(word) + 1 for word in words])
  places = np.flatnonzero(characters).astype(np.int32)
  numbers = characters[places].astype(np.int64)  # of the substring at each place
  values, starts, lengths = [np.zeros(0)], [np.zeros(0, np.int32)], [np.zeros(0, np.int8)]
  for length in range(2, MAX_PIECE + 1):
    following = characters[places + length - 1]
    inside = following > 0
    places, numbers = places[inside], numbers[inside] << 21 | following[inside]
    _, first, numbers = np.unique(numbers, return_index=True, return_inverse=True)
    occurrences = np.bincount(numbers, weights[places], len(first))
    repeated = occurrences > 1
    values.append(occurrences[repeated] * length)
    starts.append(places[first[repeated]])
    lengths.append(np.full(repeated.sum(), length, np.int8))
    often = repeated[numbers]  # a longer substring is not more frequent
    places, numbers = places[often], numbers[often]
  value, start, length = (np.concatenate(parts) for parts in (values, starts, lengths))
  if len(value) > size:
    best = np.flatnonzero(value >= np.partition(value, len(value) - size)[len(value) - size])
    value, start, length = value[best], start[best], length[best]
  rows = zip(value.tolist(), start.tolist(), length.tolist())
  seeds = sorted((-total, text[i : i + n]) for total, i, n in rows)[:size]
  return {piece: int(-total) // len(piece) for total, piece in seeds}


def train_pieces(
  counts: Mapping[str, int], size: int, alphabet: Sequence[str]
) -> list[tuple[str, float]]:
  """Returns at most `size` pieces with their log probabilities for byte-level words and counts."""
  words = sorted(counts, key=lambda word: (-counts[word], word))
  seeds = list_seeds(words, [counts[word] for word in words], SEED_PIECES)
  pieces = np.asarray([*alphabet, *seeds], dtype=object)
  frequency = np.asarray([counts[word] for word in words], np.float64)
  index = {piece: i for i, piece in enumerate(pieces)}
  text = _Lattice(words, index)
  inside = None  # segmentations of each piece into other pieces
  used = np.asarray([float(seeds.get(piece, 1)) for piece in pieces])
  alive = np.ones(len(pieces), bool)
  required = np.arange(len(pieces)) < len(alphabet)
  while True:
    for _ in range(2):
      weight = np.where(required, np.maximum(used, 0.5), used * alive)
      with np.errstate(divide="ignore"):
        score = np.log(weight / weight.sum())
      used = text.expected(score, frequency)
      alive &= required | (used >= 0.5)
      text.keep(alive[text.edges[2]])
    if alive.sum() <= size:
      break
    inside = inside or _Lattice([p if a else "" for p, a in zip(pieces, alive)], index)
    start, _, piece = inside.edges
    word = inside.word[start]
    inside.keep(alive[piece] & alive[word] & (piece != word))
    # the likelihood that the text loses when the best segmentation into others replaces a piece
    optional = np.flatnonzero(alive & ~required)
    otherwise = inside.scores(score, best=True)[inside.last]
    loss = used[optional] * (score[optional] - otherwise[optional])
    order = optional[np.argsort(-loss.round(6), kind="stable")]
    alive[order[max(int(0.75 * len(order)), size - len(alphabet)) :]] = False
    text.keep(alive[text.edges[2]])
  share = np.maximum(used, 0.5) / np.maximum(used, 0.5)[alive].sum()
  final = [(str(pieces[i]), round(float(np.log(share[i])), 6)) for i in np.flatnonzero(alive)]
  return sorted(final, key=lambda piece: (-piece[1], piece[0]))
