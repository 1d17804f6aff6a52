"""Reports how far the files of a prepared corpus are, from what lies in its folder."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence

from absl import logging

from train.common import paths
from train.preparing.job import PROGRESS, Job
from train.preparing.parts import PARTIAL, shard_range

SECONDS = 10  # between two lines


@contextlib.contextmanager
def report(job: Job, waiting: Sequence[int]) -> Iterator[None]:
  """Logs, while its block runs, the shards done, the tokens a second and the time left."""
  ended = threading.Event()
  thread = threading.Thread(target=_follow, args=(job, list(waiting), ended), daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


def _follow(job: Job, waiting: list[int], ended: threading.Event) -> None:
  total, began = job.shards.num_shards, time.monotonic()
  done: dict[int, tuple[int, int]] = {}
  before = total - _count(job, waiting)
  while not ended.wait(SECONDS):
    for number in waiting:
      done[number] = _read(job, number) or done.get(number, (0, 0))
    shards, tokens = map(sum, zip(*done.values()))
    seconds = max(time.monotonic() - began, 1e-9)
    line = f"{job.split}: {before + shards:,} of {total:,} shards, {tokens / seconds:,.0f} tokens/s"
    if shards:
      left = seconds * (total - before - shards) / shards
      line += f", {left / 60:,.0f} minutes left" if left >= 90 else f", {left:,.0f} s left"
    logging.info("%s", line)


def _count(job: Job, numbers: Sequence[int]) -> int:
  return sum(len(shard_range(job.shards.num_shards, job.count, number)) for number in numbers)


def _read(job: Job, number: int) -> tuple[int, int] | None:
  """Returns the shards and tokens of a file so far; a finished one's do not change."""
  path = job.path(number)
  for note in (path, path.with_name(path.stem + PROGRESS)):
    with contextlib.suppress(OSError, ValueError):
      content = json.loads(note.read_text(encoding="utf-8"))
      return content["shards"], content["tokens"]
  return None


def remove_notes(folder: paths.Path, partial: bool = False) -> None:
  """Removes the notes of workers that were killed from the folder of a split, and with `partial`
  their half-written files, which is for a split that is finished."""
  patterns = [f"*{PROGRESS}"]
  if partial:
    patterns += [f".*{PARTIAL}", ".*.tmp"]  # the last are those of write_atomically
  for path in [path for pattern in patterns for path in folder.glob(pattern)]:
    path.unlink(missing_ok=True)
