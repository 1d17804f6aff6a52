"""Whether a run still goes on."""

import pathlib
import sys
import threading
import time
import traceback

import jax
from absl import logging


class Watchdog:
  """Says when nothing ended for `seconds` (0: never), and what each thread was doing then."""

  def __init__(self, workdir, seconds: float):
    name = f"stacks-{jax.process_index()}.txt" if jax.process_index() else "stacks.txt"
    self.file, self.seconds = pathlib.Path(workdir, name), seconds
    self.since, self.after, self.closed = time.monotonic(), "the start", threading.Event()
    self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
    if seconds:
      self.thread.start()

  def ended(self, what: str) -> None:
    """Something did: "step 12"."""
    self.since, self.after = time.monotonic(), what

  def close(self) -> None:
    self.closed.set()

  def _watch(self):
    told = None
    while not self.closed.wait(min(1.0, self.seconds / 4)):
      if (quiet := time.monotonic() - self.since) < self.seconds or told == self.since:
        continue
      told = self.since  # once for each silence
      with open(self.file, "a", encoding="utf-8") as file:
        file.write(f"{time.ctime()}: nothing ended for {quiet:.0f} s, since {self.after}\n")
        file.write(stacks())
      logging.warning(
        "nothing ended for %.0f s (watchdog_seconds), since %s: what each thread is doing is in %s",
        *(quiet, self.after, self.file),
      )


def stacks() -> str:
  """What each thread of Python is doing, the main thread first.

  Not by faulthandler: it ends after 100 threads, and the main thread is its last.
  """
  main, names = threading.main_thread().ident, {t.ident: t.name for t in threading.enumerate()}
  frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)
  told = ((names.get(ident, ident), traceback.format_stack(frame)) for ident, frame in frames)
  return "\n".join(f"{name}, innermost call last:\n{''.join(calls)}" for name, calls in told)
