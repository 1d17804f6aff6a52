"""Packs items into the rows of batches (first fit), and fills the batches' arrays."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from train.data.roles import OWN

START = {"position": 0, "carried": []}  # the state of an endless stream at its beginning
# Below so many examples numpy shuffles: Grain walks 65,536 steps an epoch however small the data,
# 1.5 ms for each of 60 examples.
SMALL = 4096
# Requests that a row of a batch to decode may have one after another: few shapes, little padding.
DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
FEW_ROWS = 16  # up to so many, lists are faster than arrays


def shuffled(n: int, seed: int) -> Callable[[int], int]:
  """Returns the function from a position in an endless stream to an index in range(n).

  Every epoch has an order of its own.
  """
  # Grain shuffles epoch e by seed + e: unhashed, seed 1 would be seed 0 one epoch later
  mixed = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")
  if n < SMALL:
    permutation = functools.lru_cache(maxsize=8)(
      lambda epoch: np.random.default_rng([mixed, epoch]).permutation(n).tolist()
    )
    return lambda position: permutation(position // n)[position % n]
  import grain  # imported late: it imports jax, whose seconds the worker processes save

  order = grain.MapDataset.range(n).shuffle(seed=mixed).repeat()
  return lambda position: int(order[position])


def permuted(n: int, seed: int) -> Callable[[int], int]:
  """Returns the function from a position in an endless stream to a number in range(n), in another
  order every epoch, without an array of n numbers.

  The order is a permutation by a Feistel network (Luby & Rackoff 1988) over the next power of 4,
  in which numbers beyond n are permuted on.
  """
  if n < SMALL:
    return shuffled(n, seed)
  half = ((n - 1).bit_length() + 1) // 2
  mask = (1 << half) - 1

  def number_at(position: int) -> int:
    epoch, place = divmod(position, n)
    while True:
      left, right = place >> half, place & mask
      for turn in range(4):
        text = f"{seed} {epoch} {turn} {right}".encode()
        drawn = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        left, right = right, left ^ (drawn & mask)
      place = left << half | right
      if place < n:
        return place

  return number_at


def plan(
  lengths_at: Callable[[int], tuple[int, int]],
  state: Mapping,
  *,
  rows: int,
  source_len: int,
  target_len: int,
  max_per_row: int | None = None,
  end: int | None = None,
  carry: int = 0,
) -> tuple[list[list[int]], dict]:
  """Returns the stream positions in each row of the next batch, and the state after the batch.

  `lengths_at(position)` is the item's length on each side: source, target. A side with a row length
  of 0 is absent. Carried positions come first, oldest first, then the stream from `position` on (to
  `end`). Each item goes into the first row with space on both sides; an item without such a row is
  carried, and the batch ends when as many items are carried as the batch has rows, or `carry` if
  that is more. Delivered and carried positions together are always exactly range(position).
  Raises ValueError for an item longer than a row, and for one without a token on the target or,
  where targets are absent, the source.
  """
  source_left, target_left = [source_len] * rows, [target_len] * rows
  if rows > FEW_ROWS:
    source_left, target_left = np.asarray(source_left), np.asarray(target_left)
  filled: list[list[int]] = [[] for _ in range(rows)]
  open_rows = rows

  def put_in_row(position: int) -> bool:
    nonlocal open_rows
    source, target = lengths_at(position)
    if source > source_len or target > target_len or not (target if target_len else source):
      raise ValueError(f"example {position} of {source}/{target} in {source_len}/{target_len}")
    row = _first_fit(source_left, target_left, source, target)
    if row is None:
      return False
    filled[row].append(position)
    source_left[row] -= source
    target_left[row] -= target
    full = (source_len and not source_left[row]) or (target_len and not target_left[row])
    if full or len(filled[row]) == max_per_row:
      source_left[row] = target_left[row] = -1  # closed: not even an empty side fits
      open_rows -= 1
    return True

  carried = [place for place in state["carried"] if not (open_rows and put_in_row(place))]
  position = state["position"]
  while open_rows and position != end:
    if not put_in_row(position):
      if len(carried) >= max(rows, carry):
        break
      carried.append(position)
    position += 1
  return filled, {"position": position, "carried": carried}


def _first_fit(source_left, target_left, source: int, target: int) -> int | None:
  """Returns the first row with so much space on both sides."""
  if isinstance(source_left, list):
    for row, left in enumerate(source_left):
      if left >= source and target_left[row] >= target:
        return row
    return None
  fits = (source_left >= source) & (target_left >= target)
  row = int(fits.argmax())
  return row if fits[row] else None


def pack_epoch(lengths: Sequence[tuple[int, int]], **limits) -> list[list[list[int]]]:
  """Returns batches of rows of indices that hold each item once; the last batch has empty rows.

  `limits` are `plan`'s: rows, source_len, target_len, max_per_row.
  """
  batches, state = [], START
  while state["position"] < len(lengths) or state["carried"]:
    filled, state = plan(lengths.__getitem__, state, end=len(lengths), **limits)
    batches.append(filled)
  return batches


def bucketed(
  lengths: Sequence[int], widths: Sequence[int], rows: int, tokens: int = 0
) -> list[tuple[int, list[int]]]:
  """Returns (width, indices) of batches to decode, longest first; index -1 is padding.

  A batch has `rows` indices, or a multiple of it in DEPTHS while it has at most so many `tokens`. A
  sentence gets the smallest width that holds it, or the largest width, whatever the other rows are:
  its output does not depend on its batch.
  """
  widths = np.sort(np.asarray(widths))
  bucket = np.searchsorted(widths, np.minimum(lengths, widths[-1]))
  order = np.argsort(-np.asarray(lengths), kind="stable")
  batches = []
  for number, width in reversed(list(enumerate(widths.tolist()))):
    members = order[bucket[order] == number].tolist()
    most = rows * max(depth for depth in DEPTHS if depth == 1 or depth * rows * width <= tokens)
    for start in range(0, len(members), most):
      batch = members[start : start + most]
      size = rows * next(depth for depth in DEPTHS if depth * rows >= len(batch))
      batches.append((width, batch + [-1] * (size - len(batch))))
  return batches


def fill(
  rows: Sequence[Sequence[int]],
  items: Mapping[int, Mapping[str, Sequence]],
  *,
  source_len: int,
  target_len: int,
  extras: Mapping[str, str] | None = None,
  start: int | None = OWN.start,
) -> dict[str, np.ndarray]:
  """Returns the batch of the items whose keys are in `rows`: arrays [rows, length].

  The target becomes labels, inputs (the labels shifted right, `start` first), weights (float32, 1
  on a label), segments (1, 2, ... in a row, 0 on padding), positions (0, 1, ... in a segment). The
  source becomes source, source_segments and source_positions. A side of length 0 is absent.
  `extras` (batch key -> dtype) are rows of the items themselves, along the target or, without one,
  the source.
  """
  batch, spans = {}, {}
  if source_len:
    names = ("source", "source_segments", "source_positions")
    spans = _fill_side(batch, names, rows, items, "source", source_len)
  if target_len:
    names = ("labels", "segments", "positions")
    spans = _fill_side(batch, names, rows, items, "target", target_len)
    batch["weights"] = (batch["segments"] > 0).astype(np.float32)
    batch["inputs"] = np.zeros_like(batch["labels"])
    batch["inputs"][:, 1:] = batch["labels"][:, :-1]
    batch["inputs"][batch["positions"] == 0] = start
    batch["inputs"][batch["segments"] == 0] = 0
  for key, dtype in (extras or {}).items():
    if key not in batch:
      batch[key] = np.zeros((len(rows), target_len or source_len), dtype)
    for i, (row, span) in spans.items():
      if key in items[i]:
        batch[key][row, span] = items[i][key]
  return batch


def unpack(
  rows: Sequence[Sequence[int]], lengths: Sequence[int], arrays: Mapping[str, np.ndarray]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
  """Yields each number in `rows` with its part of the arrays [rows, length, ...]: as many values
  as its length, behind those of the numbers before it in the row."""
  for row, numbers in enumerate(rows):
    stop = 0
    for number in numbers:
      start, stop = stop, stop + lengths[number]
      yield number, {name: values[row, start:stop] for name, values in arrays.items()}


def _fill_side(batch, names, rows, items, side: str, length: int) -> dict[int, tuple[int, slice]]:
  """Adds the arrays of one side to the batch; returns the row and span of each item."""
  ids, segments, positions = (np.zeros((len(rows), length), np.int32) for _ in names)
  spans = {}
  for r, row in enumerate(rows):
    start = 0
    for segment, i in enumerate(row, 1):
      tokens = items[i].get(side, ())
      span = slice(start, start + len(tokens))
      if span.stop > length:
        raise ValueError(f"row {r}: {span.stop} {side} tokens in {length}")
      ids[r, span] = tokens
      segments[r, span] = segment
      positions[r, span] = np.arange(len(tokens))
      spans[i] = r, span
      start = span.stop
  batch.update(zip(names, (ids, segments, positions)))
  return spans
