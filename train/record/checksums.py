"""Checksums of checkpoints: what was written is what is read, or it is set aside and named.

Orbax's commit mark says that a checkpoint was written whole, not that it still is. A seal,
`checksums/STEP.json` in the workdir, has size and SHA-256 of each of its files.
"""

import hashlib
import json
import pathlib
import time

from absl import logging

from train.common import json_files
from train.common.errors import UserError
from train.common.files import write_atomically

FORMAT = 1  # of a seal
COMMITTED = "commit_success.txt"  # Orbax's mark


def path_of(folder: pathlib.Path) -> pathlib.Path:
  """Where the seal of the checkpoint `folder` is."""
  return folder.parent.parent / "checksums" / f"{folder.name}.json"


def steps(checkpoints: pathlib.Path) -> list[int]:
  """The steps of committed checkpoints, in order."""
  found = checkpoints.glob(f"*/{COMMITTED}")
  return sorted(int(file.parent.name) for file in found if is_step(file.parent.name))


def is_step(name: str) -> bool:
  """Whether a folder of that name is a step's."""
  return name.isascii() and name.isdigit()  # "²" is a digit too, and no number


def seal(checkpoints: pathlib.Path) -> None:
  """Writes the seal of each committed checkpoint that has none, and drops those of what is gone."""
  kept = steps(checkpoints)
  for step in kept:
    file = path_of(checkpoints / str(step))
    if not file.exists():
      file.parent.mkdir(exist_ok=True)
      try:
        files = _contents(checkpoints / str(step))
      except FileNotFoundError:  # Orbax is just removing it, as there are newer ones
        continue
      write_atomically(file, json.dumps(dict(format=FORMAT, files=files), indent=1) + "\n")
  for file in (checkpoints.parent / "checksums").glob("*.json"):
    if is_step(file.stem) and int(file.stem) not in kept:
      file.unlink(missing_ok=True)


def problems(folder: pathlib.Path) -> list[str] | None:
  """What is wrong with the files of a checkpoint, empty for nothing; None if it has no seal."""
  file = path_of(folder)
  if not file.exists():
    return None
  try:
    sealed = json_files.read(file).get("files")
  except UserError:
    return [f"{file} is damaged itself"]
  if not json_files.fits(sealed, dict[str, list]) or {*map(len, sealed.values())} - {2}:
    return [f"{file} is damaged itself"]
  found, wrong = _contents(folder), []
  for name in sorted({*sealed, *found}):
    if name not in found:
      wrong.append(f"{name} is missing")
    elif name not in sealed:
      wrong.append(f"{name} was not there")
    elif found[name][0] != sealed[name][0]:
      wrong.append(f"{name} has {found[name][0]} bytes and had {sealed[name][0]}")
    elif found[name][1] != sealed[name][1]:
      wrong.append(f"{name} has other bytes than it had")
  return wrong


def set_damaged_aside(workdir: pathlib.Path) -> None:
  """Moves the latest checkpoints to `damaged/` until one is sound, and says so."""
  checkpoints = workdir / "checkpoints"
  for step in reversed(steps(checkpoints)):
    folder = checkpoints / str(step)
    wrong = problems(folder)
    if not wrong:
      return
    aside = workdir / "damaged" / f"{step}-{time.time_ns()}"
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    path_of(folder).unlink(missing_ok=True)
    logging.error(
      "%s is damaged (%s): it is now %s, and the run goes on from the one before",
      *(folder, "; ".join(wrong[:3]), aside),
    )


def _contents(folder: pathlib.Path) -> dict[str, tuple[int, str]]:
  """Path in the folder -> size and SHA-256."""
  found = {}
  for file in sorted(folder.rglob("*")):
    if file.is_file():
      with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
      found[file.relative_to(folder).as_posix()] = (file.stat().st_size, digest)
  return found
