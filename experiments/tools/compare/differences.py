"""Lists in what runs differ: settings, and code, packages, devices and data as in run.json."""

import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.tools.compare.trained import TrainedRun
from train.record import older
from train.record.config import flat

UNKNOWN = "(unknown)"


def settings(configs: Sequence[ConfigDict]) -> list[tuple[str, ...]]:
  """Returns (key, its value in each config) of the keys that differ.

  A key that is newer than a run is shown as absent, with the value by which that run goes.
  """
  configs = [flat(cfg) for cfg in configs]
  keys = sorted(set().union(*configs))
  added = older.defaults(keys)

  def absent(key):
    return f"(absent: as {added[key]!r})" if key in added else "(absent)"

  rows = [(key, *(repr(x[key]) if key in x else absent(key) for x in configs)) for key in keys]
  return [row for row in rows if len(set(row[1:])) > 1]


def provenance(runs: Sequence[TrainedRun]) -> list[tuple[str, ...]]:
  """Returns (what, its value in each run.json) of what differs in code, packages, devices, data.

  A run that was started several times lists all of its values, in order.
  """
  facts = [[_facts(start) for start in run.starts] for run in runs]
  rows = []
  for key in dict.fromkeys(key for starts in facts for start in starts for key in start):
    values = [dict.fromkeys(start[key] for start in starts if key in start) for starts in facts]
    rows.append((key, *(", then ".join(several) or UNKNOWN for several in values)))
  return [row for row in rows if len(set(row[1:])) > 1]


def _facts(start):
  git, devices = start.get("git") or {}, start.get("devices") or []
  facts = {"commit": git.get("commit", "(no git)") + " with changes" * bool(git.get("dirty"))}
  facts |= {name: str(version) for name, version in (start.get("versions") or {}).items()}
  facts["devices"] = f"{len(devices)}: {devices[0]}" if devices else UNKNOWN
  facts |= {f"data, {split}": checksum for split, checksum in (start.get("data") or {}).items()}
  if start.get("left_out"):
    facts["left out"] = json.dumps(start["left_out"])
  return facts
