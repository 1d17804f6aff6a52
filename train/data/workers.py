"""Starts data worker processes, which end with their parent."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("spawn")  # a fork would copy jax's threads' locks
DIED_TWICE = (
  "a data worker process died twice on one batch (killed, or out of memory?): set fewer workers"
  " (0 for none) and run the same command again"
)

_make: Callable[[], Callable]  # set in each worker process


def start(make: Callable[..., Callable], *arguments) -> None:
  """Prepares a worker process for calls of `run`, which call what `make` returns."""
  global _make
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
  os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the threads
  threading.Thread(target=_end_with_parent, daemon=True).start()
  # called by `run`: an error here would count as the process's death
  _make = functools.cache(functools.partial(make, *arguments))


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()  # returns when the parent is gone, kill -9 included
  os._exit(1)


def run(*arguments) -> Any:
  """Calls the worker's function."""
  return _make()(*arguments)
