"""Finds the parts of a mixture that a run has not read yet: they may be added when it goes on."""

from collections.abc import Mapping, Sequence


def find(configs: Sequence[Mapping], listed: Sequence[Mapping], last_step: int) -> list[str]:
  """Returns the keys, as `task.parts.NAME`, of the parts of flat configs that the checkpoint of the
  last step has not read; none unless it is one of a mixture that is streamed. `listed` are the
  starts in run.json."""
  made = [start for start in listed if "rates" in start and start["after"] < last_step]
  if not made or not made[-1]["streams"]:
    return []
  keys = {key for config in configs for key in config if key.startswith("task.parts.")}
  parts = {".".join(key.split(".")[:3]) for key in keys}
  return sorted(parts - {f"task.parts.{name}" for name in made[-1]["rates"]})
