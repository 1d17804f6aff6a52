"""Mixes several sets of items into one stream, each with its share."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from train.common.errors import UserError
from train.data import items
from train.data.source import digest

BLOCK = 1000  # positions of the stream in which every part has exactly its share


@dataclasses.dataclass(frozen=True)
class MixedItems:
  """The items of all parts, indexed one part after another.

  Each block of BLOCK positions in the stream holds every part as often as its rate demands, in
  random order; a part's own items come in its own order, epoch by epoch. The item at a position is
  therefore computed without earlier positions.
  """

  parts: Mapping[str, items.Items]
  rates: Mapping[str, float]  # they need not add up to 1
  # How often a part may be read as a whole; then the others have its place (streams.py alone).
  epochs: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def fingerprint(self) -> str:
    return digest(*(part.fingerprint for part in self.parts.values()), *self.counts())

  @property
  def extras(self) -> Mapping[str, str]:
    return {key: dtype for part in self.parts.values() for key, dtype in part.extras.items()}

  @property
  def start(self) -> int:
    return next(iter(self.parts.values())).start  # a mixture has one tokenizer

  @property
  def is_streamed(self) -> bool:
    """Returns whether some part is read shard by shard."""
    return any(map(items.is_streamed, self.parts.values()))

  @property
  def draws(self) -> bool:
    """Returns whether items of some part differ between epochs."""
    return any(map(items.is_drawn, self.parts.values()))

  @functools.cached_property
  def _lengths(self) -> list[np.ndarray]:
    lengths = [part.lengths() for part in self.parts.values()]
    sides = {name: tuple((rows > 0).any(0)) for name, rows in zip(self.parts, lengths)}
    if len(set(sides.values())) > 1:
      raise UserError(f"task.parts: all must have a source and a target, or the same one: {sides}")
    return lengths

  @functools.cached_property
  def _first(self) -> np.ndarray:
    """Returns the index of each part's first item, and the number of all items."""
    return np.cumsum([0, *map(len, self._lengths)])

  def __getstate__(self):
    state = {"parts": self.parts, "rates": self.rates, "epochs": self.epochs}
    return state if self.is_streamed else state | {"_first": self._first}

  def lengths(self) -> np.ndarray:
    return np.concatenate(self._lengths)

  def read(self, indices: Sequence[int], positions: Sequence[int]) -> list[items.Item]:
    if not len(indices):  # of a batch without items, which train.plan compiles: no part is listed
      return []
    read = {}
    owners = np.searchsorted(self._first, indices, side="right") - 1
    for owner, part in enumerate(self.parts.values()):
      own = np.flatnonzero(owners == owner).tolist()
      own_indices = [indices[i] - int(self._first[owner]) for i in own]
      read |= zip(own, part.read(own_indices, [positions[i] for i in own]))
    return [read[i] for i in range(len(indices))]

  def order(self, seed: int) -> Callable[[int], int]:
    counts = self.counts()
    parts = zip(self.parts.values(), self._lengths)
    orders = [items.order(part, len(lengths), seed) for part, lengths in parts]
    mixed_seed = int.from_bytes(hashlib.sha256(f"mixed {seed}".encode()).digest()[:4], "big")

    @functools.lru_cache(maxsize=8)
    def shuffle_block(number):
      """Returns the part at each position of a block, and the rank of the position in its part."""
      rng = np.random.default_rng([mixed_seed, number])
      owners = rng.permutation(np.repeat(np.arange(len(counts)), counts))
      ranks = np.zeros(BLOCK, int)
      for owner, count in enumerate(counts):
        ranks[owners == owner] = np.arange(count)
      return owners.tolist(), ranks.tolist()

    def index_at(position: int) -> int:
      block, place = divmod(position, BLOCK)
      owners, ranks = shuffle_block(block)
      owner = owners[place]
      return int(self._first[owner]) + orders[owner](block * counts[owner] + ranks[place])

    return index_at

  def block_rates(self) -> dict[str, float]:
    """Returns the share of each part in a block, of 1."""
    return {name: count / BLOCK for name, count in zip(self.parts, self.counts())}

  def counts(self) -> list[int]:
    """Returns how often each part is in a block: by its rate, the largest remainders rounded up."""
    rates = np.asarray([self.rates[name] for name in self.parts], float)
    shares = rates / rates.sum() * BLOCK
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: BLOCK - counts.sum()]] += 1
    rare = [name for name, count in zip(self.parts, counts.tolist()) if not count]
    if rare:
      raise UserError(
        f"task.parts: less than 1/{BLOCK} of all items would be of {', '.join(rare)} (rates:"
        f" {dict(self.rates)}): raise task.parts.{rare[0]}.share, lower task.alpha or set"
        " task.size_cap, which bring the rates nearer to each other, or leave it out"
      )
    return counts.tolist()
