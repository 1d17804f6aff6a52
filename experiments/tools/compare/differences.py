"""In what runs differ: their settings, and what run.json tells of code, packages, devices, data."""

import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.tools.compare.sides import Side
from train.record import older
from train.record.config import flat

ABSENT = "(not there)"
UNTOLD = "(not told)"


def differences(configs: Sequence[ConfigDict]) -> list[tuple[str, ...]]:
  """(key, what each config says) of the keys in which they differ. One that came later and is not
  in an older run's is shown as not there, with the value by which that run goes."""
  sides = [flat(cfg) for cfg in configs]
  keys = sorted(set().union(*sides))
  later = older.defaults(keys)

  def said(side, key):
    if key in side:
      return repr(side[key])
    return f"{ABSENT[:-1]}: as {later[key]!r})" if key in later else ABSENT

  rows = [(key, *(said(side, key) for side in sides)) for key in keys]
  return [row for row in rows if len(set(row[1:])) > 1]


def provenance(sides: Sequence[Side]) -> list[tuple[str, ...]]:
  """(what, what each run's run.json says of it) of code, packages, devices and data that differ. A
  run that was started several times tells all that it had, in order."""
  facts = [[_facts(start) for start in side.starts] for side in sides]
  keys = dict.fromkeys(key for starts in facts for start in starts for key in start)
  rows = []
  for key in keys:
    said = [dict.fromkeys(start[key] for start in starts if key in start) for starts in facts]
    row = [", then ".join(words) or UNTOLD for words in said]
    if len(set(row)) > 1:
      rows.append((key, *row))
  return rows


def _facts(start):
  git = start.get("git") or {}
  facts = {"commit": git.get("commit", "(no git)")}
  if git.get("dirty"):
    facts["commit"] += " with changes"
  facts |= {name: str(version) for name, version in (start.get("versions") or {}).items()}
  devices = start.get("devices") or []
  facts["devices"] = f"{len(devices)}: {devices[0]}" if devices else UNTOLD
  facts |= {f"data, {split}": digest for split, digest in (start.get("data") or {}).items()}
  if start.get("left_out"):
    facts["left out"] = json.dumps(start["left_out"])
  return facts
