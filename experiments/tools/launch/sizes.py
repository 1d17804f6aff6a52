"""Measures what a run's last checkpoint takes: weights in memory, and files on the disk."""

import pathlib

import numpy as np

from train.checkpoint import open_to_read
from train.common.trees import flatten
from train.record import checksums, workdir

# trained: weights that updates move; weights_bytes: of the weights as they are saved (of adapters
# alone, where the model is another's); disk_bytes: of their files; optimizer_bytes: of the files of
# the optimizer's state.
NAMES = ("trained", "weights_bytes", "disk_bytes", "optimizer_bytes")


def sizes(folder: pathlib.Path) -> dict[str, int]:
  """Returns NAMES -> number of the run in a folder, {} where it holds no checkpoint."""
  if not checksums.committed(folder / "checkpoints"):
    return {}
  with open_to_read(folder) as checkpoints:
    weights, steps = checkpoints.read("latest")
    saved = checkpoints.directory / str(steps[-1])
  values = [np.asarray(x) for x in flatten(weights).values()]
  noted = [start["trained"] for start in workdir.starts(folder) if "trained" in start]
  trained = noted[-1] if noted else sum(x.size for x in values)
  files = (_bytes(saved / part) for part in ("params", "optimizer"))
  return dict(zip(NAMES, (trained, sum(x.nbytes for x in values), *files)))


def _bytes(folder: pathlib.Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
