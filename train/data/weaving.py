"""Packs the items of virtual streams into the rows of batches, and fills them."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from train.common.errors import UserError
from train.data import packing, streams
from train.data.batches import Layout
from train.data.items import Items

CARRY = 32  # items that a stream may pass over, as no row has space, before it ends its rows
# The state of a stream that has not begun.
START: dict = {"supply": None, "pending": [], "carried": 0, "counts": {}}


class Rows(NamedTuple):
  """The rows of some streams in a batch, and the streams' states behind it."""

  arrays: dict[str, np.ndarray]
  states: dict[int, dict]
  places: list[list[tuple]]  # of the items in each row
  notes: list[str]


class Stream:
  """The rows of one virtual stream."""

  def __init__(self, items: Items, share: streams.Share, limits: Mapping, side: int):
    self._tally = streams.Tally()
    self._supply = streams.open_supply(items, share, self._tally)
    self._limits, self._side = limits, side
    self._entries: dict[int, streams.Entry] = {}  # of items that are not delivered, by position
    self._state = packing.START

  def set_state(self, state: Mapping) -> None:
    """Goes on behind a batch, from a state that `get_state` returned then."""
    if state["supply"] is not None:
      self._supply.set_state(state["supply"])
    places = [tuple(place) for place in state["pending"]]
    self._entries = dict(enumerate(self._supply.read(places)))
    self._state = {"position": state["carried"], "carried": list(range(state["carried"]))}
    self._tally.clear()
    self._tally.update(state["counts"])

  def get_state(self) -> dict:
    """Returns the state as JSON values."""
    carried = self._state["carried"]
    waiting = [*carried, *(i for i in self._entries if i >= self._state["position"])]
    return dict(
      supply=self._supply.get_state(),
      pending=[self._entries[i].place for i in waiting],
      carried=len(carried),
      counts=dict(self._tally),
    )

  def next(self) -> list[list[streams.Entry]]:
    """Returns the items of each of the stream's rows in the next batch."""
    rows, self._state = packing.plan(self._lengths, self._state, **self._limits, carry=CARRY)
    taken = [[self._entries.pop(i) for i in row] for row in rows]
    tokens = sum(entry.made[self._side] for row in taken for entry in row)
    self._tally.update(tokens=tokens, batches=1)
    return taken

  def _lengths(self, position: int) -> tuple[int, int]:
    if position not in self._entries:
      entry = self._supply.next()
      if entry is None:
        raise UserError(
          "a virtual stream has read its share of all parts as often as their max_epochs allow: set"
          " fewer steps, or allow more epochs"
        )
      self._entries[position] = entry
    return self._entries[position].made[:2]

  def take_notes(self) -> list[str]:
    """Returns what is wrong with records that were skipped since the last call."""
    notes, self._tally.notes = self._tally.notes, []
    return notes


@dataclasses.dataclass(frozen=True)
class Weaver:
  """Opens some of a corpus's virtual streams; a worker process needs nothing else."""

  items: Items
  layout: Layout
  seed: int
  count: int  # of all streams

  def open(self, states: Mapping[int, Mapping]) -> "Weaving":
    """Returns the streams whose numbers are keys of `states`."""
    rows = self.layout.batch_size // self.count
    limits = self.layout.row_limits | dict(rows=rows)
    side = 1 if self.layout.target_len else 0
    opened = {}
    for number, state in states.items():
      share = streams.Share(number, self.count, self.seed)
      opened[number] = Stream(self.items, share, limits, side)
      opened[number].set_state(state)
    return Weaving(self.items, self.layout, opened)


class Weaving:
  """The rows of some streams."""

  def __init__(self, items: Items, layout: Layout, opened: Mapping[int, Stream]):
    self._items, self._layout, self._streams = items, layout, opened

  def __call__(self) -> Rows:
    """Returns the rows of the next batch."""
    rows = [row for stream in self._streams.values() for row in stream.next()]
    numbers, found, keys = itertools.count(), {}, []
    for row in rows:
      keys.append([next(numbers) for _ in row])
      found |= {key: entry.made.item for key, entry in zip(keys[-1], row)}
    lengths = dict(source_len=self._layout.source_len, target_len=self._layout.target_len)
    start = self._items.start if self._layout.target_len else None
    arrays = packing.fill(keys, found, **lengths, extras=self._items.extras, start=start)
    states = {number: stream.get_state() for number, stream in self._streams.items()}
    notes = [note for stream in self._streams.values() for note in stream.take_notes()]
    return Rows(arrays, states, [[entry.place for entry in row] for row in rows], notes)
