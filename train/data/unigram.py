"""Trains the pieces of a unigram tokenizer by expectation-maximisation (Kudo 2018, section 3.2).

The trainer of `tokenizers` 0.23.3 is not used because its result differs from process to process,
also on one thread (RAYON_NUM_THREADS=1): eleven trainings on three corpora gave equal pieces, but
eleven different orders of them, which are the ids, and scores that differed by up to 0.017.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

MAX_PIECE = 16  # bytes, as SentencePiece's default
SEED_PIECES = 100_000  # initial candidates


class _Lattice:
  """All segmentations of words into known pieces, as a graph.

  Nodes are the places between characters; an edge is a piece from one node to another. The rows of
  `edges` are the depth of the end in its word, start node, end node, piece and word.
  """

  def __init__(self, words: Sequence[str], index: Mapping[str, int]):
    offsets = np.cumsum([0] + [len(word) + 1 for word in words])
    self.nodes, self.first, self.last = int(offsets[-1]), offsets[:-1], offsets[1:] - 1
    edges = (
      (j, first + i, first + j, piece, w)
      for w, (word, first) in enumerate(zip(words, offsets.tolist()))
      for i in range(len(word))
      for j in range(i + 1, min(i + MAX_PIECE, len(word)) + 1)
      if (piece := index.get(word[i:j])) is not None
    )
    edges = np.fromiter(edges, np.dtype((np.int32, 5))).T
    self.edges = edges[:, np.lexsort((edges[2], edges[0]))]

  def keep(self, mask: np.ndarray) -> None:
    """Drops the edges where `mask` is False."""
    self.edges = self.edges[:, mask]

  def _depths(self) -> list[slice]:
    cuts = np.flatnonzero(np.diff(self.edges[0], prepend=-1, append=-1))
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]

  def scores(self, score: np.ndarray, best: bool = False) -> np.ndarray:
    """Returns the log of the summed (or best) probability of reaching each node."""
    alpha = np.zeros(self.nodes)
    for group in self._depths():
      _, start, end, piece, _ = self.edges[:, group]
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
      _, start, end, piece, _ = self.edges[:, group]
      share = flow[end] * np.exp(alpha[start] + score[piece] - alpha[end])
      np.add.at(flow, start, share)
      np.add.at(used, piece, share)
    return used.round(6)  # ties must not depend on the last bits of a float


def train_pieces(
  counts: Mapping[str, int], size: int, alphabet: Sequence[str]
) -> list[tuple[str, float]]:
  """Returns at most `size` pieces with their log probabilities for byte-level words and counts."""
  words = sorted(counts, key=lambda word: (-counts[word], word))
  candidates = Counter()
  for word in words:
    for i in range(len(word)):
      for j in range(i + 2, min(i + MAX_PIECE, len(word)) + 1):
        candidates[word[i:j]] += counts[word]
  seeds = [piece for piece, n in candidates.items() if n > 1]
  seeds.sort(key=lambda piece: (-candidates[piece] * len(piece), piece))
  pieces = np.asarray(alphabet + seeds[:SEED_PIECES], dtype=object)
  frequency = np.asarray([counts[word] for word in words], np.float64)
  index = {piece: i for i, piece in enumerate(pieces)}
  text = _Lattice(words, index)
  inside = None  # segmentations of each piece into other pieces
  used = np.asarray([float(candidates[piece] or 1) for piece in pieces])
  alive = np.ones(len(pieces), bool)
  required = np.arange(len(pieces)) < len(alphabet)
  while True:
    for _ in range(2):
      weight = np.where(required, np.maximum(used, 0.5), used * alive)
      with np.errstate(divide="ignore"):
        score = np.log(weight / weight.sum())
      used = text.expected(score, frequency)
      alive &= required | (used >= 0.5)
      text.keep(alive[text.edges[3]])
    if alive.sum() <= size:
      break
    inside = inside or _Lattice([p if a else "" for p, a in zip(pieces, alive)], index)
    piece, word = inside.edges[3:]
    inside.keep(alive[piece] & alive[word] & (piece != word))
    # the likelihood that the text loses when the best segmentation into others replaces a piece
    optional = np.flatnonzero(alive & ~required)
    otherwise = inside.scores(score, best=True)[inside.last]
    loss = used[optional] * (score[optional] - otherwise[optional])
    order = optional[np.argsort(-loss.round(6), kind="stable")]
    alive[order[max(int(0.75 * len(order)), size - len(alphabet)) :]] = False
    text.keep(alive[text.edges[3]])
  share = np.maximum(used, 0.5) / np.maximum(used, 0.5)[alive].sum()
  final = [(str(pieces[i]), round(float(np.log(share[i])), 6)) for i in np.flatnonzero(alive)]
  return sorted(final, key=lambda piece: (-piece[1], piece[0]))
