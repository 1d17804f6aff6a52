"""Several streams of items as one, each with its share."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from train.common.errors import UserError
from train.data import items
from train.data.source import digest

BLOCK = 1000  # places of the stream in which every part has exactly its share


@dataclasses.dataclass(frozen=True)
class Mixed:
  """The items of all parts, numbered one part after another.

  In the stream each block of BLOCK places holds every part as often as its rate says, in random
  order; a part's own items come in its own order, epoch by epoch. So a place says which item it is
  without a look at those before it.
  """

  parts: Mapping[str, items.Items]
  rates: Mapping[str, float]  # shares; they need not add up to 1

  @property
  def fingerprint(self) -> str:
    return digest(*(part.fingerprint for part in self.parts.values()), *self._counts())

  @property
  def extras(self) -> Mapping[str, str]:
    return {key: dtype for part in self.parts.values() for key, dtype in part.extras.items()}

  @property
  def start(self) -> int:
    return next(iter(self.parts.values())).start  # a mixture has one tokenizer

  @functools.cached_property
  def _rooms(self) -> list[np.ndarray]:
    rooms = [part.lengths() for part in self.parts.values()]
    sides = {name: tuple((room > 0).any(0)) for name, room in zip(self.parts, rooms)}
    if len(set(sides.values())) > 1:
      raise UserError(f"task.parts: all must have a source and a target, or the same one: {sides}")
    return rooms

  @functools.cached_property
  def _first(self) -> np.ndarray:
    """The number of each part's first item, and the number of all."""
    return np.cumsum([0, *map(len, self._rooms)])

  def __getstate__(self):
    return {"parts": self.parts, "rates": self.rates, "_first": self._first}

  def lengths(self) -> np.ndarray:
    return np.concatenate(self._rooms)

  def read(self, numbers: Sequence[int], places: Sequence[int]) -> list[items.Item]:
    found: list = [None] * len(numbers)
    owners = np.searchsorted(self._first, numbers, side="right") - 1
    for owner, part in enumerate(self.parts.values()):
      mine = np.flatnonzero(owners == owner).tolist()
      inside = [numbers[i] - int(self._first[owner]) for i in mine]
      for i, item in zip(mine, part.read(inside, [places[i] for i in mine])):
        found[i] = item
    return found

  def order(self, seed: int) -> Callable[[int], int]:
    counts = self._counts()
    ordered = [
      items.order(part, len(room), seed) for part, room in zip(self.parts.values(), self._rooms)
    ]
    mixed = int.from_bytes(hashlib.sha256(f"mixed {seed}".encode()).digest()[:4], "big")

    @functools.lru_cache(maxsize=8)
    def block(number):
      """The part at each place of a block, and how many of that part are before it there."""
      rng = np.random.default_rng([mixed, number])
      owners = rng.permutation(np.repeat(np.arange(len(counts)), counts))
      ranks = np.zeros(BLOCK, int)
      for owner, count in enumerate(counts):
        ranks[owners == owner] = np.arange(count)
      return owners.tolist(), ranks.tolist()

    def number_at(place: int) -> int:
      owners, ranks = block(place // BLOCK)
      owner = owners[place % BLOCK]
      own_place = place // BLOCK * counts[owner] + ranks[place % BLOCK]
      return int(self._first[owner]) + ordered[owner](own_place)

    return number_at

  def _counts(self) -> list[int]:
    """How often each part is in a block: the rates' shares, the largest remainders rounded up."""
    rates = np.asarray([self.rates[name] for name in self.parts], float)
    shares = rates / rates.sum() * BLOCK
    counts = np.floor(shares).astype(int)
    for owner in np.argsort(counts - shares, kind="stable")[: BLOCK - counts.sum()]:
      counts[owner] += 1
    if (counts < 1).any():
      raise UserError(f"task.parts: a rate is less than 1/{BLOCK} of all: {dict(self.rates)}")
    return counts.tolist()
