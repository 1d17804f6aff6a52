"""The folder of one run: what was asked, by whom it is in use, and refusal of another run's."""

import dataclasses
import fcntl
import functools
import json
import os
import pathlib
import socket
from collections.abc import Iterable, Sequence

from absl import logging
from ml_collections import ConfigDict

from train.common import json_files
from train.common.errors import UserError, as_user_error, nearest
from train.common.files import write_atomically
from train.record import checksums, provenance
from train.record.config import flat, frozen

# What a run may go on with another value of: the numbers stay the same (up to rounding).
CHANGEABLE = (
  *("log_every", "tensorboard", "workers", "mesh", "parallelism", "microbatches", "max_skipped"),
  "watchdog_seconds",
  *("model.remat", "task.loss_chunks"),
)
# Settings that came later, each with the value by which a run from before goes on as it went.
ADDED = dict(ema=0.0, spike=3.0, skip_spikes=False, watchdog_seconds=600.0)
ADDED |= {"model.name": "transformer"}
ADDED_TO = {  # likewise, to a section of each task
  "data": {"on_bad_record": "error", "cutoff": 22},
  "decoding": dict(
    penalty="wu", stop="exact", temperature=0.0, top_k=0, top_p=1.0, nbest=1, seed=0
  ),
  "reading": {"nbest": 1},
}
# Names that settings had in older runs, and today's; IN_TASK: of a task or a part of a mixture.
RENAMED = {"step": "parallelism"}
RENAMED_IN_TASK = {"across": "cross_documents", "static": "fixed_masks"}
NOT_IN_TEXT_TO_TEXT = ("lowercase_scores", "bleu_tokenizer", "piece_marker")
MADE_OF_DATA = ("tokenizer.json", "labels.json")


@dataclasses.dataclass
class Workdir:
  """A run's folder, locked for this process until `close` or the process's end."""

  path: pathlib.Path
  primary: bool
  lock: int | None  # file descriptor; the kernel frees the lock with it, also on kill -9

  def note(self, **facts) -> None:
    """Adds to what run.json says of this start."""
    if self.primary:
      told = starts(self.path)
      told[-1].update(facts)
      _write_starts(self.path, told)

  def close(self) -> None:
    """Lets another process use the folder."""
    if self.lock is not None:
      os.close(self.lock)
      self.lock = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def open_run(
  path: str | os.PathLike,
  config: ConfigDict,
  command: Sequence[str],
  devices: Sequence[str] = (),
  primary: bool = True,
) -> Workdir:
  """The folder of the run of `config`: made or continued, locked, this start in run.json.

  Only the primary process locks and writes. Raises UserError where the folder is in use by a
  living process, holds checkpoints of a run with another config, or can't be written to.
  """
  path = pathlib.Path(path)
  if not primary:
    return Workdir(path, False, None)
  text = config_json(config)
  try:
    path.mkdir(parents=True, exist_ok=True)
    workdir = Workdir(path, True, _lock(path))
    try:
      if any(checksums.is_step(found.name) for found in path.glob("checkpoints/*")):
        _refuse_another(path, frozen(config), load_config(path))
      else:  # nothing of it is worth keeping, and what it made of its data may not fit
        for name in MADE_OF_DATA:
          (path / name).unlink(missing_ok=True)
      checksums.set_damaged_aside(path)
      write_atomically(path / "config.json", text)
      _note_start(path, command, text, devices)
    except BaseException:
      workdir.close()
      raise
  except OSError as error:
    raise UserError(
      f"{path}: can't be used as workdir: {error.strerror}: {error.filename}"
    ) from error
  return workdir


def load_config(path: str | os.PathLike) -> ConfigDict:
  """The locked config of the run in the folder `path`, equal to the one `flags.load` gave it.

  JSON knows one kind of sequence: all come back as tuples, which `flags.load` makes of them too.
  Raises UserError where `path` holds no run.
  """
  path = pathlib.Path(path)
  file = path / "config.json"
  if not file.is_file():
    raise UserError(_no_run(path))
  with as_user_error(f"{file}: no config is in it; restore or remove it"):
    return frozen(upgraded(json_files.read(file)))


def upgraded(config: dict) -> dict:
  """Returns the config of an older run with the names that its settings have today."""
  config = _renamed(config, RENAMED)
  if "task" in config:
    task = config["task"] = _upgraded_task(config["task"])
    if "parts" in task:
      task["parts"] = {name: _upgraded_task(part) for name, part in task["parts"].items()}
  return config


def _upgraded_task(task: dict) -> dict:
  task = _renamed(task, RENAMED_IN_TASK)
  kind = task.pop("metric", "texts")  # of a translation, which stood for text_to_text too
  if kind == "texts":
    return task
  task = {key: value for key, value in task.items() if key not in NOT_IN_TEXT_TO_TEXT}
  return task | dict(name="text_to_text", kind=kind)


def _renamed(section: dict, names: dict[str, str]) -> dict:
  return {names.get(key, key): value for key, value in section.items()}


def added(keys: Iterable[str]) -> dict[str, object]:
  """Returns those of a config's dotted keys that came later, with the value by which an older run
  goes on."""
  values = {}
  for key in keys:
    sections, _, name = key.rpartition(".")
    later = ADDED_TO.get(sections.rpartition(".")[2], {})
    if key in ADDED:
      values[key] = ADDED[key]
    elif name in later:
      values[key] = later[name]
  return values


def completed(config: ConfigDict) -> ConfigDict:
  """The config of a run from before, with the settings that came later."""
  plain, known = config.to_dict(), flat(config)
  for key, value in ADDED.items():
    if key not in known:
      *sections, last = key.split(".")
      functools.reduce(dict.__getitem__, sections, plain)[last] = value
  return frozen(plain)


def starts(path: str | os.PathLike) -> list[dict]:
  """What the run.json in the folder `path` tells of each start; none where it is not there."""
  file = pathlib.Path(path) / "run.json"
  if not file.exists():
    return []
  found = json_files.read(file).get("starts")
  if not json_files.fits(found, list[dict]):
    raise UserError(f"{file}: not a run.json (starts is no list); restore or remove it")
  for start in found:
    json_files.check(start, file, provenance.FIELDS)
    json_files.check(start.get("git") or {}, f"{file}: git", provenance.GIT)
  return found


def config_json(config: ConfigDict) -> str:
  """Canonical JSON of `config`: keys sorted, two spaces; UserError for a value JSON can't hold."""
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


def _lock(path):
  """A descriptor of the held lock; UserError where a living process holds it."""
  lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    holder = os.pread(lock, 1000, 0).decode(errors="replace").strip() or "another process"
    os.close(lock)
    raise UserError(
      f"{path}: in use by {holder}. Wait for it, stop it, or use another --workdir"
    ) from None
  except OSError as error:
    logging.warning("%s: this file system has no locks (%s); start one run in it", path, error)
  os.ftruncate(lock, 0)
  os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
  return lock


def _refuse_another(path, here, there):
  """UserError with the settings that differ, where one of them is not CHANGEABLE."""
  here, there = flat(here), flat(there)
  there = added(here) | there
  missing = object()
  keys = [
    key
    for key in sorted(here.keys() | there.keys())
    if repr(here.get(key, missing)) != repr(there.get(key, missing))
    and not any(f"{key}.".startswith(f"{one}.") for one in CHANGEABLE)
  ]
  if not keys:
    return
  shown = [("key", "here", "there")]
  for key in keys:
    shown.append((key, *(repr(side[key]) if key in side else "(absent)" for side in (here, there))))
  wide = [max(len(row[column]) for row in shown) for column in (0, 1)]
  table = "\n".join(f"  {a:<{wide[0]}}  {b:<{wide[1]}}  {c}" for a, b, c in shown)
  raise UserError(
    f"{path}: holds another run; settings that differ (here: this command, there: the folder):\n"
    f"{table}\nUse another --workdir, or the same settings"
  )


def _note_start(path, command, config, devices):
  before = starts(path)
  start = provenance.of_start(command, config, devices)
  if start["git"] and start["git"]["dirty"] and (text := provenance.patch()):
    start["git"]["patch"] = f"patches/{len(before) + 1}.patch"
    (path / "patches").mkdir(exist_ok=True)
    write_atomically(path / start["git"]["patch"], text)
  _write_starts(path, [*before, start])


def _write_starts(path, told):
  write_atomically(path / "run.json", json.dumps({"starts": told}, indent=2) + "\n")


def again(path: str | os.PathLike) -> ConfigDict:
  """The config of the run in `path`, to be run again elsewhere; the log says what is different from
  when it was last started. UserError where `path` holds no run."""
  config = completed(load_config(path))
  for start in starts(path)[-1:]:
    for told in provenance.differences(start):
      logging.warning("--rerun %s: %s", path, told)
  return config


def _no_run(path):
  if not path.is_dir():
    problem = "no such folder" if not path.exists() else "not a folder"
  else:
    problem = "holds no run (config.json is not in it)"
  near = path if path.is_dir() else path.parent
  runs = {found.parent.name: found.parent for found in sorted(near.glob("*/config.json"))}
  close = nearest(path.name, runs) or next(iter(runs), None)
  return f"{path}: {problem}" + (f"; did you mean {runs[close]}?" if close else "")
