"""Batches for training, endless and resumable at any batch, and one pass for evaluation."""

import collections
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.data import packing
from train.data.items import Items, order

CHUNK = 1024  # stream positions looked up at a time
WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)  # of rows to predict from

# A row of a batch: number and place in the stream of each of its items.
Row = list[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Layout:
  """The shape of a batch. A side of length 0 is absent; one side at least is there."""

  batch_size: int  # rows of the global batch, all processes together
  source_len: int
  target_len: int
  pack: bool = True
  process_index: int = 0
  process_count: int = 1

  @property
  def mine(self) -> slice:
    """This process's rows; UserError if the processes cannot share them evenly."""
    rows, left = divmod(self.batch_size, self.process_count)
    if left:
      raise UserError(
        f"batch_size={self.batch_size} must be a multiple of the {self.process_count} processes"
      )
    return slice(rows * self.process_index, rows * (self.process_index + 1))

  @property
  def planned(self) -> dict:
    """What `packing.plan` wants to know. Its target is the side that every item has."""
    source, target = self.source_len, self.target_len
    sides = (source, target) if target else (0, source)
    most = None if self.pack else 1
    return dict(rows=self.batch_size, max_per_row=most, source_len=sides[0], target_len=sides[1])

  def sizes(self, items: Items) -> np.ndarray:
    """Rooms of the items as `planned` counts them: int32 [items, 2]."""
    rooms = items.lengths()
    return rooms if self.target_len else rooms[:, ::-1]


@dataclasses.dataclass(frozen=True)
class Maker:
  """Reads items and fills batches with them; all that a worker process needs."""

  items: Items
  source_len: int
  target_len: int

  def __call__(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """The batch of the rows."""
    numbers, places = zip(*(one for row in rows for one in row)) if any(rows) else ((), ())
    made = dict(zip(places, self.items.read(numbers, places)))
    return packing.fill(
      [[place for _, place in row] for row in rows],
      made,
      source_len=self.source_len,
      target_len=self.target_len,
      extras=self.items.extras,
      **({"start": self.items.start} if self.target_len else {}),
    )


_maker: Maker  # of this worker process


def _start_worker(maker: Maker) -> None:
  global _maker
  _maker = maker
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
  os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the threads
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()  # returns when the parent is gone, kill -9 included
  os._exit(1)


def _work(rows: list[Row]) -> dict[str, np.ndarray]:
  return _maker(rows)


@dataclasses.dataclass
class _Planned:
  rows: list[Row]  # this process's
  places: list[list[int]]  # of all rows
  state: dict  # of the stream, after this batch
  batch: Future[dict[str, np.ndarray]]


class Batches(Iterator, contextlib.AbstractContextManager):
  """Iterates over batches for ever: this process's rows of each, in a new order every epoch.

  A thread plans; it also reads and tokenises (workers=0), or `workers` processes do. The position
  is that of the global stream: batches and state are the same for any number of workers and
  processes. Raises UserError for a batch_size the processes cannot share, for empty data, and when
  a worker dies twice on one batch.
  """

  def __init__(
    self, items: Items, layout: Layout, *, seed: int, workers: int = 0, lookahead: int = 4
  ):
    self._maker = Maker(items, layout.source_len, layout.target_len)
    self._layout, self._mine = layout, layout.mine
    self._sizes = layout.sizes(items)
    self._order = order(items, len(self._sizes), seed)
    self._chunk = functools.lru_cache(maxsize=64)(self._read_chunk)
    self._identity = {"seed": seed, "data": items.fingerprint}
    self._state = self._ahead = packing.START
    self._workers, self._lookahead = workers, max(lookahead, workers + 1)
    self._planner = ThreadPoolExecutor(1, "batches")
    self._pool = self._start_pool() if workers else self._planner
    self._queue: collections.deque[Future[_Planned]] = collections.deque()
    self.tokens, self._places, self._restarted = 0, 0, False
    self.stall_seconds = 0.0
    self._top_up()

  def _start_pool(self) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a fork would copy jax's threads' locks
    return ProcessPoolExecutor(self._workers, context, _start_worker, (self._maker,))

  def _read_chunk(self, number: int) -> list[tuple[int, int, int]]:
    indices = [self._order(i) for i in range(number * CHUNK, (number + 1) * CHUNK)]
    return list(zip(indices, *self._sizes[indices].T.tolist()))

  def _at(self, position: int) -> tuple[int, int, int]:
    return self._chunk(position // CHUNK)[position % CHUNK]  # item number, its two sizes

  def _sizes_at(self, position: int) -> tuple[int, int]:
    return self._at(position)[1:]

  def _plan(self) -> _Planned:
    rows, self._ahead = packing.plan(self._sizes_at, self._ahead, **self._layout.planned)
    mine = [[(self._at(place)[0], place) for place in row] for row in rows[self._mine]]
    return _Planned(mine, rows, self._ahead, self._submit(mine))

  def _submit(self, rows: list[Row]) -> Future[dict[str, np.ndarray]]:
    try:
      return self._pool.submit(_work if self._workers else self._maker, rows)
    except BrokenProcessPool as error:
      failed = Future()
      failed.set_exception(error)
      return failed

  def _top_up(self) -> None:
    while len(self._queue) < self._lookahead:
      self._queue.append(self._planner.submit(self._plan))

  def _restart_pool(self) -> None:
    if self._restarted:
      raise UserError(
        "a data worker process died twice on one batch (killed, or out of memory?): set fewer"
        " workers (0 for none) and run the same command again"
      )
    self._restarted = True
    logging.warning("a data worker process died: starting the workers anew")
    waiting = [future.result() for future in self._queue]  # and the planner is at rest
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
    self._delivered = planned.places
    self.stall_seconds += time.perf_counter() - started
    # of this process's rows, as a sample of all
    segments = batch["segments" if self._layout.target_len else "source_segments"]
    self.tokens += int((segments > 0).sum()) * self._layout.process_count
    self._places += segments.size * self._layout.process_count
    return batch

  @property
  def fingerprint(self) -> str:
    """Of the data."""
    return self._identity["data"]

  @property
  def delivered(self) -> Callable[[], list[list[int]]]:
    """Gives the numbers of the last batch's items, row by row, all processes together; also when
    there have been batches since."""
    places = self._delivered
    return lambda: [[self._at(place)[0] for place in row] for row in places]

  @property
  def padding(self) -> float:
    """Share of padding in the batches so far, on the target side if there is one."""
    return 1 - self.tokens / self._places if self._places else 0.0

  @property
  def examples(self) -> int:
    """Examples delivered so far, all processes and the runs before this one together."""
    return self._state["position"] - len(self._state["carried"])

  @property
  def epoch(self) -> int:
    """Passes over the data that the stream has completed."""
    return self._state["position"] // len(self._sizes)

  def get_state(self) -> dict:
    """The position after the last delivered batch, fit for JSON."""
    return {**self._state, "carried": list(self._state["carried"]), **self._identity}

  def set_state(self, state: Mapping) -> None:
    """Goes to a position; raises UserError when it is one in other data or another order."""
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
    self._top_up()

  def close(self) -> None:
    """Ends the thread and the worker processes."""
    self._planner.shutdown(cancel_futures=True)
    self._pool.shutdown(cancel_futures=True)

  def __exit__(self, *error) -> None:
    self.close()


def eval_batches(items: Items, layout: Layout) -> Iterator[dict[str, np.ndarray]]:
  """Batches of training's shapes that hold each item once; the last has rows of padding."""
  maker = Maker(items, layout.source_len, layout.target_len)
  mine = layout.mine
  planned = packing.pack_epoch(layout.sizes(items).tolist(), **layout.planned)
  return (maker([[(i, i) for i in row] for row in rows[mine]]) for rows in planned)


def requests(items: Items, rows: int, longest: int) -> Iterator[dict[str, np.ndarray]]:
  """Batches to predict from, one source a row in the smallest of a few widths that holds it.

  Each has `row` [rows]: the item's number, -1 for a row of padding.
  """
  widths = [n for n in WIDTHS if n < longest]
  for width, members in packing.bucketed(items.lengths()[:, 0], [*widths, longest], rows):
    maker = Maker(items, width, 0)
    batch = maker([[(i, i)] if i >= 0 else [] for i in members])
    yield batch | {"row": np.asarray(members, np.int32)}
