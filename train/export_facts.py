"""Collects what a model card says of a run, from its records."""

import json
import shlex
from collections.abc import Sequence

from train.common import json_files, paths
from train.common.errors import UserError
from train.interop.card import Card
from train.record import workdir, writer

SCORES = (int, float)


def card(trained, steps: Sequence[int], *, kind: str, **fields) -> Card:
  """Returns the card of a trained model (pretrained.Pretrained) with the weights of `steps`."""
  model = dict(model=fields.pop("family"), task=trained.kind)
  empty = dict(data={}, metrics=[], training={})
  if trained.config is None:
    return Card(kind=kind, origin=trained.name, model=model, **empty, **fields)
  path = paths.of(trained.name)
  start = (workdir.starts(path) or [{}])[-1]
  model |= {"step of the weights": ", ".join(map(str, steps))}
  if "parameters" in start:
    model["parameters"] = f"{start['parameters']:,}"
  section = trained.config.task.to_dict().get("data", {})
  data = {key: json.dumps(value, ensure_ascii=False) for key, value in section.items()}
  data |= {f"SHA-256 of {split}": f"`{x}`" for split, x in (start.get("data") or {}).items()}
  git, versions = start.get("git") or {}, start.get("versions") or {}
  training = dict(command=f"`{shlex.join(start['command'])}`") if "command" in start else {}
  if git.get("commit"):
    training["code"] = f"commit {git['commit']}{' with changes' if git.get('dirty') else ''}"
  training["updates"] = str(trained.config.steps or max(steps))
  if versions:
    training["versions"] = ", ".join(f"{name} {x}" for name, x in versions.items() if x)
  return Card(
    kind=kind,
    origin=path.resolve().name,
    model=model,
    data=data,
    metrics=metrics(path, steps),
    training=training,
    **fields,
  )


def metrics(path: paths.Path, steps: Sequence[int]) -> list[tuple[str, str, str]]:
  """Returns (split, metric, value) of all evaluations of the checkpoint of a run, the run's own and
  those of train.evaluate, which have the signatures of BLEU and chrF."""
  rows = []
  if len(steps) == 1:
    for line in writer.read_metrics(path, missing_ok=True):
      if line.get("step") == steps[0] and line.get("split") != "train":
        rows += _rows(line["split"], line)
  for file in sorted((path / "evaluations").glob("*.json")):
    try:
      results = json_files.read(file)
    except UserError:
      continue
    if results.get("steps") == list(steps):
      rows += _rows(str(results.get("split") or results.get("data") or file.stem), results)
  return rows


def _rows(split: str, values: dict) -> list[tuple[str, str, str]]:
  skipped = ("step", "time", "seconds", "limit")
  return [
    (split, name, f"{value:.4g}" if isinstance(value, SCORES) else value)
    for name, value in values.items()
    if name not in skipped and (isinstance(value, SCORES) or name.endswith("_signature"))
  ]
