"""python -m tests.experiments.fake_worker EXPERIMENT ...: a worker of experiments.search whose
trainings are fake_train.py.
"""

import functools
import pathlib
import subprocess
import sys

from experiments import search
from experiments.tools.search import findings

FAKE = pathlib.Path(__file__).with_name("fake_train.py")


def start(argv, log):
  with open(log, "ab") as file:
    return subprocess.Popen([sys.executable, "-S", FAKE, *argv[3:]], stdout=file, stderr=file)


if __name__ == "__main__":
  from train.common.entry import run

  findings.draw = lambda *_: None  # a second or two
  run(functools.partial(search.main, start=start))
