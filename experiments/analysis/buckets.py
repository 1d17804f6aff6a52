"""python -m experiments.analysis.buckets --workdirs runs/disk gs://BUCKET/run [--repeats 3]

Compares runs of a config whose workdirs lie on a disk and in a bucket, in turns: the median of a
step, how long a save holds the step after it, the share of the time in which saves do so, and the
time of all steps after the first ten, saves included, with its ratio to the first workdir's. Each
repeat trains anew, in a folder of its own. On a busy machine the share is surer than the ratio.

Without a bucket, `python -m tests.buckets gs --delay 0.03` serves one that answers after 30 ms; it
prints the variables of the environment that name it. `--record FILE` writes the table for
experiments/RESULTS.md.
"""

import pathlib
import shlex
import statistics
import time

from experiments.tools.report import measured
from train import api
from train.checkpoint import Checkpoints
from train.common import entry, paths
from train.record.writer import read_metrics

FIRST = 10  # steps that are not counted: they compile


def train(cfg, path: paths.Path) -> tuple[float, list[float], float]:
  """Returns the milliseconds of a step, those that each save held, and the seconds of all steps."""
  holds, save = [], Checkpoints.save

  def timed(*arguments, **options):
    began = time.perf_counter()
    save(*arguments, **options)
    holds.append(1000 * (time.perf_counter() - began))

  Checkpoints.save = timed
  try:
    api.train(cfg, path)
  finally:
    Checkpoints.save = save
  lines = [x for x in read_metrics(path) if x["split"] == "train" and x["step"] > FIRST]
  step_ms = statistics.median(line["step_ms"] for line in lines)
  return step_ms, holds, lines[-1]["time"] - lines[0]["time"]


def main(argv):
  parser = entry.make_parser(__doc__)
  parser.add_argument("--workdirs", nargs="+", type=paths.of, required=True, metavar="DIR")
  parser.add_argument("--config", default="configs/scan.py:small")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--steps", type=int, default=400)
  parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
  parser.add_argument("--record", type=pathlib.Path, metavar="FILE")
  args = parser.parse_args(argv)
  changes = {"steps": args.steps, "log_every": FIRST, "checkpoint.every": args.every}
  changes |= {"evaluate.every": args.steps, "evaluate.decode_every": 0}
  changes |= {"checkpoint.best_metric": "loss", "loggers": ()}
  cfg, results = api.config(args.config, changes), {path: [] for path in args.workdirs}
  for repeat in range(args.repeats):
    for path, runs in results.items():
      runs.append(train(cfg, path / f"{time.time_ns()}-{repeat}"))
  head = ["workdir", "ms a step", "ms a save holds", "stalls", "s of all steps", "ratio"]
  rows, first = [head], None
  for path, runs in results.items():
    seconds = statistics.median(seconds for *_, seconds in runs)
    first = first or seconds
    held = statistics.median(hold for _, holds, _ in runs for hold in holds)
    stalls = statistics.median(sum(holds) / 1000 / seconds for _, holds, seconds in runs)
    step_ms = statistics.median(step_ms for step_ms, *_ in runs)
    numbers = (f"{step_ms:.2f}", f"{held:.0f}", f"{stalls:.2%}", f"{seconds:.2f}")
    rows.append([str(path), *numbers, f"{seconds / first:.3f}"])
  words = [word for word in argv if word not in ("--record", str(args.record))]
  command = shlex.join(["python", "-m", "experiments.analysis.buckets", *words])
  title = "Runs in a bucket and on a disk"
  measured.report(rows, args.record, title=title, section="Corpora", commands=[command])


if __name__ == "__main__":
  entry.run(main)
