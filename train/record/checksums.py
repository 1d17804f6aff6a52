"""Writes a record of each finished checkpoint, and sets aside what no longer matches its record.

Orbax's commit mark shows that a checkpoint was written whole, not that it still is whole. The
record `checksums/STEP.json` in the workdir has the size and SHA-256 of each file of a checkpoint,
the scores of its evaluation, whether the run keeps it, and a digest of all that. Without a record a
checkpoint is unfinished.
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Mapping

from absl import logging

from train.common import json_files
from train.common.errors import UserError
from train.common.files import write_atomically

FORMAT = 1  # of a record
COMMITTED = "commit_success.txt"  # Orbax's mark
METADATA = "_CHECKPOINT_METADATA"  # Orbax's file; its custom_metadata has the checkpoint's format
UNRECORDED = 2  # checkpoints up to this format were finished before their checksums
PARTS = ("params/_METADATA", "optimizer/_METADATA", "data/data.json")
REMOVED = ".removed"  # the end of the name of a checkpoint that is being removed


def path_of(checkpoint: pathlib.Path) -> pathlib.Path:
  """Returns the path of the record of a checkpoint's folder."""
  return checkpoint.parent.parent / "checksums" / f"{checkpoint.name}.json"


def is_step(name: str) -> bool:
  """Returns whether a folder of that name holds a checkpoint."""
  return name.isascii() and name.isdigit()  # "²" is a digit too, and no number


def committed(checkpoints: pathlib.Path) -> list[int]:
  """Returns the steps of checkpoints that Orbax has written whole, in order."""
  marks = checkpoints.glob(f"*/{COMMITTED}")
  return sorted(int(mark.parent.name) for mark in marks if is_step(mark.parent.name))


def steps(checkpoints: pathlib.Path) -> list[int]:
  """Returns the steps of finished checkpoints, in order."""
  return [step for step in committed(checkpoints) if is_finished(checkpoints / str(step))]


def is_finished(checkpoint: pathlib.Path) -> bool:
  """Returns whether a committed checkpoint has a record, or is of a format that may lack one."""
  return path_of(checkpoint).exists() or _format(checkpoint) <= UNRECORDED


def write(checkpoint: pathlib.Path, **facts) -> None:
  """Writes the record of a committed checkpoint, with more facts."""
  path_of(checkpoint).parent.mkdir(exist_ok=True)
  step = int(checkpoint.name)
  _write(checkpoint, dict(format=FORMAT, step=step, files=_contents(checkpoint)) | facts)


def note(checkpoint: pathlib.Path, **facts) -> None:
  """Adds facts to the record of a checkpoint, if it has one."""
  if record := read(checkpoint):
    _write(checkpoint, record | facts)


def read(checkpoint: pathlib.Path) -> dict:
  """Returns the record of a checkpoint; {} if it is missing or damaged."""
  try:
    record = json_files.read(path_of(checkpoint))
  except UserError:
    return {}
  files = record.get("files")
  sound = json_files.fits(files, dict[str, list]) and not {*map(len, files.values())} - {2}
  digest = record.pop("sha256", None)  # older records have none
  return record if sound and digest in (None, _digest(record)) else {}


def scores(checkpoint: pathlib.Path) -> dict[str, float]:
  """Returns the scores of a checkpoint, which older ones hold themselves; {} without scores."""
  values = read(checkpoint).get("scores")
  if values is None:
    try:
      values = json_files.read(checkpoint / "metrics" / "metrics")
    except UserError:
      return {}
  return {name: value for name, value in dict(values).items() if isinstance(value, int | float)}


def remove(checkpoint: pathlib.Path) -> None:
  """Removes a checkpoint and its record; who reads meanwhile finds all of it or nothing."""
  away = checkpoint.with_name(f"{checkpoint.name}-{time.time_ns()}{REMOVED}")
  checkpoint.rename(away)
  path_of(checkpoint).unlink(missing_ok=True)
  shutil.rmtree(away)


def problems(checkpoint: pathlib.Path, quick: bool = False) -> list[str]:
  """Returns what is wrong with the files of a checkpoint; `quick` compares names and sizes alone.

  Raises FileNotFoundError where the checkpoint is removed meanwhile.
  """
  file = path_of(checkpoint)
  if not file.exists():
    if _format(checkpoint) > UNRECORDED:
      return [f"{file} is missing: it was removed, or saving was interrupted"]
    return [f"{name} is missing" for name in PARTS if not (checkpoint / name).is_file()]
  record = read(checkpoint)
  if not record:
    return [f"{file} is damaged itself"]
  written, present, wrong = record["files"], _contents(checkpoint, digests=not quick), []
  if record.get("step", int(checkpoint.name)) != int(checkpoint.name):
    wrong.append(f"it is a copy of step {record['step']}")
  for name in sorted({*written, *present}):
    if name not in present:
      wrong.append(f"{name} is missing")
    elif name not in written:
      wrong.append(f"{name} was added")
    elif present[name][0] != written[name][0]:
      wrong.append(f"{name} has {present[name][0]} bytes instead of {written[name][0]}")
    elif not quick and present[name][1] != written[name][1]:
      wrong.append(f"{name} has other bytes than were written")
  return wrong


def set_damaged_aside(workdir: pathlib.Path) -> None:
  """Moves unsound checkpoints to `damaged/` and logs them, and removes what was being removed.

  The latest are read whole until one is sound; of those before it, names and sizes are compared.
  Where none is sound, a copy of metrics.jsonl, which the run begins anew, is kept beside them.
  """
  checkpoints, sound = workdir / "checkpoints", False
  for half_removed in checkpoints.glob(f"*{REMOVED}"):
    shutil.rmtree(half_removed)
  there = committed(checkpoints)
  for step in reversed(there):
    checkpoint = checkpoints / str(step)
    wrong = problems(checkpoint, quick=sound)
    if not wrong:
      sound = True
      continue
    aside = workdir / "damaged" / f"{step}-{time.time_ns()}"
    aside.parent.mkdir(exist_ok=True)
    checkpoint.rename(aside)
    path_of(checkpoint).unlink(missing_ok=True)
    goes_on = "starts anew" if step == there[0] else "goes on from the checkpoint before"
    going_on = "" if sound else f", and the run {goes_on}"
    reasons = "; ".join(wrong[:3])
    logging.error("%s is damaged (%s). It is moved to %s%s", checkpoint, reasons, aside, going_on)
  if there and not sound:  # the run's lines end with its checkpoints
    with contextlib.suppress(FileNotFoundError):
      shutil.copy(
        workdir / "metrics.jsonl", workdir / "damaged" / f"metrics-{time.time_ns()}.jsonl"
      )
  for file in (workdir / "checksums").glob("*.json"):
    if is_step(file.stem) and not (checkpoints / file.stem).exists():
      file.unlink()


def _write(checkpoint: pathlib.Path, record: Mapping) -> None:
  text = json.dumps(dict(record) | dict(sha256=_digest(record)), indent=1)
  write_atomically(path_of(checkpoint), text + "\n")


def _digest(record: Mapping) -> str:
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _format(checkpoint: pathlib.Path) -> float:
  """Returns the format of a checkpoint, 1 where it notes none, infinity where it is unreadable."""
  try:
    metadata = json.loads((checkpoint / METADATA).read_bytes())
    return int((metadata.get("custom_metadata") or {"format": 1})["format"])
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return float("inf")


def _contents(folder: pathlib.Path, digests: bool = True) -> dict[str, tuple[int, str]]:
  """Returns path in the folder -> size and, with `digests`, SHA-256."""
  contents = {}
  for path in sorted(folder.rglob("*")):
    if path.is_file():
      digest = ""
      if digests:
        with open(path, "rb") as file:
          digest = hashlib.file_digest(file, "sha256").hexdigest()
      contents[path.relative_to(folder).as_posix()] = (path.stat().st_size, digest)
  return contents
