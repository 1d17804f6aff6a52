"""python -m train.checkpoints list DIR
python -m train.checkpoints check DIR              exits 1 if a file is not as it was written
python -m train.checkpoints diff DIR[@STEP] DIR[@STEP]       exits 1 if a weight differs

Lists, checks and compares the checkpoints of runs. STEP is also best, or average:N.
"""

import argparse
import pathlib

import numpy as np
from rich.console import Console
from rich.table import Table

from train.checkpoint import Checkpoints
from train.common.errors import UserError
from train.common.trees import flatten
from train.record import checksums


def listing(workdir: pathlib.Path, console: Console) -> None:
  """Step, size, seal and validation scores of each."""
  table = Table("step", "MB", "sealed", "scores")
  with Checkpoints(workdir) as checkpoints:
    for info in checkpoints.orbax.checkpoints:
      folder = checkpoints.directory / str(info.step)
      size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
      scores = "  ".join(f"{name} {value:.4g}" for name, value in (info.metrics or {}).items())
      sealed = "yes" if checksums.path_of(folder).exists() else "no"
      table.add_row(str(info.step), f"{size / 1e6:,.1f}", sealed, scores)
  console.print(table)


def check(workdir: pathlib.Path, console: Console) -> bool:
  """Whether all are as they were written; what is not is told."""
  sound = True
  for step in checksums.steps(workdir / "checkpoints"):
    wrong = checksums.problems(workdir / "checkpoints" / str(step))
    sound &= not wrong
    told = "no seal: it cannot be told" if wrong is None else "; ".join(wrong) or "sound"
    console.print(f"{workdir}: step {step}: {told}", soft_wrap=True, highlight=False)
  return sound


def difference(one: tuple, other: tuple, console: Console) -> bool:
  """Whether the weights of two (workdir, which) are the same; those that differ are told."""
  trees = []
  for workdir, which in (one, other):
    with Checkpoints(workdir) as checkpoints:
      weights = flatten(checkpoints.params(which))
    trees.append({name: np.asarray(x) for name, x in weights.items()})
  here, there = trees
  table, same = Table("weight", "the first", "the second", "largest difference"), True
  for name in sorted({*here, *there}):
    a, b = here.get(name), there.get(name)
    if a is not None and b is not None and a.shape == b.shape:
      largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
      if np.array_equal(a, b, equal_nan=True):
        continue
      told = f"{largest:.3g}"
    else:
      told = ""
    same = False
    shapes = ("not there" if x is None else f"{x.shape}" for x in (a, b))
    table.add_row(name, *shapes, told)
  console.print("the same weights" if same else table)
  return same


def parse(text: str) -> tuple[pathlib.Path, str]:
  """(workdir, which) of "DIR" or "DIR@STEP"."""
  folder, _, which = text.partition("@")
  if not (path := pathlib.Path(folder)).joinpath("checkpoints").is_dir():
    raise UserError(f"{path}: holds no checkpoints")
  return path, which or "latest"


def main(argv) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "what",
    choices=("list", "check", "diff"),
    help="lists checkpoints, checks their files, or compares the weights of two",
  )
  parser.add_argument("runs", nargs="+", metavar="DIR[@STEP]", help="a run and a checkpoint of it")
  args = parser.parse_args(argv)
  runs, console = [parse(text) for text in args.runs], Console()
  if args.what == "diff":
    if len(runs) != 2:
      raise UserError("diff wants two: DIR@STEP DIR@STEP")
    return int(not difference(*runs, console))
  sound = True
  for workdir, _ in runs:
    if args.what == "list":
      listing(workdir, console)
    else:
      sound &= check(workdir, console)
  return int(not sound)


if __name__ == "__main__":
  from train.common import entry

  entry.run(main)
