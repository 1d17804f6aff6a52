"""Writes checksums of checkpoints, and sets aside and logs a checkpoint that no longer matches.

Orbax's commit mark shows that a checkpoint was written whole, not that it still is whole. The file
`checksums/STEP.json` in the workdir holds the size and SHA-256 of each file of a checkpoint.
"""

import contextlib
import hashlib
import json
import pathlib
import time

from absl import logging

from train.common import json_files
from train.common.errors import UserError
from train.common.files import write_atomically

FORMAT = 1  # of a file of checksums
COMMITTED = "commit_success.txt"  # Orbax's mark


def path_of(checkpoint: pathlib.Path) -> pathlib.Path:
  """Returns the path of the checksums of a checkpoint's folder."""
  return checkpoint.parent.parent / "checksums" / f"{checkpoint.name}.json"


def steps(checkpoints: pathlib.Path) -> list[int]:
  """Returns the steps of committed checkpoints, in order."""
  marks = checkpoints.glob(f"*/{COMMITTED}")
  return sorted(int(mark.parent.name) for mark in marks if is_step(mark.parent.name))


def is_step(name: str) -> bool:
  """Returns whether a folder of that name holds a checkpoint."""
  return name.isascii() and name.isdigit()  # "²" is a digit too, and no number


def write(checkpoints: pathlib.Path) -> None:
  """Writes the missing checksums of committed checkpoints; removes those of removed checkpoints."""
  present = steps(checkpoints)
  for step in present:
    file = path_of(checkpoints / str(step))
    if not file.exists():
      file.parent.mkdir(exist_ok=True)
      try:
        files = _contents(checkpoints / str(step))
      except FileNotFoundError:  # Orbax removes it at this moment, as there are newer ones
        continue
      write_atomically(file, json.dumps(dict(format=FORMAT, files=files), indent=1) + "\n")
  for file in (checkpoints.parent / "checksums").glob("*.json"):
    if is_step(file.stem) and int(file.stem) not in present:
      file.unlink(missing_ok=True)


def problems(checkpoint: pathlib.Path) -> list[str] | None:
  """Returns what is wrong with the files of a checkpoint, or None if it has no checksums."""
  file = path_of(checkpoint)
  if not file.exists():
    return None
  written = None
  with contextlib.suppress(UserError):
    written = json_files.read(file).get("files")
  if not json_files.fits(written, dict[str, list]) or {*map(len, written.values())} - {2}:
    return [f"{file} is damaged itself"]
  present, wrong = _contents(checkpoint), []
  for name in sorted({*written, *present}):
    if name not in present:
      wrong.append(f"{name} is missing")
    elif name not in written:
      wrong.append(f"{name} was added")
    elif present[name][0] != written[name][0]:
      wrong.append(f"{name} has {present[name][0]} bytes instead of {written[name][0]}")
    elif present[name][1] != written[name][1]:
      wrong.append(f"{name} has other bytes than were written")
  return wrong


def set_damaged_aside(workdir: pathlib.Path) -> None:
  """Moves the latest checkpoints to `damaged/` and logs them, until one is sound."""
  checkpoints = workdir / "checkpoints"
  for step in reversed(steps(checkpoints)):
    checkpoint = checkpoints / str(step)
    wrong = problems(checkpoint)
    if not wrong:
      return
    aside = workdir / "damaged" / f"{step}-{time.time_ns()}"
    aside.parent.mkdir(exist_ok=True)
    checkpoint.rename(aside)
    path_of(checkpoint).unlink(missing_ok=True)
    logging.error(
      "%s is damaged (%s). It is moved to %s, and the run goes on from the checkpoint before",
      checkpoint,
      "; ".join(wrong[:3]),
      aside,
    )


def _contents(folder: pathlib.Path) -> dict[str, tuple[int, str]]:
  """Returns path in the folder -> size and SHA-256."""
  contents = {}
  for path in sorted(folder.rglob("*")):
    if path.is_file():
      with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
      contents[path.relative_to(folder).as_posix()] = (path.stat().st_size, digest)
  return contents
