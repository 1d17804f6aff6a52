"""Makes batches of a corpus that is too large to list, from virtual streams (streams.py).

The rows of a batch are divided among the streams. A worker process owns some streams: it reads and
tokenises their shards, packs their rows, and fills them.
"""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from absl import logging

from train.common.errors import UserError
from train.data import bad_records, streams, workers
from train.data.batches import Batches, Layout
from train.data.items import Items, is_streamed
from train.data.mixed_items import MixedItems
from train.data.weaving import START, Rows, Weaver

MOST_STREAMS = 64
FIRST_RECORDS = 10_000  # of which as large a share may be bad as of all
# What a tally counts -> its metric.
LOGGED = dict(truncated="truncated_items", bad="skipped_records", dropped="blank_examples")
Gather = Callable[[Any], list]  # returns the values of all processes, in their order


def alone(value: Any) -> list:
  """Returns the value of a process that is alone."""
  return [value]


def open_batches(
  items: Items, layout: Layout, *, seed: int, workers: int, count: int = 0, gather: Gather = alone
) -> "Batches | StreamedBatches":
  """Returns the training batches of the items: those of `count` virtual streams where the data are
  streamed, or where `count` is given; else those of one stream whose lengths are all known."""
  if count or is_streamed(items):
    options = dict(seed=seed, count=count, workers=workers, gather=gather)
    return StreamedBatches(items, layout, **options)
  if capped := [*getattr(items, "epochs", ())]:
    raise UserError(
      f"task.parts.{capped[0]}.max_epochs is for a mixture that is streamed, and these data are"
      f" small: stream them too, --config.streams={math.gcd(layout.batch_size, MOST_STREAMS)}"
    )
  return Batches(items, layout, seed=seed, workers=workers)


class _Worker:
  """A process, or a thread, that makes the rows of some streams ahead of their use."""

  def __init__(self, weaver: Weaver, states: Mapping, lookahead: int, in_process: bool):
    self._weaver, self.states = weaver, dict(states)
    self._lookahead, self._in_process, self._restarted = lookahead, in_process, False
    self._executor: Executor | None = None

  def start(self, states: Mapping) -> None:
    """Starts making rows from these states, in a new process or thread."""
    self.stop()
    self.states = dict(states)
    if self._in_process:
      opener = (self._weaver.open, self.states)
      self._executor = ProcessPoolExecutor(1, workers.CONTEXT, workers.start, opener)
      self._task: Callable[[], Rows] = workers.run
    else:
      self._executor = ThreadPoolExecutor(1, "batches")
      opened = self._executor.submit(self._weaver.open, self.states)
      self._task = lambda: opened.result()()
    self._queue: collections.deque[Future[Rows]] = collections.deque()
    self._top_up()

  def _top_up(self):
    with contextlib.suppress(BrokenProcessPool):  # `next` finds out
      while len(self._queue) < self._lookahead:
        self._queue.append(self._executor.submit(self._task))

  def next(self) -> Rows:
    """Returns the next rows; raises UserError when the process dies twice on one batch."""
    if not self._executor:
      self.start(self.states)
    while True:
      try:
        if not self._queue:
          raise BrokenProcessPool
        rows = self._queue.popleft().result()
        break
      except BrokenProcessPool:
        if self._restarted:
          raise UserError(workers.DIED_TWICE) from None
        self._restarted = True
        logging.warning("a data worker process died: starting it anew")
        self.start(self.states)
    self._restarted, self.states = False, rows.states
    self._top_up()
    return rows

  def stop(self) -> None:
    """Ends the process or thread."""
    if self._executor:
      self._executor.shutdown(wait=not self._in_process, cancel_futures=True)


class StreamedBatches(Iterator, contextlib.AbstractContextManager):
  """An endless iterator over batches, as `batches.Batches`, from `count` virtual streams (0: the
  most up to MOST_STREAMS that share a batch's rows evenly).

  The batches are the same for any number of workers and processes, and a process reads its own
  streams alone. Raises UserError
  where streams cannot share the rows, or processes the streams.
  """

  def __init__(
    self,
    items: Items,
    layout: Layout,
    *,
    seed: int,
    count: int = 0,
    workers: int = 0,
    lookahead: int = 4,
    gather: Gather = alone,
  ):
    self._layout, self._gather, self.fingerprint = layout, gather, items.fingerprint
    self.streams = _choose_count(items, layout.batch_size, count)
    self._own = _share(self.streams, layout)
    self._num_shards = streams.count_shards(items)
    self._identity = {"seed": seed, "streams": self.streams, "data": streams.identity(items)}
    if isinstance(items, MixedItems):
      self._identity["rates"] = items.block_rates()
    weaver, states = Weaver(items, layout, seed, self.streams), dict.fromkeys(self._own, START)
    parts = np.array_split(self._own, min(max(workers, 1), len(self._own)))
    self._workers = [
      _Worker(weaver, {number: states[number] for number in part.tolist()}, lookahead, workers > 0)
      for part in parts
    ]
    self.stall_seconds, self._places = 0.0, []
    self._logged = collections.Counter()

  def __next__(self) -> dict[str, np.ndarray]:
    started = time.perf_counter()
    parts = [worker.next() for worker in self._workers]
    arrays = {key: np.concatenate([part.arrays[key] for part in parts]) for key in parts[0].arrays}
    self._places = [row for part in parts for row in part.places]
    self._report([note for part in parts for note in part.notes])
    self.stall_seconds += time.perf_counter() - started
    return arrays

  def _states(self) -> dict[int, dict]:
    return {number: state for worker in self._workers for number, state in worker.states.items()}

  def _totals(self, names: Sequence[str]) -> dict[str, int]:
    states = self._states().values()
    return {name: sum(state["counts"].get(name, 0) for state in states) for name in names}

  def _report(self, notes: list[str]) -> None:
    """Logs records that were skipped; raises UserError for too many of those read so far."""
    if not notes:
      return
    for note in notes[: max(bad_records.FEW - self._logged["bad"], 0)]:
      logging.warning("skipped: %s", note)
    self._logged["bad"] += len(notes)
    totals = self._totals(("bad", "examples"))
    total = max(sum(totals.values()), FIRST_RECORDS)  # the first ones may lie close together
    bad_records.check_share("data", totals["bad"], total, notes[0])

  @property
  def delivered(self) -> Callable[[], list[list[tuple]]]:
    """Returns a function for the places of the items in this process's last rows."""
    places = self._places
    return lambda: places

  def counts(self) -> dict[str, float]:
    """Returns `tokens`, `padding` and `epoch` as Batches does, of all processes together, with the
    counts of LOGGED so far, where there are some."""
    names = ("tokens", "batches", "shards", *LOGGED)
    gathered = self._gather(self._totals(names))
    totals = {name: sum(part[name] for part in gathered) for name in names}
    length = self._layout.target_len or self._layout.source_len
    capacity = totals["batches"] * (self._layout.batch_size // self.streams) * length
    padding = 1 - totals["tokens"] / capacity if capacity else 0.0
    more = {LOGGED[name]: totals[name] for name in LOGGED if totals[name]}
    epoch = totals["shards"] // self._num_shards
    return dict(tokens=totals["tokens"], padding=padding, epoch=epoch, **more)

  def get_state(self) -> dict:
    """Returns the position after the last batch as JSON values, of all processes' streams."""
    states = {}
    for part in self._gather({str(number): x for number, x in self._states().items()}):
      states |= part
    return {**self._identity, "states": states}

  def set_state(self, state: Mapping) -> None:
    """Moves to a saved position; raises UserError for a position in other data or another order."""
    if "states" not in state:
      raise UserError(
        "the saved position is one in data that were listed before training, and now they would be"
        " streamed: go on with --config.task.data.stream=False"
      )
    here, data = self._identity, self._identity["data"]
    added = sorted(data.keys() - state["data"].keys())
    same = [key for key in ("seed", "streams", *["rates"] * (not added)) if key in state]
    pairs = {key: (state[key], here.get(key)) for key in same}
    pairs |= {f"data {name}".strip(): (x, data.get(name)) for name, x in state["data"].items()}
    for key, (before, now) in pairs.items():
      if before != now:
        raise UserError(
          f"the saved position is for {key}={before!r}, but this run has {key}={now!r}: go back to"
          " it, or start in a new workdir"
        )
    if added:
      logging.warning("parts of the mixture that begin here: %s", ", ".join(added))
    for worker in self._workers:
      worker.start({number: state["states"][str(number)] for number in worker.states})

  def __exit__(self, *error) -> None:
    """Ends the threads and the worker processes."""
    for worker in self._workers:
      worker.stop()


def _choose_count(items: Items, batch_size: int, count: int) -> int:
  """Returns the number of streams: `count`, or the most that share the rows evenly and have shards
  of their own; raises UserError for a count of more streams than there are shards."""
  shards = streams.most_shards(items)
  if count > shards:
    raise UserError(f"streams={count}: data of {shards} shards are read by at most as many streams")
  if count:
    return count
  if shards < MOST_STREAMS:
    logging.info(
      "data of %d shards are read by at most as many streams, and by as many processes; unpacked"
      " files, or more of them, have more",
      shards,
    )
  most = math.gcd(batch_size, MOST_STREAMS)
  return max(n for n in range(1, min(shards, most) + 1) if most % n == 0)


def _share(count: int, layout: Layout) -> range:
  """Returns the numbers of this process's streams; raises UserError if they cannot be shared."""
  if layout.batch_size % count:
    raise UserError(
      f"streams={count}: batch_size={layout.batch_size} must be a multiple, as each stream has the"
      " same number of rows"
    )
  each, remainder = divmod(count, layout.process_count)
  if remainder:
    raise UserError(
      f"streams={count} must be a multiple of the {layout.process_count} processes: set streams,"
      " and batch_size to a multiple of it"
    )
  return range(each * layout.process_index, each * (layout.process_index + 1))
