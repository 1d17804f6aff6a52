"""Which item goes in which row of which batch (first fit), and the arrays that come of it."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from train.data.vocabulary import OWN

START = {"position": 0, "carried": []}  # of an endless stream
SMALL = 4096  # examples: Grain walks 65,536 steps an epoch, however few: 1.5 ms an example of 60


def shuffled(n: int, seed: int) -> Callable[[int], int]:
  """The example at each position of an endless stream of range(n), a new order every epoch."""
  # Grain shuffles epoch e by seed + e: unhashed, seed 1 would be seed 0 one epoch later
  mixed = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")
  if n < SMALL:
    permutation = functools.lru_cache(maxsize=8)(
      lambda epoch: np.random.default_rng([mixed, epoch]).permutation(n).tolist()
    )
    return lambda position: permutation(position // n)[position % n]
  import grain  # here, because it imports jax: seconds that worker processes do without

  order = grain.MapDataset.range(n).shuffle(seed=mixed).repeat()
  return lambda position: int(order[position])


def plan(
  lengths_at: Callable[[int], tuple[int, int]],
  state: Mapping,
  *,
  rows: int,
  source_len: int,
  target_len: int,
  max_carried: int | None = None,
  max_per_row: int | None = None,
  end: int | None = None,
) -> tuple[list[list[int]], dict]:
  """Stream positions for each row of the next batch, and the state after it.

  Carried positions come first, oldest first, then the stream from `position` on (to `end`). Each
  goes into the first row with room for its source and its target; one without room is carried, and
  when `max_carried` (default: `rows`) are, the batch is done. Delivered and carried together are
  always exactly range(position). Raises ValueError for an example longer than a row.
  """
  max_carried = rows if max_carried is None else max_carried
  source_room, target_room = np.full(rows, source_len), np.full(rows, target_len)
  filled: list[list[int]] = [[] for _ in range(rows)]
  open_rows = rows

  def place(position: int) -> bool:
    nonlocal open_rows
    source, target = lengths_at(position)
    if source > source_len or not 0 < target <= target_len:
      raise ValueError(f"example {position} of {source}/{target} in {source_len}/{target_len}")
    fits = target_room >= target
    if source:
      fits &= source_room >= source
    row = int(fits.argmax())
    if not fits[row]:
      return False
    filled[row].append(position)
    source_left = source_room.item(row) - source
    target_left = target_room.item(row) - target
    if not target_left or (source_len and not source_left) or len(filled[row]) == max_per_row:
      target_left = 0  # every example has a target, so nothing fits here any more
      open_rows -= 1
    source_room[row], target_room[row] = source_left, target_left
    return True

  carried = [position for position in state["carried"] if not (open_rows and place(position))]
  position = state["position"]
  while open_rows and position != end:
    if not place(position):
      if len(carried) >= max_carried:
        break
      carried.append(position)
    position += 1
  return filled, {"position": position, "carried": carried}


def pack_epoch(
  lengths: Sequence[tuple[int, int]],
  *,
  rows: int,
  source_len: int,
  target_len: int,
  max_per_row: int | None = None,
) -> list[list[list[int]]]:
  """Batches of rows that hold each example once, in one pass; the last has empty rows."""
  batches, state = [], START
  while state["position"] < len(lengths) or state["carried"]:
    filled, state = plan(
      lengths.__getitem__,
      state,
      rows=rows,
      source_len=source_len,
      target_len=target_len,
      max_per_row=max_per_row,
      end=len(lengths),
    )
    batches.append(filled)
  return batches


def bucketed(
  lengths: Sequence[int], widths: Sequence[int], rows: int
) -> list[tuple[int, list[int]]]:
  """(width, `rows` indices) of batches to decode, longest first; index -1 is a row of padding.

  A sentence gets the smallest width that holds it, or the largest there is, whatever lies beside
  it: so what is decoded for it does not depend on its batch.
  """
  widths = np.sort(np.asarray(widths))
  bucket = np.searchsorted(widths, np.minimum(lengths, widths[-1]))
  order = np.argsort(-np.asarray(lengths), kind="stable")
  batches = []
  for number in reversed(range(len(widths))):
    inside = order[bucket[order] == number].tolist()
    for start in range(0, len(inside), rows):
      batch = inside[start : start + rows]
      batches.append((int(widths[number]), batch + [-1] * (rows - len(batch))))
  return batches


def fill(
  rows: Sequence[Sequence[int]],
  items: Mapping[int, Mapping[str, Sequence]],
  *,
  source_len: int,
  target_len: int,
  extras: Mapping[str, str] | None = None,
  start: int = OWN.start,
) -> dict[str, np.ndarray]:
  """The batch, arrays [rows, target_len] or [rows, source_len], of the items named in the rows.

  A target gives labels, inputs (the labels one later, `start` first), weights (float32, 1 on a
  label), segments (1, 2, ... in a row, 0 is padding) and positions (0, 1, ... in a segment); a
  source gives source, source_segments, source_positions. A side of length 0 is absent. `extras`
  (batch key -> dtype) are what items say themselves, along the target or, without one, the source.
  """
  batch, places = {}, {}
  if source_len:
    names = ("source", "source_segments", "source_positions")
    places = _lay(batch, names, rows, items, "source", source_len)
  if target_len:
    names = ("labels", "segments", "positions")
    places = _lay(batch, names, rows, items, "target", target_len)
    batch["weights"] = (batch["segments"] > 0).astype(np.float32)
    batch["inputs"] = np.zeros_like(batch["labels"])
    batch["inputs"][:, 1:] = batch["labels"][:, :-1]
    batch["inputs"][batch["positions"] == 0] = start
    batch["inputs"][batch["segments"] == 0] = 0
  for key, dtype in (extras or {}).items():
    if key not in batch:
      batch[key] = np.zeros((len(rows), target_len or source_len), dtype)
    for i, (row, span) in places.items():
      if key in items[i]:
        batch[key][row, span] = items[i][key]
  return batch


def _lay(batch, names, rows, items, side: str, length: int) -> dict[int, tuple[int, slice]]:
  """Puts one side of the items into new arrays of the batch; says where each item lies."""
  ids, segments, positions = (np.zeros((len(rows), length), np.int32) for _ in names)
  places = {}
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
      places[i] = r, span
      start = span.stop
  batch.update(zip(names, (ids, segments, positions)))
  return places
