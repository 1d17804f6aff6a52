"""Logs what each thread does when a run makes no progress."""

import contextlib
import pathlib
import sys
import threading
import time
import traceback

import jax
from absl import logging

from train.record.staging import destination


class Watchdog(contextlib.AbstractContextManager):
  """A thread that reports when a step, a batch of an evaluation or a save takes more than `seconds`
  (0: never).

  All threads' stacks go to stacks.txt in the workdir, those of another process I to stacks-I.txt.
  """

  def __init__(self, workdir: pathlib.Path, seconds: float):
    name = f"stacks-{jax.process_index()}.txt" if jax.process_index() else "stacks.txt"
    self.file, self.seconds = pathlib.Path(workdir, name), seconds
    self.since, self.doing, self.closed = time.monotonic(), "the start", threading.Event()
    self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
    if seconds:
      self.thread.start()

  def begin(self, doing: str) -> None:
    """Notes progress: what was before has ended, and `doing` begins, such as "step 12"."""
    self.since, self.doing = time.monotonic(), doing

  def __exit__(self, *_):
    self.closed.set()

  def _watch(self):
    reported = None
    while not self.closed.wait(min(1.0, self.seconds / 4)):
      if (quiet := time.monotonic() - self.since) < self.seconds or reported == self.since:
        continue
      reported = self.since  # once for each silence
      with open(self.file, "a", encoding="utf-8") as file:
        file.write(f"{time.ctime()}: no progress for {quiet:.0f} s, in {self.doing}\n")
        file.write(stacks())
      logging.warning(
        "no progress for %.0f s (watchdog_seconds), in %s; all threads' stacks are in %s",
        quiet,
        self.doing,
        destination(self.file),
      )


def stacks() -> str:
  """Returns the stack of each Python thread, the main thread first.

  faulthandler would stop after 100 threads, and lists the main thread last.
  """
  main, names = threading.main_thread().ident, {t.ident: t.name for t in threading.enumerate()}
  frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)
  texts = (
    f"{names.get(ident, ident)}, innermost call last:\n{''.join(traceback.format_stack(frame))}"
    for ident, frame in frames
  )
  return "\n".join(texts)
