"""What made a run: command, config, code, packages, devices; and what of it is different now."""

import datetime
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")
# Types in run.json of what `differences` reads of a start, and of its "git"
FIELDS = dict(git=dict, versions=dict[str, str | None])
GIT = dict(commit=str, dirty=bool)
MOST_PATCH = 1 << 20  # bytes of a patch that is kept


def of_start(command: Sequence[str], config: str, devices: Sequence[str]) -> dict:
  """One start of a run, fit for JSON; `config` is its config.json."""
  return {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": list(command),
    "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
    "git": git(),
    "versions": versions(),
    "devices": list(devices),
  }


def device_name(device) -> str:
  """Of a jax.Device: `cpu:0`, and of an accelerator its kind too, without which a speed says
  little: `NVIDIA H200, cuda:0`."""
  kind = device.device_kind
  return str(device) if kind == device.platform else f"{kind}, {device}"


def versions() -> dict[str, str | None]:
  """Name -> version of Python and of each of PACKAGES (None: not installed)."""
  found = {"python": platform.python_version()}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found


def git() -> dict | None:
  """{"commit", "dirty"} of the checkout this file is in; None outside of git."""
  try:
    return {
      "commit": _ask("rev-parse", "HEAD").strip(),
      "dirty": bool(_ask("status", "--porcelain")),
    }
  except (OSError, subprocess.SubprocessError):
    return None


def patch() -> str:
  """What the checkout has that its commit has not, for `git apply`; new files by name alone."""
  try:
    new = _ask("ls-files", "--others", "--exclude-standard").splitlines()
    text = "".join(f"# not in the commit: {name}\n" for name in new) + _ask("diff", "HEAD")
  except (OSError, subprocess.SubprocessError):
    return ""
  return text if len(text) <= MOST_PATCH else text[:MOST_PATCH] + "\n# ... cut here\n"


def differences(start: Mapping) -> list[str]:
  """In words, how what is here differs from what a start was made with."""
  here, found = git(), []
  there = start.get("git")
  if here and there and there.keys() >= GIT.keys():
    if here["commit"] != there["commit"]:
      found.append(f"the code is commit {here['commit'][:12]}, then it was {there['commit'][:12]}")
    if here["dirty"] or there["dirty"]:
      when = " and ".join(["now"] * here["dirty"] + ["then"] * there["dirty"])
      found.append(f"the code has changes that are not committed, {when}")
  for name, version in versions().items():
    before = (start.get("versions") or {}).get(name)
    if before != version:
      found.append(f"{name} is {version}, then it was {before}")
  return found


def _ask(*words):
  root = pathlib.Path(__file__).parents[2]
  # no optional locks: a status here must not make somebody's commit there fail
  environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
  command = ["git", "-C", str(root), *words]
  answer = subprocess.run(
    command, capture_output=True, text=True, timeout=30, env=environment, check=True
  )
  return answer.stdout
