"""Makes batches for training (endless, resumable), for evaluation (one pass) and for prediction."""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.data import packing, workers
from train.data.items import Items, order

CHUNK = 1024  # stream positions looked up at a time
WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)  # row lengths to predict from

# A row of a batch: index and position in the stream of each of its items.
Row = list[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Layout:
  """The shape of a batch. A side of length 0 is absent; at most one side is."""

  batch_size: int  # rows of the global batch, all processes together
  source_len: int
  target_len: int
  pack: bool = True
  process_index: int = 0
  process_count: int = 1
  most_hidden: int = 0  # tokens that an encoder's row can predict; 0: all

  @property
  def own_rows(self) -> slice:
    """Returns this process's rows; raises UserError if processes cannot share the batch."""
    rows, remainder = divmod(self.batch_size, self.process_count)
    if remainder:
      raise UserError(
        f"batch_size={self.batch_size} must be a multiple of the {self.process_count} processes"
      )
    return slice(rows * self.process_index, rows * (self.process_index + 1))

  @property
  def row_limits(self) -> dict:
    """Returns the arguments of `packing.plan` that limit what a row holds."""
    lengths = dict(source_len=self.source_len, target_len=self.target_len or self.most_hidden)
    return dict(rows=self.batch_size, max_per_row=None if self.pack else 1, **lengths)


@dataclasses.dataclass(frozen=True)
class BatchBuilder:
  """Reads items and fills batches with them; a worker process needs nothing else."""

  items: Items
  source_len: int
  target_len: int

  def __call__(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Returns the batch of the rows."""
    members = [member for row in rows for member in row]
    indices = [index for index, _ in members]
    positions = [position for _, position in members]
    items = dict(zip(positions, self.items.read(indices, positions)))
    row_positions = [[position for _, position in row] for row in rows]
    lengths = dict(source_len=self.source_len, target_len=self.target_len)
    start = self.items.start if self.target_len else None
    return packing.fill(row_positions, items, **lengths, extras=self.items.extras, start=start)


def _keep(builder: BatchBuilder) -> BatchBuilder:
  return builder


@dataclasses.dataclass
class _Planned:
  rows: list[Row]  # this process's
  positions: list[list[int]]  # of the items in all rows
  tokens: int  # of all rows, on the target side if there is one
  state: dict  # the stream's, after this batch
  batch: Future[dict[str, np.ndarray]]


class Batches(Iterator, contextlib.AbstractContextManager):
  """An endless iterator over batches, in a new order every epoch; yields this process's rows.

  A thread plans the batches. The same thread reads and tokenises (workers=0), or `workers`
  processes do. The position is that of the global stream: batches and state are the same for any
  number of workers and processes. Raises UserError for a batch_size that the processes cannot
  share, for empty data, and when a worker dies twice on one batch.
  """

  streams = 0  # the data are listed

  def __init__(
    self, items: Items, layout: Layout, *, seed: int, workers: int = 0, lookahead: int = 4
  ):
    self._builder = BatchBuilder(items, layout.source_len, layout.target_len)
    self._layout, self._own_rows = layout, layout.own_rows
    self._lengths = items.lengths()
    self._order = order(items, len(self._lengths), seed)
    self._chunk = functools.lru_cache(maxsize=64)(self._read_chunk)
    self.fingerprint = items.fingerprint
    self._identity = {"seed": seed, "data": self.fingerprint}
    self._state = self._ahead = packing.START
    self._workers, self._lookahead = workers, max(lookahead, workers + 1)
    self._planner = ThreadPoolExecutor(1, "batches")
    self._pool = self._start_pool() if workers else self._planner
    self._queue: collections.deque[Future[_Planned]] = collections.deque()
    self.tokens, self._count, self._restarted = 0, 0, False  # _count: batches
    self.stall_seconds = 0.0
    self._top_up()

  def _start_pool(self) -> ProcessPoolExecutor:
    starting = (workers.start, (_keep, self._builder))
    return ProcessPoolExecutor(self._workers, workers.CONTEXT, *starting)

  def _read_chunk(self, number: int) -> list[tuple[int, int, int]]:
    indices = [self._order(i) for i in range(number * CHUNK, (number + 1) * CHUNK)]
    return list(zip(indices, *self._lengths[indices].T.tolist()))

  def _at(self, position: int) -> tuple[int, int, int]:
    """Returns the index of the item at a position, and its two lengths."""
    return self._chunk(position // CHUNK)[position % CHUNK]

  def _plan(self) -> _Planned:
    limits = self._layout.row_limits
    rows, self._ahead = packing.plan(lambda i: self._at(i)[1:], self._ahead, **limits)
    own = [[(self._at(position)[0], position) for position in row] for row in rows[self._own_rows]]
    side = 2 if self._layout.target_len else 1
    tokens = sum(self._at(position)[side] for row in rows for position in row)
    return _Planned(own, rows, tokens, self._ahead, self._submit(own))

  def _submit(self, rows: list[Row]) -> Future[dict[str, np.ndarray]]:
    try:
      return self._pool.submit(workers.run if self._workers else self._builder, rows)
    except BrokenProcessPool as error:
      failed = Future()
      failed.set_exception(error)
      return failed

  def _top_up(self) -> None:
    while len(self._queue) < self._lookahead:
      self._queue.append(self._planner.submit(self._plan))

  def _restart_pool(self) -> None:
    if self._restarted:
      raise UserError(workers.DIED_TWICE)
    self._restarted = True
    logging.warning("a data worker process died: starting the workers anew")
    waiting = [future.result() for future in self._queue]  # after this the planner is idle
    self._pool = self._start_pool()
    for planned in waiting:
      if not planned.batch.done() or planned.batch.exception():
        planned.batch = self._submit(planned.rows)

  def __next__(self) -> dict[str, np.ndarray]:
    started = time.perf_counter()
    planned = self._queue[0].result()
    while True:
      try:
        batch = planned.batch.result()
        break
      except BrokenProcessPool:
        self._restart_pool()
    self._restarted = False
    self._queue.popleft()
    self._top_up()
    self._state = planned.state
    self._delivered = planned.positions
    self.stall_seconds += time.perf_counter() - started
    self.tokens, self._count = self.tokens + planned.tokens, self._count + 1
    return batch

  @property
  def delivered(self) -> Callable[[], list[list[int]]]:
    """Returns a function for the indices of the last batch's items, row by row, all processes
    together. The function may be called after later batches."""
    positions = self._delivered
    return lambda: [[self._at(position)[0] for position in row] for row in positions]

  @property
  def padding(self) -> float:
    """Returns the share of padding in the batches so far, on the target side if there is one."""
    length = self._layout.target_len or self._layout.source_len
    capacity = self._count * self._layout.batch_size * length
    return 1 - self.tokens / capacity if capacity else 0.0

  @property
  def epoch(self) -> int:
    """Returns the number of passes over the data that the stream has completed."""
    return self._state["position"] // len(self._lengths)

  def counts(self) -> dict[str, float]:
    """Returns the tokens without padding, the share of padding, and the epoch so far."""
    return dict(tokens=self.tokens, padding=self.padding, epoch=self.epoch)

  def get_state(self) -> dict:
    """Returns the position after the last delivered batch, as JSON values, and what was counted."""
    counted = dict(tokens=self.tokens, batches=self._count)
    return {**self._state, "carried": list(self._state["carried"]), **self._identity, **counted}

  def set_state(self, state: Mapping) -> None:
    """Moves to a saved position; raises UserError for a position in other data or another order."""
    if "states" in state:
      raise UserError(
        "the saved position is one in streamed data, and now they would be listed: go on with the"
        " same data.stream and `streams`"
      )
    for key, value in self._identity.items():
      if state[key] != value:
        raise UserError(
          f"the saved position is for {key}={state[key]!r}, but this run has {key}={value!r}:"
          " go back to it, or start in a new workdir"
        )
    for future in self._queue:
      if not future.cancel():
        future.result().batch.cancel()
    self._queue.clear()
    self._state = self._ahead = {key: state[key] for key in packing.START}
    # older checkpoints counted nothing: the counts begin anew
    self.tokens, self._count = state.get("tokens", 0), state.get("batches", 0)
    self._top_up()

  def __exit__(self, *error) -> None:
    """Ends the thread and the worker processes."""
    self._planner.shutdown(cancel_futures=True)
    self._pool.shutdown(cancel_futures=True)


def eval_rows(items: Items, layout: Layout) -> list[list[list[int]]]:
  """Returns the items in each row of `eval_batches`, those of all processes."""
  return packing.pack_epoch(items.lengths().tolist(), **layout.row_limits)


def eval_batches(
  items: Items, layout: Layout, most: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches of training's shapes that hold each item once; the last has padding rows. Of
  more than `most`, so many are yielded, which are spread evenly."""
  builder, own_rows = BatchBuilder(items, layout.source_len, layout.target_len), layout.own_rows
  planned = eval_rows(items, layout)
  if most and len(planned) > most:  # a file may be sorted, by its labels say
    planned = [planned[i * len(planned) // most] for i in range(most)]
  return (builder([[(i, i) for i in row] for row in rows[own_rows]]) for rows in planned)


def requests(
  items: Items, rows: int, longest: int, tokens: int = 0
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches to predict from: a request has one source and the smallest of a few widths.

  Each batch has `row` [rows, K]: the items' indices, -1 for padding, of the K requests that a row
  of a search takes one after another. The other arrays are [rows * K, ...]. K is 1 but where more
  than one request a row have at most so many `tokens`.
  """
  widths = [width for width in WIDTHS if width < longest]
  lengths = items.lengths()[:, 0]
  for width, members in packing.bucketed(lengths, [*widths, longest], rows, tokens):
    # neighbours, of similar lengths, are in different rows, so that all rows have equal work
    number = np.asarray(members, np.int32).reshape(-1, rows).T
    flat = number.reshape(-1).tolist()
    batch = BatchBuilder(items, width, 0)([[(i, i)] if i >= 0 else [] for i in flat])
    yield batch | {"row": number}
