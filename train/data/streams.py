"""Reads a corpus as virtual streams, each an endless sequence of items with a small state.

Stream v of V reads every V-th shard of the shuffled order of all shards, from the v-th one on. So
each stream can be read anywhere, by any host and process, without what the others read.
"""

import collections
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from train.common.errors import UserError
from train.data import items, packing
from train.data.bad_records import FEW
from train.data.items import Items, Made, is_streamed
from train.data.mixed_items import BLOCK, MixedItems
from train.data.source import digest

READ = 64  # indexed items that are read at a time


class Tally(collections.Counter):
  """Counts what a stream has read: `examples`, records that were skipped (`bad`), examples with a
  blank field (`dropped`), `truncated` items and finished `shards`, of which an indexed item is one.
  """

  def __init__(self):
    super().__init__()
    self.notes: list[str] = []  # the first skipped records since they were last taken

  def note(self, messages: Sequence[str]) -> None:
    """Counts skipped records."""
    self["bad"] += len(messages)
    self.notes += messages[: max(FEW - len(self.notes), 0)]


class Entry(NamedTuple):
  """An item, and the place from which it can be read again."""

  place: tuple
  made: Made


class Supply(Protocol):
  """The items of a virtual stream, one after another. Every value in `state` and in a place is a
  whole number or a name."""

  def next(self) -> Entry | None:
    """Returns the next item, None behind the last epoch that is to be read."""

  def read(self, places: Sequence[tuple]) -> list[Entry]:
    """Returns items that `next` has returned before."""

  def get_state(self) -> dict: ...

  def set_state(self, state: Mapping) -> None: ...


class Share(NamedTuple):
  """Names one of `count` virtual streams."""

  number: int
  count: int
  seed: int


def open_supply(given: Items, share: Share, tally: Tally, epochs: float = math.inf) -> Supply:
  """Returns the items of a virtual stream, of so many passes over the data."""
  if isinstance(given, MixedItems):
    return MixedSupply(given, share, tally)
  supply = ShardSupply if is_streamed(given) else IndexedSupply
  return supply(given, share, tally, epochs)


def identity(given: Items) -> dict[str, str]:
  """Returns the fingerprint of each part of a mixture, and "" -> that of other data."""
  if isinstance(given, MixedItems):
    return {name: part.fingerprint for name, part in given.parts.items()}
  return {"": given.fingerprint}


def count_shards(given: Items) -> int:
  """Returns the number of shards, of which an indexed item is one."""
  if isinstance(given, MixedItems):
    return sum(map(count_shards, given.parts.values()))
  return given.shards.num_shards if is_streamed(given) else len(given.lengths())


def most_shards(given: Items) -> int:
  """Returns the number of shards of the part that has the most. Of a part with fewer shards than
  streams, some streams read the next epoch at once."""
  if isinstance(given, MixedItems):
    return max(map(most_shards, given.parts.values()))
  return max(count_shards(given), 1)


class ShardSupply:
  """The items of every `count`-th shard, shuffled within each block."""

  def __init__(self, given: Items, share: Share, tally: Tally, epochs: float):
    self._items, self._shards, self._share, self._tally = given, given.shards, share, tally
    if not self._shards.num_shards:
      raise UserError("the data are empty: check the split and the files it names")
    # A stream has other shards in each epoch: by chance it misses one with items so often at
    # exp(-64).
    self._most_empty = self._shards.num_shards + 64 * min(self._shards.num_shards, 1000)
    self._order, self._end = packing.permuted(self._shards.num_shards, share.seed), epochs
    self.set_state(dict(shard=0, block=-1, item=0))

  def get_state(self) -> dict:
    return dict(shard=self._shard, block=self._block, item=self._at)

  def set_state(self, state: Mapping) -> None:
    self._shard, self._block, self._at = state["shard"], state["block"], state["item"]
    self._blocks, self._made = self._open(self._shard, max(self._block, 0)), []
    if self._block >= 0:
      self._made = self._make(self._shard, self._block, next(self._blocks).examples)

  def next(self) -> Entry | None:
    if self._at == len(self._made) and not self._advance():
      return None
    self._at += 1
    made = self._made[self._at - 1]
    self._tally["truncated"] += made.truncated
    return Entry((self._shard, self._block, self._at - 1), made)

  def _advance(self) -> bool:
    """Reads the next block that has items, and returns whether there is one before the last epoch's
    end; raises UserError where very many shards have none."""
    first = self._shard
    while self._position(self._shard) < self._end * self._shards.num_shards:
      block = next(self._blocks, None)
      if block is None:
        self._shard, self._block = self._shard + 1, -1
        self._tally["shards"] += 1
        if self._shard > first + self._most_empty:
          raise UserError("the data have no item: check the files and the tokenizer")
        self._blocks = self._open(self._shard, 0)
        continue
      self._block += 1
      self._tally["examples"] += len(block.examples)
      self._tally["dropped"] += block.dropped
      self._tally.note(block.bad)
      self._made, self._at = self._make(self._shard, self._block, block.examples), 0
      if len(self._made):
        return True
    return False

  def read(self, places):
    entries = {}
    for (shard, block), group in itertools.groupby(sorted(places), key=lambda place: place[:2]):
      made = self._make(shard, block, next(self._open(shard, block)).examples)
      entries |= {place: Entry(place, made[place[2]]) for place in group}
    return [entries[place] for place in places]

  def _open(self, shard: int, block: int) -> Iterator:
    return self._shards.blocks(self._order(self._position(shard)), block)

  def _position(self, shard: int) -> int:
    return self._share.number + shard * self._share.count

  def _make(self, shard: int, block: int, examples) -> Sequence[Made]:
    position = self._position(shard)
    key = (position // self._shards.num_shards, self._order(position), block)
    made = self._items.make(examples, key)
    order = np.random.default_rng([abs(self._share.seed), *key]).permutation(len(made))
    return items.BlockItems(len(made), lambda number: made[int(order[number])])


_LISTED: dict[tuple[int, int], tuple] = {}  # by id and seed, shared by the streams of a process


def _list_items(given: Items, seed: int) -> tuple:
  """Returns the lengths of all items, and their order, which are computed once in a process."""
  key = (id(given), seed)
  if key not in _LISTED:
    lengths = given.lengths()
    _LISTED[key] = lengths, items.order(given, len(lengths), seed), given  # so that no id is reused
  return _LISTED[key][:2]


class IndexedSupply:
  """Every `count`-th item of a shuffled sequence of items, whose lengths are all known."""

  def __init__(self, given: Items, share: Share, tally: Tally, epochs: float):
    self._items, self._share, self._tally = given, share, tally
    self._lengths, self._order = _list_items(given, share.seed)
    self._end = epochs * len(self._lengths)
    self.set_state(dict(at=0))

  def get_state(self) -> dict:
    return dict(at=self._at)

  def set_state(self, state: Mapping) -> None:
    self._at, self._ahead = state["at"], {}

  def next(self) -> Entry | None:
    if self._position(self._at) >= self._end:
      return None
    if self._at not in self._ahead:
      places = [(at,) for at in range(self._at, self._at + READ)]
      self._ahead = {entry.place[0]: entry for entry in self.read(places)}
    self._at += 1
    self._tally.update(examples=1, shards=1)
    return self._ahead[self._at - 1]

  def read(self, places):
    positions = [self._position(at) for (at,) in places]
    indices = [self._order(position) for position in positions]
    read = self._items.read(indices, positions)
    lengths = self._lengths[indices].tolist()
    return [Entry(place, Made(*x, item)) for place, x, item in zip(places, lengths, read)]

  def _position(self, at: int) -> int:
    return self._share.number + at * self._share.count


class MixedSupply:
  """The items of several supplies, by the rates of a mixture."""

  def __init__(self, given: MixedItems, share: Share, tally: Tally):
    self._share, self._parts = share, {}
    for name, part in given.parts.items():
      # an order of its own, so that parts on the same data do not read them side by side
      seed = int(digest("part", share.seed, name)[:8], 16)
      epochs = given.epochs.get(name, math.inf)
      self._parts[name] = open_supply(part, share._replace(seed=seed), tally, epochs)
    self._owners = np.repeat(list(self._parts), given.counts())
    self._at, self._block, self._shuffled = 0, -1, []

  def get_state(self) -> dict:
    return dict(at=self._at, parts={name: x.get_state() for name, x in self._parts.items()})

  def set_state(self, state: Mapping) -> None:
    """Goes on from a state; a part that the state lacks starts at its beginning."""
    self._at = state["at"]
    for name, part in state["parts"].items():
      self._parts[name].set_state(part)

  def next(self) -> Entry | None:
    for _ in range(2 * BLOCK):  # a part that is read to its end leaves its places to the others
      block, place = divmod(self._at, BLOCK)
      if block != self._block:
        rng = np.random.default_rng([abs(self._share.seed), self._share.number, block])
        self._block, self._shuffled = block, rng.permutation(self._owners).tolist()
      self._at += 1
      name = self._shuffled[place]
      if entry := self._parts[name].next():
        return Entry((name, *entry.place), entry.made)
    return None

  def read(self, places):
    entries = {}
    for name, part in self._parts.items():
      own = [place for place in places if place[0] == name]
      for place, entry in zip(own, part.read([place[1:] for place in own])):
        entries[place] = Entry(place, entry.made)
    return [entries[place] for place in places]
