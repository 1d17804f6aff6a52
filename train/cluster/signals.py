"""Turns Ctrl-C and SIGTERM into a request to save and leave."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable

from absl import logging

LEAVE_SECONDS = 8.0  # from a signal; a cluster kills 30 s after it, and a save takes some of them


@contextlib.contextmanager
def leave_on_ctrl_c(seconds: float = 1.0):
  """Ends the process, with status 130, `seconds` after Ctrl-C inside the block.

  Python raises KeyboardInterrupt only after a long call, such as that of a tokenizer's training,
  for which nobody need wait where nothing is to be saved.
  """

  def watch(read_end):
    while received := os.read(read_end, 1):
      if received[0] == signal.SIGINT and not select.select([read_end], [], [], seconds)[0]:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)

  with _signals_read_by(watch):
    yield


@contextlib.contextmanager
def _signals_read_by(watch: Callable[[int], None]):
  """Calls `watch(read_end)` in a thread. From the pipe's `read_end` it reads the number of each
  signal as a byte, at once, whatever the main thread does; the pipe ends with the block."""
  read_end, write_end = os.pipe()
  os.set_blocking(write_end, False)
  wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
  thread = threading.Thread(target=watch, args=(read_end,), name="signals", daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(wakeup)
    os.close(write_end)  # which ends the thread
    thread.join()
    os.close(read_end)


class Stopped(Exception):
  """Leaves an evaluation; `status` is the exit status of the run."""

  def __init__(self, status: int):
    super().__init__(status)
    self.status = status


class StopSignal:
  """Notes Ctrl-C and SIGTERM inside its block; `status` is 0 before, then the exit status.

  Without `on_signal`, a second Ctrl-C raises KeyboardInterrupt, and the log reports at once what
  `doing()` names, for which the run waits: Python calls a handler only after a long call, such as
  that of a compiled program or the compiler. From LEAVE_SECONDS on `leave(status)` is called every
  second, in a thread of its own, and may end the process where nothing would be lost.

  Otherwise `on_signal` receives the number of each signal, and SIGINT from the second on, and
  nothing is raised.
  """

  def __init__(
    self,
    on_signal: Callable[[int], None] | None = None,
    doing: Callable[[], str] = lambda: "this step",
    leave: Callable[[int], None] = lambda status: None,
  ):
    self.status, self.on_signal, self.doing, self.leave = 0, on_signal, doing, leave

  def __enter__(self):
    numbers = (signal.SIGINT, signal.SIGTERM)
    self.handlers = {number: signal.signal(number, self._note) for number in numbers}
    self.reporter = contextlib.ExitStack()
    if not self.on_signal:
      self.reporter.enter_context(_signals_read_by(self._report))
    return self

  def __exit__(self, *_):
    for number, handler in self.handlers.items():
      signal.signal(number, handler)
    self.reporter.close()

  def _note(self, number, _):
    again, self.status = self.status, self.status or 128 + number
    if self.on_signal:
      self.on_signal(signal.SIGINT if again else number)
    elif again and number == signal.SIGINT:
      raise KeyboardInterrupt

  def _report(self, read_end):
    status, seconds = 0, None  # until `leave` is called
    while True:
      if not select.select([read_end], [], [], seconds)[0]:
        self.leave(status)
        seconds = 1.0
      elif not (received := os.read(read_end, 1)):
        return
      elif (number := received[0]) in self.handlers:
        status, seconds = status or 128 + number, LEAVE_SECONDS
        logging.info(
          "%s: the run saves and leaves after %s; Ctrl-C again leaves at once",
          signal.Signals(number).name,
          self.doing(),
        )
