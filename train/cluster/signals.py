"""Ctrl-C and SIGTERM as a run hears them."""

import signal

from absl import logging


class StopSignal:
  """Ctrl-C, or a cluster's SIGTERM: finish the step, save, leave. Ctrl-C twice: leave at once. It
  holds until the last save is written."""

  def __init__(self):
    self.status = 0  # to exit with
    self.before = {one: signal.signal(one, self._note) for one in (signal.SIGINT, signal.SIGTERM)}

  def _note(self, number, _):
    if self.status and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.status = 128 + number
    logging.info("saving after this step; Ctrl-C again leaves at once")

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for one, handler in self.before.items():
      signal.signal(one, handler)
