"""Runs what is compared, in turns: processes that stay open and answer requests, with warm models,
and whole commands. The peers' environment imports this file too."""

import contextlib
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from train.common.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
# Threads that spin while they wait take the cores of the other side: CTranslate2 took 30 times its
# seconds on a busy machine.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "TOKENIZERS_PARALLELISM": "true"}
CORES = len(os.sched_getaffinity(0))


class Times(NamedTuple):
  """The seconds that something took, and those of all cores together."""

  seconds: float
  cpu_seconds: float

  def rate(self, amount: float) -> "Times":
    """Returns the amount a second, and a second of a core."""
    return Times(amount / self.seconds, amount / max(self.cpu_seconds, 1e-9))


@contextlib.contextmanager
def stopwatch():
  """Yields a function that returns the Times of this process since the block began."""
  began, used = time.perf_counter(), time.process_time()
  yield lambda: Times(time.perf_counter() - began, time.process_time() - used)


def serve(**functions: Callable[..., Mapping | None]) -> None:
  """Answers each request of standard input by one of the functions, until its end.

  An answer is what the function returns, with the Times of the call unless it measured its own.
  What libraries print goes to standard error.
  """
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)
  print("{}", file=answers, flush=True)
  for line in sys.stdin:
    request = json.loads(line)
    with stopwatch() as elapsed:
      result = functions[request.pop("call")](**request) or {}
      answer = elapsed()._asdict() | dict(result)
    print(json.dumps(answer), file=answers, flush=True)


class Side(contextlib.AbstractContextManager):
  """A process `python -m MODULE WORDS...` that serves requests; `started` are the seconds until it
  was ready, with its imports and weights."""

  def __init__(self, python: str | os.PathLike, module: str, *words: str | os.PathLike):
    began = time.perf_counter()
    command = [python, "-m", f"experiments.benchmark.{module}", *words]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    self._name = " ".join(map(str, command[1:]))
    self._process = subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRONMENT, **pipes)
    self._answer()
    self.started = time.perf_counter() - began

  def __call__(self, call: str, **request) -> dict:
    """Returns the answer to a request; raises UserError where the process has ended."""
    print(json.dumps(dict(call=call, **request)), file=self._process.stdin, flush=True)
    return self._answer()

  def _answer(self):
    if not (line := self._process.stdout.readline()):
      raise UserError(f"{self._name} ended with status {self._process.wait()}: see its error above")
    return json.loads(line)

  def __exit__(self, *error):
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()


def times(answer: Mapping) -> Times:
  """Returns the Times of an answer."""
  return Times(answer["seconds"], answer["cpu_seconds"])


def in_turns(repeats: int, functions: Mapping[str, Callable[[], dict]]) -> dict[str, list[dict]]:
  """Returns the results of each function, called in turns: A B A B."""
  results = {name: [] for name in functions}
  for _ in range(repeats):
    for name, function in functions.items():
      results[name].append(function())
  return results


def run_command(command: Sequence[str | os.PathLike], until: str = "", **environment) -> Times:
  """Returns the Times of a command from its start to its end, or to a line of its output that
  matches `until`, where it is ended; raises UserError with its last output where it fails."""
  used, began = _children(), time.perf_counter()
  with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
    output = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    env = os.environ | ENVIRONMENT | environment
    process = subprocess.Popen(command, cwd=ROOT, env=env, **output)
    seconds = None
    for line in process.stdout:
      log.write(line)
      if until and seconds is None and re.match(until, line):
        seconds = time.perf_counter() - began
        process.kill()
    status = process.wait()
    process.stdout.close()
    if seconds is None and (status or until):
      log.seek(max(log.tell() - 3000, 0))
      raise UserError(f"{' '.join(map(str, command))} ended with status {status}:\n{log.read()}")
  return Times(seconds or time.perf_counter() - began, _children() - used)


def _children() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime
