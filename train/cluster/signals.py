"""Turns Ctrl-C and SIGTERM into a request to save and leave."""

import signal
from collections.abc import Callable

from absl import logging


class StopSignal:
  """Notes Ctrl-C and SIGTERM inside its block; `status` is 0 before, then the exit status.

  Without `on_signal`, a second Ctrl-C raises KeyboardInterrupt. Otherwise `on_signal` receives the
  number of each signal, and SIGINT from the second on, and nothing is raised.
  """

  def __init__(self, on_signal: Callable[[int], None] | None = None):
    self.status, self.on_signal = 0, on_signal

  def __enter__(self):
    numbers = (signal.SIGINT, signal.SIGTERM)
    self.handlers = {number: signal.signal(number, self._note) for number in numbers}
    return self

  def __exit__(self, *_):
    for number, handler in self.handlers.items():
      signal.signal(number, handler)

  def _note(self, number, _):
    again, self.status = self.status, self.status or 128 + number
    if self.on_signal:
      self.on_signal(signal.SIGINT if again else number)
    elif again and number == signal.SIGINT:
      raise KeyboardInterrupt
    else:
      logging.info("saving after this step; Ctrl-C again leaves at once")
