"""A run that is killed again and again is the run that nobody touched: losses, weights, metrics.

    python -m tests.faults.test_kills --kills 50 --seed 0     # tells what was tried, for README

Each start has another number of data workers. The run packs, mixes two parts, passes its data
several times and adds up microbatches; it saves every third step.
"""

import argparse
import collections
import dataclasses
import gzip
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
STEPS, EVERY = 40, 3
TIMED = {"time", "tokens_per_second", "stall_share", "padding_share", "compiles", "seconds"}
TIMED |= {"peak_memory_gb"}


def corpus(folder):
  """Files as configs/multi30k.py wants them, so few that an epoch is some steps."""
  rng = random.Random(0)
  words = ["a", "man", "woman", "dog", "red", "runs", "jumps", "sees", "ball", "on", "two"]
  for name in ("train", "val", "test_2016_flickr"):
    lines = [" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(120)]
    for language, change in (("en", str), ("de", str.upper)):
      text = "".join(change(line) + "\n" for line in lines)
      (folder / f"{name}.{language}.gz").write_bytes(gzip.compress(text.encode()))
  return folder


@dataclasses.dataclass
class Faults:
  """A run, and what is done to it."""

  data: pathlib.Path
  workdir: pathlib.Path
  rng: random.Random
  starts: int = 0
  lost: list[int] = dataclasses.field(default_factory=list)  # steps, by each kill
  where: collections.Counter = dataclasses.field(default_factory=collections.Counter)

  def start(self, workers=0):
    changes = dict(
      steps=STEPS,
      workers=workers,
      microbatches=2,
      log_every=2,
      tensorboard=False,
      **{"checkpoint.every": EVERY, "evaluate.every": 10, "evaluate.decode_every": 20},
    )
    command = [sys.executable, "-m", "train.main", "--workdir", str(self.workdir)]
    command += [f"--config=configs/mixture.py:small,data={self.data}"]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    flags = os.environ.get("SCRIPTORIUM_TEST_XLA_FLAGS", "")
    environment = dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    self.starts += 1
    with open(self.workdir.parent / f"{self.workdir.name}.txt", "a", encoding="utf-8") as log:
      return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

  def said(self):
    return (self.workdir.parent / f"{self.workdir.name}.txt").read_text(encoding="utf-8")

  def finish(self, workers=0):
    """Seconds until it is done."""
    began = time.monotonic()
    assert self.start(workers).wait(600) == 0, self.said()[-3000:]
    return time.monotonic() - began

  def kill(self, within):
    """Starts it, kills it at a random moment; False if it was done before that."""
    process = self.start(self.rng.choice([0, 1, 2]))
    try:
      code = process.wait(self.rng.uniform(0.3, within))
    except subprocess.TimeoutExpired:
      before = self.step()
      process.send_signal(signal.SIGKILL)
      process.wait()
      committed = [
        int(x.parent.name) for x in self.workdir.glob("checkpoints/*/commit_success.txt")
      ]
      self.lost.append(max(0, before - max(committed, default=0)))
      saving = any(self.workdir.glob("checkpoints/*tmp*"))
      self.where["in a save" if saving else "in training" if before else "before training"] += 1
      return True
    assert code == 0, self.said()[-3000:]
    return False

  def step(self):
    """The last step that metrics.jsonl tells of."""
    lines = self.lines()
    return max((line["step"] for line in lines), default=0)

  def lines(self):
    file = self.workdir / "metrics.jsonl"
    found = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
      try:
        found.append(json.loads(text))
      except ValueError:  # cut off by the kill
        continue
    return found

  def told(self):
    """Every number of metrics.jsonl that is not of time or machine."""
    return [{k: v for k, v in line.items() if k not in TIMED} for line in self.lines()]

  def weights(self):
    from train.checkpoint import Checkpoints, flatten

    with Checkpoints(self.workdir, keep_latest=99) as checkpoints:
      return {name: np.asarray(x) for name, x in flatten(checkpoints.params("latest")).items()}


def assert_same(hurt, whole):
  assert hurt.told() == whole.told()
  a, b = hurt.weights(), whole.weights()
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def endure(folder, kills, seed):
  """A run killed so often, and one that was left alone; what was tried."""
  folder.mkdir(parents=True, exist_ok=True)
  data = folder / "data"
  data.mkdir()
  corpus(data)
  whole = Faults(data, folder / "whole", random.Random(seed))
  whole.finish()
  seconds = Faults(data, folder / "timed", random.Random(seed)).finish(workers=1)
  runs = []
  while sum(len(run.lost) for run in runs) < kills:  # a run that is done makes room for another
    hurt = Faults(data, folder / f"hurt{len(runs)}", random.Random(seed + len(runs)))
    runs.append(hurt)
    while sum(len(run.lost) for run in runs) < kills and hurt.kill(within=seconds):
      pass
    hurt.finish(workers=2)
    assert_same(hurt, whole)
  return runs


@pytest.mark.slow
def test_killed_again_and_again_it_is_the_same_run(tmp_path):
  runs = endure(tmp_path, kills=6, seed=0)
  assert max(max(run.lost) for run in runs) <= 2 * EVERY


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    runs = endure(pathlib.Path(folder), args.kills, args.seed)
  lost = [steps for run in runs for steps in run.lost]
  where = sum((run.where for run in runs), collections.Counter())
  print(f"{len(lost)} kills of {len(runs)} runs from seed {args.seed}: {dict(where)}")
  print(f"all as if never touched; at most {max(lost)} steps done again, saved every {EVERY}")


if __name__ == "__main__":
  main()
