"""Whether a run still goes on."""

import faulthandler
import pathlib
import threading
import time

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
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
      logging.warning(
        "nothing ended for %.0f s (watchdog_seconds), since %s: what each thread is doing is in %s",
        *(quiet, self.after, self.file),
      )
