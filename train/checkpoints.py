"""python -m train.checkpoints list DIR
python -m train.checkpoints check DIR        exits 1 if a checkpoint differs from what was written
python -m train.checkpoints diff DIR[@STEP] DIR[@STEP]       exits 1 if a weight differs

Lists, checks and compares the checkpoints of runs. STEP is also best, or average:N.
"""

import sys

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from train import schema
from train.checkpoint import Checkpoints, open_to_read
from train.common import entry, paths
from train.common.errors import UserError
from train.common.trees import flatten
from train.record import checksums


def show_list(workdir: paths.Path, console: Console) -> None:
  """Prints step, size and validation scores of each checkpoint, and whether it has checksums."""
  table = Table("step", "MB", "checksums", "scores")
  with Checkpoints(workdir) as checkpoints:
    for step in checksums.committed(checkpoints.directory):
      folder = checkpoints.directory / str(step)
      size = sum(size for size, _ in paths.contents(folder, digests=False).values())
      scores = "  ".join(f"{name} {value:.4g}" for name, value in checkpoints.scores(step).items())
      there = checksums.path_of(folder).exists()
      has_checksums = "yes" if checksums.read(folder) else "damaged" if there else "no"
      table.add_row(str(step), f"{size / 1e6:,.1f}", has_checksums, scores)
  console.print(str(workdir), soft_wrap=True, highlight=False)
  console.print(table)


def check(workdir: paths.Path, console: Console) -> bool:
  """Prints what is wrong with each checkpoint, and returns whether all are as they were written."""
  sound = True
  for step in checksums.committed(workdir / "checkpoints"):
    wrong = checksums.problems(workdir / "checkpoints" / str(step))
    sound &= not wrong
    state = "; ".join(wrong) or "sound"
    console.print(f"{workdir}: step {step}: {state}", soft_wrap=True, highlight=False)
  return sound


def diff(first: tuple[paths.Path, str], second: tuple[paths.Path, str], console) -> bool:
  """Prints which weights of two checkpoints, (workdir, which), differ; returns True if none do."""
  trees = []
  for workdir, which in (first, second):
    with open_to_read(workdir) as checkpoints:
      weights = flatten(checkpoints.params(which or "latest"))
    trees.append({name: np.asarray(x) for name, x in weights.items()})
  table = Table(Column("weight", overflow="fold"), "the first", "the second", "largest difference")
  for name in sorted({*trees[0], *trees[1]}):
    a, b = trees[0].get(name), trees[1].get(name)
    largest = ""
    if a is not None and b is not None and a.shape == b.shape:
      if np.array_equal(a, b, equal_nan=True):
        continue
      difference = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)
      largest = f"{difference:.3g}"
    shapes = ("absent" if x is None else f"{x.shape}" for x in (a, b))
    table.add_row(name, *shapes, largest)
  console.print(table if table.rows else "the same weights")
  return not table.rows


def parse(text: str) -> tuple[paths.Path, str]:
  """Returns (workdir, which) of "DIR" or "DIR@STEP"."""
  folder, _, which = text.partition("@")
  schema.load_run(path := paths.of(folder))  # names a folder that is no run's
  if not checksums.steps(path / "checkpoints"):
    left = checksums.committed(path / "checkpoints")
    why = f": step {left[-1]} has no checksums" if left else ""
    raise UserError(f"{path}: holds no finished checkpoints{why}")
  return path, which


def main(argv) -> int:
  parser = entry.make_parser(__doc__)
  parser.add_argument(
    "command",
    choices=("list", "check", "diff"),
    help="lists checkpoints, checks their files, or compares the weights of two",
  )
  parser.add_argument(
    "runs", nargs="+", metavar="DIR[@STEP]", help="a run; for diff, with a checkpoint of it"
  )
  args = parser.parse_args(argv)
  runs = [parse(text) for text in args.runs]
  console = Console(width=None if sys.stdout.isatty() else 160)
  if args.command == "diff":
    if len(runs) != 2:
      raise UserError("diff compares two checkpoints: DIR@STEP DIR@STEP")
    return int(not diff(*runs, console))
  if any(which for _, which in runs):
    raise UserError(f"{args.command} takes whole runs: leave out @")
  sound = True
  for workdir, _ in runs:
    if args.command == "list":
      show_list(workdir, console)
    else:
      sound &= check(workdir, console)
  return int(not sound)


if __name__ == "__main__":
  entry.run(main)
