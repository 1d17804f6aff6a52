"""Batches for training, endless and resumable at any batch, and one pass for evaluation."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from train.data import packing
from train.data.tokenizer import EOS, Tokenizer
from train.errors import UserError
from train.paths import cache_dir

if TYPE_CHECKING:  # it imports TFDS, which a worker may do without
  from train.data.sources import Source

CHUNK = 1024  # examples encoded, or stream positions looked up, at a time


@dataclasses.dataclass(frozen=True)
class Maker:
  """Reads, tokenises, truncates and fills; all that a worker process needs. source_len 0: none."""

  source: "Source"
  tokenizer: Tokenizer
  source_len: int
  target_len: int

  def sides(self) -> dict[str, int]:
    """Row length of each side that there is."""
    both = {"source": self.source_len, "target": self.target_len}
    return both if self.source_len else {"target": self.target_len}

  def layout(self, batch_size: int, pack: bool) -> dict:
    """What `packing` wants to know of a batch."""
    sizes = {"source_len": self.source_len, "target_len": self.target_len}
    return {"rows": batch_size, "max_per_row": None if pack else 1, **sizes}

  def __call__(self, rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """The batch of the example indices in the rows (`packing.fill`)."""
    examples = {i: {} for row in rows for i in row}
    encoded = self._encode(list(examples))
    for side, length in self.sides().items():
      for i, ids in zip(examples, encoded[side]):
        examples[i][side] = ids[: length - 1] + [EOS]
    return packing.fill(rows, examples, source_len=self.source_len, target_len=self.target_len)

  def _encode(self, indices: Sequence[int]) -> dict[str, list[list[int]]]:
    read = getattr(self.source, "_getitems", None)  # many at once: faster where a source can
    texts = read(indices) if read and indices else [self.source[i] for i in indices]
    return {side: self.tokenizer.encode_batch([t[side] for t in texts]) for side in self.sides()}

  def lengths(self) -> np.ndarray:
    """Source and target tokens, eos included, nothing cut: int32 [examples, 2]; kept on disk."""
    key = [self.source.fingerprint, self.tokenizer.fingerprint, *self.sides()]
    name = hashlib.sha256(" ".join(key).encode()).hexdigest()[:32]
    path = cache_dir("lengths") / f"{name}.npy"
    try:
      found = np.load(path)
      if found.shape == (len(self.source), 2):
        return found
    except (OSError, ValueError, EOFError):
      pass  # not there, or not whole: measured anew
    found = np.zeros((len(self.source), 2), np.int32)
    for start in range(0, len(found), CHUNK):
      encoded = self._encode(range(start, min(start + CHUNK, len(found))))
      for side, ids in encoded.items():
        found[start : start + CHUNK, int(side == "target")] = [len(row) + 1 for row in ids]
      logging.log_every_n_seconds(logging.INFO, "encoded %d of %d examples", 10, start, len(found))
    temporary = path.with_name(f"{uuid.uuid4().hex}.npy")
    np.save(temporary, found)
    os.replace(temporary, path)
    return found

  def fitted(self) -> tuple[np.ndarray, dict[str, int]]:
    """Lengths cut to the rows, and how many examples lose something on each side."""
    if not len(self.source):
      raise UserError("the data has no example: check the split and the files it names")
    found = self.lengths()
    limits = (self.source_len, self.target_len)
    cut = (found > limits).sum(0).tolist()
    if any(cut):
      logging.warning(
        "of %d examples, %d sources are truncated to %d tokens and %d targets to %d",
        *(len(found), cut[0], limits[0], cut[1], limits[1]),
      )
    return np.minimum(found, limits), dict(zip(("source", "target"), cut))


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


def _work(rows: list[list[int]]) -> dict[str, np.ndarray]:
  return _maker(rows)


@dataclasses.dataclass
class _Planned:
  rows: list[list[int]]  # example indices of this process's rows
  state: dict  # of the stream, after this batch
  tokens: int  # non-pad target tokens of the global batch
  batch: Future[dict[str, np.ndarray]]


def _slice(batch_size: int, process_index: int, process_count: int) -> slice:
  if batch_size % process_count:
    raise UserError(f"batch_size={batch_size} must be a multiple of the {process_count} processes")
  return slice(*(batch_size // process_count * p for p in (process_index, process_index + 1)))


class Batches(Iterator, contextlib.AbstractContextManager):
  """Iterates over batches for ever: this process's rows of each, in a new order every epoch.

  A thread plans; it also reads and tokenises (workers=0), or `workers` processes do. The position
  is that of the global stream: batches and state are the same for any number of workers and
  processes. Raises UserError for a batch_size the processes cannot share, for empty data, and when
  a worker dies twice on one batch.
  """

  def __init__(
    self,
    source: "Source",
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    source_len: int,
    target_len: int,
    seed: int,
    pack: bool = True,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    lookahead: int = 4,
  ):
    self._maker = Maker(source, tokenizer, source_len, target_len)
    self._mine = _slice(batch_size, process_index, process_count)
    self._lengths, self.truncated = self._maker.fitted()
    self._layout = self._maker.layout(batch_size, pack)
    self._order = packing.shuffled(len(source), seed)
    self._chunk = functools.lru_cache(maxsize=64)(self._read_chunk)
    self._identity = {"seed": seed, "data": source.fingerprint}
    self._state = self._ahead = packing.START
    self._workers, self._lookahead = workers, max(lookahead, workers + 1)
    self._planner = ThreadPoolExecutor(1, "batches")
    self._pool = self._start_pool() if workers else self._planner
    self._queue: collections.deque[Future[_Planned]] = collections.deque()
    self._tokens, self._places, self._restarted = 0, 0, False
    self.stall_seconds = 0.0
    self._top_up()

  def _start_pool(self) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a fork would copy jax's threads' locks
    return ProcessPoolExecutor(self._workers, context, _start_worker, (self._maker,))

  def _read_chunk(self, number: int) -> list[tuple[int, int, int]]:
    indices = [self._order(i) for i in range(number * CHUNK, (number + 1) * CHUNK)]
    return list(zip(indices, *self._lengths[indices].T.tolist()))

  def _at(self, position: int) -> tuple[int, int, int]:
    return self._chunk(position // CHUNK)[position % CHUNK]  # example index, its two lengths

  def _plan(self) -> _Planned:
    rows, self._ahead = packing.plan(lambda i: self._at(i)[1:], self._ahead, **self._layout)
    tokens = sum(self._at(position)[2] for row in rows for position in row)
    mine = [[self._at(position)[0] for position in row] for row in rows[self._mine]]
    return _Planned(mine, self._ahead, tokens, self._submit(mine))

  def _submit(self, rows: list[list[int]]) -> Future[dict[str, np.ndarray]]:
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
    self.stall_seconds += time.perf_counter() - started
    self._tokens += planned.tokens
    self._places += self._layout["rows"] * self._layout["target_len"]
    return batch

  @property
  def padding(self) -> float:
    """Share of padding in the target side of the global batches so far."""
    return 1 - self._tokens / self._places if self._places else 0.0

  @property
  def examples(self) -> int:
    """Examples delivered so far, all processes and the runs before this one together."""
    return self._state["position"] - len(self._state["carried"])

  @property
  def epoch(self) -> int:
    """Passes over the data that the stream has completed."""
    return self._state["position"] // len(self._lengths)

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


def eval_batches(
  source: "Source",
  tokenizer: Tokenizer,
  *,
  batch_size: int,
  source_len: int,
  target_len: int,
  pack: bool = True,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Batches of training's shapes that hold each example once; the last has rows of padding."""
  mine = _slice(batch_size, process_index, process_count)
  maker = Maker(source, tokenizer, source_len, target_len)
  planned = packing.pack_epoch(maker.fitted()[0].tolist(), **maker.layout(batch_size, pack))
  return (maker(rows[mine]) for rows in planned)
