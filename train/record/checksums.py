"""Writes a record of each finished checkpoint, and sets aside what no longer matches its record.

Orbax's commit mark shows that a checkpoint was written whole, not that it still is whole. The
record `checksums/STEP.json` in the workdir has the size and SHA-256 of each file of a checkpoint
(in a bucket the digest that the bucket lists), the scores of its evaluation, whether the run keeps
it, and a digest of all that. Without a record a checkpoint is unfinished.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping

from absl import logging

from train.common import json_files, paths
from train.common.errors import UserError
from train.common.files import write_atomically

FORMAT = 1  # of a record
COMMITTED = "commit_success.txt"  # Orbax's mark
METADATA = "_CHECKPOINT_METADATA"  # Orbax's file; its custom_metadata has the checkpoint's format
UNRECORDED = 2  # checkpoints up to this format were finished before their checksums
PARTS = ("params/_METADATA", "optimizer/_METADATA", "data/data.json")
REMOVED = ".removed"  # the end of the name of a checkpoint that is being removed


def path_of(checkpoint: paths.Path) -> paths.Path:
  """Returns the path of the record of a checkpoint's folder."""
  return checkpoint.parent.parent / "checksums" / f"{checkpoint.name}.json"


def is_step(name: str) -> bool:
  """Returns whether a folder of that name holds a checkpoint."""
  return name.isascii() and name.isdigit()  # "²" is a digit too, and no number


def committed(checkpoints: paths.Path) -> list[int]:
  """Returns the steps of checkpoints that Orbax has written whole, in order."""
  marks = checkpoints.glob(f"*/{COMMITTED}")
  return sorted(int(mark.parent.name) for mark in marks if is_step(mark.parent.name))


def steps(checkpoints: paths.Path) -> list[int]:
  """Returns the steps of finished checkpoints, in order."""
  return [step for step in committed(checkpoints) if is_finished(checkpoints / str(step))]


def is_finished(checkpoint: paths.Path) -> bool:
  """Returns whether a committed checkpoint has a record, or is of a format that may lack one."""
  return path_of(checkpoint).exists() or _format(checkpoint) <= UNRECORDED


def write(checkpoint: paths.Path, **facts) -> None:
  """Writes the record of a committed checkpoint, with more facts."""
  path_of(checkpoint).parent.mkdir(exist_ok=True)
  step = int(checkpoint.name)
  _write(checkpoint, dict(format=FORMAT, step=step, files=paths.contents(checkpoint)) | facts)


def note(checkpoint: paths.Path, **facts) -> None:
  """Adds facts to the record of a checkpoint, if it has one."""
  if record := read(checkpoint):
    _write(checkpoint, record | facts)


def read(checkpoint: paths.Path) -> dict:
  """Returns the record of a checkpoint; {} if it is missing or damaged."""
  try:
    record = json_files.read(path_of(checkpoint))
  except UserError:
    return {}
  files = record.get("files")
  sound = json_files.fits(files, dict[str, list]) and all(
    [type(part) for part in entry] == [int, str] for entry in files.values()
  )
  digest = record.pop("sha256", None)  # older records have none
  return record if sound and digest in (None, _digest(record)) else {}


def scores(checkpoint: paths.Path) -> dict[str, float]:
  """Returns the scores of a checkpoint, which older ones hold themselves; {} without scores."""
  values = read(checkpoint).get("scores")
  if values is None:
    try:
      values = json_files.read(checkpoint / "metrics" / "metrics")
    except UserError:
      return {}
  return {name: value for name, value in dict(values).items() if isinstance(value, int | float)}


def remove(checkpoint: paths.Path) -> None:
  """Removes a checkpoint and its record; who reads meanwhile finds all of it or nothing, and in a
  bucket, where nothing can be renamed, at last no commit mark."""
  if paths.is_bucket(checkpoint):
    (checkpoint / COMMITTED).unlink(missing_ok=True)
    path_of(checkpoint).unlink(missing_ok=True)
    paths.remove(checkpoint)
    return
  away = checkpoint.with_name(f"{checkpoint.name}-{time.time_ns()}{REMOVED}")
  checkpoint.rename(away)
  path_of(checkpoint).unlink(missing_ok=True)
  paths.remove(away)


def problems(checkpoint: paths.Path, quick: bool = False) -> list[str]:
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
  written, present, wrong = record["files"], paths.contents(checkpoint, digests=not quick), []
  if record.get("step", int(checkpoint.name)) != int(checkpoint.name):
    wrong.append(f"it is a copy of step {record['step']}")
  for name in sorted({*written, *present}):
    if name not in present:
      wrong.append(f"{name} is missing")
    elif name not in written:
      wrong.append(f"{name} was added")
    elif present[name][0] != written[name][0]:
      wrong.append(f"{name} has {present[name][0]} bytes instead of {written[name][0]}")
    elif not quick and _differ(checkpoint / name, written[name][1], present[name][1]):
      wrong.append(f"{name} has other bytes than were written")
  return wrong


def remove_unfinished(checkpoints: paths.Path) -> None:
  """Removes what was being saved or removed when a process ended: only the process that trains the
  run may do so. In a bucket a checkpoint without its mark was."""
  for pattern in (f"*{REMOVED}", "*.orbax-checkpoint-tmp*"):
    for folder in checkpoints.glob(pattern):
      paths.remove(folder)
  if paths.is_bucket(checkpoints):
    there = {name.partition("/")[0] for name in paths.contents(checkpoints, digests=False)}
    for step in there - {str(step) for step in committed(checkpoints)}:
      paths.remove(checkpoints / step)


def set_damaged_aside(workdir: paths.Path) -> None:
  """Moves unsound checkpoints to `damaged/` and logs them, and removes what was being removed.

  The latest are read whole until one is sound; of those before it, names and sizes are compared.
  Where none is sound, a copy of metrics.jsonl, which the run begins anew, is kept beside them.
  """
  checkpoints, sound = workdir / "checkpoints", False
  remove_unfinished(checkpoints)
  there = committed(checkpoints)
  for step in reversed(there):
    checkpoint = checkpoints / str(step)
    wrong = problems(checkpoint, quick=sound)
    if not wrong:
      sound = True
      continue
    aside = workdir / "damaged" / f"{step}-{time.time_ns()}"
    aside.parent.mkdir(exist_ok=True)
    paths.move(checkpoint, aside)
    path_of(checkpoint).unlink(missing_ok=True)
    goes_on = "starts anew" if step == there[0] else "goes on from the checkpoint before"
    going_on = "" if sound else f", and the run {goes_on}"
    reasons = "; ".join(wrong[:3])
    logging.error("%s is damaged (%s). It is moved to %s%s", checkpoint, reasons, aside, going_on)
  if there and not sound:  # the run's lines end with its checkpoints
    with contextlib.suppress(FileNotFoundError):
      content = (workdir / "metrics.jsonl").read_bytes()
      (workdir / "damaged" / f"metrics-{time.time_ns()}.jsonl").write_bytes(content)
  for file in (workdir / "checksums").glob("*.json"):
    if is_step(file.stem) and not (checkpoints / file.stem).exists():
      file.unlink()


def _write(checkpoint: paths.Path, record: Mapping) -> None:
  text = json.dumps(dict(record) | dict(sha256=_digest(record)), indent=1)
  write_atomically(path_of(checkpoint), text + "\n")


def _digest(record: Mapping) -> str:
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _format(checkpoint: paths.Path) -> float:
  """Returns the format of a checkpoint, 1 where it notes none, infinity where it is unreadable."""
  try:
    metadata = json.loads((checkpoint / METADATA).read_bytes())
    return int((metadata.get("custom_metadata") or {"format": 1})["format"])
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return float("inf")


def _differ(path: paths.Path, written: str, present: str) -> bool:
  """Returns whether a file has another digest than was written, of which the kind is another if
  the file came from a bucket or went into one."""
  if _kind(written) != _kind(present):
    present = paths.digest(path, like=written)
  return bool(present) and written != present


def _kind(digest: str) -> str:
  return digest.partition(":")[0] if ":" in digest else ""
