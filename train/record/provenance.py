"""Describes what made a run: command, config, code, packages, devices; and what differs now."""

import datetime
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")
# The types of a start's fields in run.json, and of the fields of its "git".
FIELDS = dict(git=dict, versions=dict[str, str | None], after=int, steps=list[int])
FIELDS |= {"files": dict[str, str], "rates": dict[str, float], "streams": int}
GIT = dict(commit=str, dirty=bool)
PATCH_BYTES = 1 << 20  # a longer patch is cut


def describe_start(command: Sequence[str], config: str, devices: Sequence[str]) -> dict:
  """Returns the record of one start of a run, as JSON holds it; `config` is its config.json."""
  return {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": list(command),
    "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
    "git": git(),
    "versions": versions(),
    "devices": list(devices),
  }


def device_name(device) -> str:
  """Returns the name of a jax.Device, an accelerator's with its kind: `NVIDIA H200, cuda:0`."""
  kind = device.device_kind
  return str(device) if kind == device.platform else f"{kind}, {device}"


def versions() -> dict[str, str | None]:
  """Returns name -> version of Python and of each of PACKAGES (None: not installed)."""
  known = {"python": platform.python_version()}
  for name in PACKAGES:
    try:
      known[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      known[name] = None
  return known


def git() -> dict | None:
  """Returns {"commit", "dirty"} of this file's checkout, or None outside of git."""
  try:
    commit, changes = _run_git("rev-parse", "HEAD"), _run_git("status", "--porcelain")
  except (OSError, subprocess.SubprocessError):
    return None
  return {"commit": commit.strip(), "dirty": bool(changes)}


def patch() -> str:
  """Returns the checkout's uncommitted changes for `git apply`; new files are only named."""
  try:
    new = _run_git("ls-files", "--others", "--exclude-standard").splitlines()
    text = "".join(f"# not in the commit: {name}\n" for name in new) + _run_git("diff", "HEAD")
  except (OSError, subprocess.SubprocessError):
    return ""
  return text if len(text) <= PATCH_BYTES else text[:PATCH_BYTES] + "\n# ... cut here\n"


def differences(start: Mapping) -> list[str]:
  """Returns a sentence for each difference between what is here and what made a start."""
  here, sentences = git(), []
  there = start.get("git")
  if here and there and there.keys() >= GIT.keys():
    if here["commit"] != there["commit"]:
      sentences.append(
        f"the code is commit {here['commit'][:12]}, before it was {there['commit'][:12]}"
      )
    if here["dirty"] or there["dirty"]:
      when = " and ".join(["now"] * here["dirty"] + ["before"] * there["dirty"])
      sentences.append(f"the code has uncommitted changes, {when}")
  for name, version in versions().items():
    before = (start.get("versions") or {}).get(name)
    if before != version:
      sentences.append(f"{name} is {version}, before it was {before}")
  return sentences


def _run_git(*words):
  # Without optional locks, so that this status makes no concurrent commit fail.
  command = ["git", "--no-optional-locks", "-C", str(pathlib.Path(__file__).parents[2]), *words]
  return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
