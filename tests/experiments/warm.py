"""python -m tests.experiments.warm EXPERIMENT ...: a worker of experiments.search whose trainings
are forks of one process that has all imported, and SCAN read: seconds less for each.
"""

import functools
import multiprocessing
import os
import sys

from experiments import search


def train(argv, log):
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(file, 1)
  os.dup2(file, 2)
  from train import main
  from train.common.entry import run

  sys.argv[1:] = argv[2:]  # without -m train.main
  run(main.main)


class Warm:
  """Starts trainings as worker.start does."""

  def __init__(self):
    self.context = multiprocessing.get_context("forkserver")
    self.context.set_forkserver_preload(["tests.experiments.warm_data", "train.loop"])

  def __call__(self, argv, log):
    process = self.context.Process(target=train, args=(argv, log))
    process.start()
    process.poll = lambda: process.exitcode
    return process


if __name__ == "__main__":
  from train.common.entry import run

  run(functools.partial(search.main, start=Warm()))
