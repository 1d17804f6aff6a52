"""Counts the words of texts in memory that does not grow with the texts."""

import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from absl import logging

from train.data.long_texts import PART

# Different words that are kept, and twice as many while they are counted, at some 160 bytes each.
MOST_WORDS = 2_000_000


def count_words(
  texts: Iterable[str], find: Callable[[str], Iterable[str]], most_bytes: int
) -> tuple[Counter, bool]:
  """Returns the counts of the words that `find` lists in each text, and whether all are counted.

  The words have at most `most_bytes` bytes of UTF-8 and number at most MOST_WORDS. Where there are
  more, the most frequent are kept, and of equally frequent ones those with the least checksums,
  which come from all texts. The others are left out, which is logged.
  """
  counts, left_out, size = Counter(), 0, 0
  for text in texts:
    counts.update(find(text))
    size += len(text.encode())  # an upper bound of the words' bytes, until it is counted
    if size > 2 * most_bytes or len(counts) > 2 * MOST_WORDS:
      size = _count_bytes(counts)
      if size > 1.5 * most_bytes or len(counts) > 2 * MOST_WORDS:
        left_out += _keep_most_frequent(counts, most_bytes)
        size = most_bytes
  if (size := _count_bytes(counts)) > most_bytes or len(counts) > MOST_WORDS:
    left_out += _keep_most_frequent(counts, most_bytes)
  if left_out:
    logging.warning(
      "the texts have too many different words: the tokenizer is trained on %d of them, the most"
      " frequent (at most %.0f MB), and %d rarer ones are left out",
      len(counts),
      most_bytes / 1e6,
      left_out,
    )
  return counts, not left_out


def repeat_words(counts: Counter) -> Iterator[str]:
  """Yields lines of each word, as often as it is counted, in texts of bounded length; empties
  `counts`."""
  while counts:
    word, count = counts.popitem()
    lines = max(PART // (len(word) + 1), 1)
    for first in range(0, count, lines):
      yield "\n".join([word] * min(lines, count - first))


def _count_bytes(counts: Counter) -> int:
  return sum(len(word.encode()) for word in counts)


def _keep_most_frequent(counts: Counter, most_bytes: int) -> int:
  """Removes all but the most frequent words; returns how many are removed."""
  number = len(counts)
  frequency = np.fromiter(counts.values(), np.int64, number)
  checksum = np.fromiter((zlib.crc32(word.encode()) for word in counts), np.uint32, number)
  length = np.fromiter((len(word.encode()) for word in counts), np.int64, number)
  order = np.lexsort((checksum, -frequency))[:MOST_WORDS]
  kept = np.zeros(number, bool)
  kept[order[np.cumsum(length[order]) <= most_bytes]] = True
  words = dict(itertools.compress(counts.items(), kept.tolist()))
  counts.clear()
  counts.update(words)
  return number - len(counts)
