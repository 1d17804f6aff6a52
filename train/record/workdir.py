"""Opens the folder of a run: locks it, writes config and run.json, refuses another run's folder."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import types
from collections.abc import Mapping, Sequence

from absl import logging
from ml_collections import ConfigDict

from train.common import buckets, json_files, paths
from train.common.errors import UserError, as_user_error, nearest
from train.common.files import disk_trouble, write_atomically
from train.record import added_parts, checksums, older, provenance
from train.record.config import flat, frozen
from train.record.lock import KernelLock, Lease, lock
from train.record.staging import Staging, open_staging

# Settings that may change when a run goes on, as they change no number (up to rounding).
CHANGEABLE = ("log_every", "loggers", "workers", "mesh", "parallelism", "microbatches")
CHANGEABLE += ("max_skipped", "watchdog_seconds", "model.remat", "model.attention_impl")
CHANGEABLE += ("task.loss_chunks", "task.data.stream")  # of a stream the saved position decides
# Settings that may change too, with what a change means, which the log reports. The schedule
# follows steps, as train/loop.py logs.
CADENCE = {
  "steps": "",
  "epochs": "",
  "log_every": "a line of training averages over the steps since the line before",
  "patience": "the evaluations so far count too",
  "evaluate": "it holds from here on; `every` is of the loss, `decode_every` of decoded scores",
  "checkpoint": "it decides from here on which checkpoints are saved and which of all stay",
}
MADE_OF_DATA = ("tokenizer.json", "labels.json")


@dataclasses.dataclass
class Workdir(contextlib.AbstractContextManager):
  """A run's folder, locked for this process until `close` or the process's end."""

  path: paths.Path
  primary: bool
  lock: KernelLock | Lease | None
  staging: Staging | None = None  # of a folder in a bucket
  steps_before: int | None = None  # `steps` of the config that made the latest checkpoint

  @property
  def local(self) -> pathlib.Path:
    """Returns the folder on a disk for files that are appended to or written by libraries."""
    return self.staging.local if self.staging else self.path

  def upload(self) -> None:
    """Copies these files into the bucket, if the folder is in one; raises UserError where another
    process has taken it over."""
    if self.staging:
      self.staging.upload()

  @functools.cached_property
  def last_step(self) -> int:
    """Returns the step of the latest sound checkpoint at the start, 0 if there is none."""
    return max(checksums.steps(self.path / "checkpoints"), default=0)

  @property
  def raised_after(self) -> int:
    """Returns the last step after which a start raised `steps`, 0 if none did."""
    planned = (start for start in starts(self.path) if start.get("steps"))
    return max((x["after"] for x in planned if x["steps"][0] < x["steps"][-1]), default=0)

  def note(self, **facts) -> None:
    """Adds facts to this start in run.json."""
    if self.primary:
      noted = starts(self.path)
      noted[-1].update(facts)
      _write_starts(self.path, noted)

  def record_config(self, config: ConfigDict) -> None:
    """Writes the config with the number of steps that was found for its epochs."""
    if self.primary:
      text = config_json(config)
      write_atomically(self.path / "config.json", text)
      steps = [self.steps_before or config.steps, config.steps]
      self.note(config_sha256=hashlib.sha256(text.encode()).hexdigest(), steps=steps)

  def close(self, reachable: bool = True) -> None:
    """Uploads the last files, unless the bucket is not `reachable`, and releases the folder."""
    staging, lock = self.staging, self.lock
    self.staging = self.lock = None
    try:
      if staging:
        staging.close(reachable)
    finally:
      if lock:
        lock.close(reachable)

  def __exit__(self, kind, error, *_):
    self.close(reachable=not (error and self.staging and disk_trouble(error)))


def open_run(
  path: str | os.PathLike,
  config: ConfigDict,
  command: Sequence[str],
  devices: Sequence[str] = (),
  primary: bool = True,
  defaults: Mapping = types.MappingProxyType({}),
) -> Workdir:
  """Makes or continues the folder of the run of `config`, and writes this start into run.json.

  Only the primary process locks and writes. `defaults` holds, by dotted key, what continues the run
  of a config.json without that key, unless the file was changed. Raises UserError where the folder
  is in use by a living process, holds checkpoints of a run with another config or of more steps, or
  can't be written to.
  """
  path = paths.of(path)
  if not primary:
    return Workdir(path, False, None, open_staging(path, None))
  text = config_json(config)
  try:
    path.mkdir(parents=True, exist_ok=True)
    workdir = Workdir(path, True, lock(path))
    try:
      if any(checksums.is_step(file.name) for file in path.glob("checkpoints/*")):
        before = load_config(path)
        _refuse_another(path, frozen(config), before, defaults)
        checksums.set_damaged_aside(path)  # before `last_step` is first read
        workdir.steps_before = _steps_before(workdir, before)
      else:  # nothing of it is worth keeping, and what it made of its data may not fit
        for name in MADE_OF_DATA:
          (path / name).unlink(missing_ok=True)
      write_atomically(path / "config.json", text)
      _note_start(workdir, command, config, devices)
      workdir.staging = open_staging(path, workdir.lock)
    except BaseException:
      workdir.close()
      raise
  except OSError as error:
    reason = buckets.trouble(error) or f"{error.strerror}: {error.filename}"
    raise UserError(f"{path}: can't be used as workdir: {reason}") from error
  return workdir


def load_config(path: str | os.PathLike) -> ConfigDict:
  """Returns the locked config of the run in the folder `path`, as `config.load` returned it.

  Sequences are tuples in the config. Raises UserError where `path` holds no run.
  """
  path = paths.of(path)
  file = path / "config.json"
  if not file.is_file():
    raise UserError(_no_run(path))
  with as_user_error(f"{file}: no config is in it; restore or remove it"):
    config = json_files.read(file)
    for section in ("task", "model"):
      if not isinstance(config.get(section, {}), dict):
        raise UserError(f"{file}: {section} is {config[section]!r}, no section; restore the file")
    return frozen(older.upgrade(config))


def starts(path: str | os.PathLike) -> list[dict]:
  """Returns the starts in the run.json of the folder `path`, none where there is no such file."""
  file = paths.of(path) / "run.json"
  if not file.exists():
    return []
  listed = json_files.read(file).get("starts")
  if not json_files.fits(listed, list[dict]):
    raise UserError(f"{file}: not a run.json (starts is no list); restore or remove it")
  for start in listed:
    json_files.check(start, file, provenance.FIELDS)
    json_files.check(start.get("git") or {}, f"{file}: git", provenance.GIT)
    steps = start.get("steps")
    if steps is not None and (len(steps) != 2 or start.get("after") is None):
      raise UserError(
        f"{file}: a start has steps {steps} and after {start.get('after')}; expected are `steps`"
        " before and from this start on, and `after`, its first step; restore or remove the file"
      )
  return listed


def is_unchanged(path: str | os.PathLike) -> bool:
  """Returns whether the run's config.json is the one that its last start wrote."""
  content = (paths.of(path) / "config.json").read_bytes()
  recorded = [start.get("config_sha256") for start in starts(path)[-1:]]
  return recorded == [hashlib.sha256(content).hexdigest()]


def config_json(config: ConfigDict) -> str:
  """Returns `config` as JSON, keys sorted; raises UserError for a value that JSON can't hold."""
  plain = frozen(config)
  for key, value in flat(plain).items():
    try:
      json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
      kind = type(value).__name__
      raise UserError(
        f"config key {key}: {value!r} ({kind}) can't be written to config.json; "
        "use a finite number, a string, a bool, None or a sequence of them"
      ) from None
  return json.dumps(plain.to_dict(), indent=2, sort_keys=True) + "\n"


def again(path: str | os.PathLike) -> ConfigDict:
  """Returns the config of the run in `path`, to be run again elsewhere.

  Logs what differs from its starts. Raises UserError where `path` holds no run.
  """
  config = older.complete(load_config(path))
  for start in starts(path):
    before, now = start.get("steps") or (0, 0)
    if before != now:
      after = start["after"]
      logging.warning("--rerun %s: steps was %d until step %d, then %d", path, before, after, now)
  for start in starts(path)[-1:]:
    for difference in provenance.differences(start):
      logging.warning("--rerun %s: %s", path, difference)
  return config


def _refuse_another(path, here, there, defaults):
  """Raises UserError for settings that differ and may not change, or fewer steps than done; logs
  those of CADENCE that differ."""
  here, there = flat(here), flat(there)
  later = {key: defaults[key] for key in here.keys() & defaults.keys()}
  later = later if is_unchanged(path) else {}
  there = later | older.defaults(here) | there
  done = max(checksums.steps(path / "checkpoints"), default=0)
  # The saved position lacks these parts of a mixture, so they begin where the run goes on.
  free = (*CHANGEABLE, *CADENCE, *added_parts.find((here, there), starts(path), done))
  rows = [
    (key, *(repr(side[key]) if key in side else "(absent)" for side in (here, there)))
    for key in sorted(here.keys() | there.keys())
    if not any(f"{key}.".startswith(f"{name}.") for name in free)
  ]
  rows = [row for row in rows if row[1] != row[2]]
  if not rows and 0 < here.get("steps", done) < done:  # 0: known later, of epochs
    raise UserError(
      f"{path}: steps is {here['steps']}, and {done} are done: set it to {done} or more, or use"
      " another --workdir"
    )
  if not rows:
    for key in sorted(here.keys() & there.keys()):
      meaning = CADENCE.get(key.partition(".")[0])
      is_share = isinstance(here[key], float) and 0 < here[key] < 1  # of steps that are found later
      if meaning and here[key] != there[key] and not (is_share and isinstance(there[key], int)):
        logging.warning("%s is %r, before it was %r: %s", key, here[key], there[key], meaning)
    return
  rows = [("key", "here", "there"), *rows]
  wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
  table = "\n".join(f"  {a:<{wide[0]}}  {b:<{wide[1]}}  {c}" for a, b, c in rows)
  raise UserError(
    f"{path}: holds another run; settings that differ (here: this command, there: the folder):\n"
    f"{table}\nUse another --workdir, or the same settings"
  )


def _steps_before(workdir, config) -> int | None:
  """Returns `steps` of the start that made the latest checkpoint; `config` is that of the last."""
  planned = [start for start in starts(workdir.path) if start.get("steps")]
  if not planned or not workdir.last_step:
    return config.get("steps")
  before, now = planned[-1]["steps"]
  return now if planned[-1]["after"] < workdir.last_step else before  # it may have saved nothing


def _note_start(workdir, command, config, devices):
  path, before = workdir.path, starts(workdir.path)
  start = provenance.describe_start(command, config_json(config), devices)
  start["after"] = workdir.last_step
  if "steps" in config:
    start["steps"] = [workdir.steps_before or config.steps, config.steps]
  if start["git"] and start["git"]["dirty"] and (text := provenance.patch()):
    start["git"]["patch"] = f"patches/{len(before) + 1}.patch"
    (path / "patches").mkdir(exist_ok=True)
    write_atomically(path / start["git"]["patch"], text)
  _write_starts(path, [*before, start])


def _write_starts(path, listed):
  write_atomically(path / "run.json", json.dumps({"starts": listed}, indent=2) + "\n")


def _no_run(path):
  problem = "not a folder" if path.exists() else "no such folder"
  if path.is_dir():
    problem = "holds no run (config.json is not in it)"
    if (path / "checkpoints").is_dir():
      return f"{path}: config.json is missing beside the checkpoints; restore it"
  near = path if path.is_dir() else path.parent
  runs = {file.parent.name: file.parent for file in sorted(near.glob("*/config.json"))}
  close = nearest(path.name, runs) or (near == path and next(iter(runs), None))
  return f"{path}: {problem}" + (f"; did you mean {runs[close]}?" if close else "")
