"""python -m tests.faults.soak [--kills 100] [--others 5] [--steps 10000] [--seed 0]     (make soak)

Interrupts and damages runs until each kind of fault was tried as often as asked, and reports
whether every run ended as one that was left alone.
"""

import argparse
import collections
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from tests.faults import harness

OTHERS = (
  *("terminate", "interrupt", "kill_worker", "start_twice", "clock_back"),
  *("kill_evaluating", "kill_decoding", "kill_sealing", "flip"),
  *("fill_disk", "make_read_only"),
)
MOUNTED = {"fill_disk", "make_read_only"}


def endure(
  folder: pathlib.Path, wanted: collections.Counter, seed: int, bucket=None, pairs: int = 120
) -> list[harness.Run]:
  """Runs that were hurt in all `wanted` ways, so often; each was compared with one left alone,
  which is on a disk, while they are in a bucket if a server is given. Of many pairs the data are
  streamed."""
  data = harness.corpus(folder / "data" / "files", pairs)
  whole = harness.Run(folder / "whole", data, random.Random(seed))
  whole.folder.mkdir()
  seconds = 0.7 * whole.finish()  # the rest of it was compilation, which those that follow reuse
  runs, left = [], collections.Counter(wanted)
  while left.total():
    hurt = harness.Run(folder / f"hurt{len(runs)}", data, random.Random(seed + len(runs)), bucket)
    hurt.folder.mkdir()
    runs.append(hurt)
    wants = bool(MOUNTED & set(+left))
    mounted = wants and harness.on_a_disk_of_its_own(hurt.workdir)
    if wants and not mounted:
      print("no disk can be mounted here: full and read-only ones are not tried", flush=True)
      left = collections.Counter({way: count for way, count in left.items() if way not in MOUNTED})
    try:
      while ways := [way for way in +left if mounted or way not in MOUNTED]:
        way = hurt.rng.choices(ways, [left[way] for way in ways])[0]
        timed_by = (seconds,) if way in ("kill", "clock_back") else ()
        if not getattr(hurt, way)(*timed_by):
          break
        left[way] -= 1
      hurt.finish()
      harness.assert_same(hurt, whole)
    finally:
      if mounted:
        subprocess.run(["umount", str(hurt.workdir)], check=True)
    print(f"run {len(runs)} is as the one left alone; left to try: {dict(+left)}", flush=True)
  return runs


def memory(folder: pathlib.Path, steps: int) -> list[tuple[int, float]]:
  """The most memory a run of so many steps had taken, in GB, after each tenth of it."""
  command = f"-m train.main --config configs/scan.py:small --workdir {folder}".split()
  changes = dict(steps=steps, log_every=steps // 10, loggers=())
  for key in ("evaluate.every", "evaluate.decode_every", "checkpoint.every"):
    changes[key] = steps // 20
  command += [f"--config.{key}={value}" for key, value in changes.items()]
  subprocess.run([sys.executable, *command], cwd=harness.ROOT, check=True, capture_output=True)
  lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
  return [(one["step"], one["host_memory_gb"]) for one in lines if one["split"] == "train"]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--others", type=int, default=5, help="of each other kind")
  parser.add_argument("--steps", type=int, default=10_000, help="of the run whose memory is told")
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    wanted = collections.Counter(dict.fromkeys(OTHERS, args.others) | dict(kill=args.kills))
    runs = endure(folder, wanted, args.seed)
    told = memory(folder / "memory", args.steps) if args.steps else []
  lost, where = collections.defaultdict(list), collections.Counter()
  for run in runs:
    where += run.where
    for kind, steps in run.lost.items():
      lost[kind] += steps
  print("| fault | tried | survived | most steps done again |\n|---|---|---|---|")
  for kind, steps in lost.items():
    print(f"| {kind} | {len(steps)} | {len(steps)} | {max(steps)} |")
  resumed = [seconds for run in runs for seconds in run.resumed]
  saved = [seconds for run in runs for seconds in run.saved]
  print(f"{len(runs)} runs, a checkpoint every {harness.EVERY} steps; SIGKILL came: {dict(where)}")
  print(f"start to the next new step: {min(resumed):.1f} to {max(resumed):.1f} s")
  if saved:
    print(f"signal to the end, saved: {min(saved):.1f} to {max(saved):.1f} s")
  if told:
    print("most memory, GB, after steps: " + ", ".join(f"{step} {gb:.3f}" for step, gb in told))


if __name__ == "__main__":
  main()
