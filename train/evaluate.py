"""python -m train.evaluate --workdir runs/scan --split test --checkpoint best

Loss and scores of a run's checkpoint on a split: prints them as JSON and writes results.json, and
the outputs (JSON lines) into the workdir's folder `evaluations`. Where there are classes, their
precision, recall and F1 and a confusion go to standard error, a .txt and a .png file.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from train import cli, report, sharding, tasks
from train.data import batches
from train.data.bad_records import LEFT_OUT
from train.errors import UserError
from train.interop import directory
from train.paths import write_atomically
from train.step import make_eval_step, make_predict_step, means


def loss(eval_step, params, mesh, held_out) -> dict[str, float]:
  """Means over all batches of `held_out`."""
  total = None
  with sharding.laid_over(mesh):
    for batch in held_out:
      sums = jax.device_get(eval_step(params, sharding.put(batch, mesh)))
      total = sums if total is None else jax.tree.map(np.add, total, sums)
  return means(total)


def decode(task, predict_step, params, mesh, examples, settings) -> list[dict]:
  """`task.outputs` of the examples, in order; one's output does not depend on the others.

  All processes decode the same examples together and all get the result.
  """
  requests = task.requests(examples)
  predictions: list = [None] * len(requests.rooms())
  # The fixed batch, rounded up so that the devices share it evenly.
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  rows = -(-task.decode_batch // shards) * shards
  for batch in batches.requests(requests, rows, task.source_len or task.target_len):
    with sharding.laid_over(mesh):
      found = predict_step(params, sharding.put_whole(batch, mesh), settings)
    found = sharding.fetch(found)
    for place, row in enumerate(batch["row"].tolist()):
      if row >= 0:
        predictions[row] = {name: values[place] for name, values in found.items()}
  return task.outputs(examples, requests, predictions, settings)


class Decoded(NamedTuple):
  """A task's outputs for examples of a split."""

  task: Any
  outputs: list[dict]
  examples: Sequence[Mapping]


def score(
  task, predict_step, params, mesh, split: str, changes: Mapping, most: int = 0
) -> tuple[dict, dict[str, Decoded]]:
  """Metrics from the first `most` examples of a split (0: all), predicted as the config says but
  for `changes`; and what was decoded. A mixture's parts each have a name and theirs, others ""."""
  scores, decoded = {}, {}
  parts = getattr(task, "scored_parts", None)
  for name, part in (parts(split) if parts else {"": task}).items():
    source = part.examples(split)
    examples = [source[i] for i in range(min(len(source), most or len(source)))]
    outputs = decode(part, predict_step, params, mesh, examples, part.settings(**changes))
    for metric, value in part.score(outputs, examples).items():
      scores[prefixed(name, metric, "/")] = value
    decoded[name] = Decoded(part, outputs, examples)
  return scores, decoded


def prefixed(part: str, name: str, between: str) -> str:
  """`name` with the part's in front, if it has one."""
  return f"{part}{between}{name}" if part else name


def main(argv):
  parser = cli.parser(__doc__)
  parser.add_argument("--split", default="test")
  cli.add_decoding(parser)
  args = parser.parse_args(argv)
  if directory.is_one(args.workdir):
    raise UserError(
      f"{args.workdir} has no data to evaluate on: begin a run from it (a config's init=), with"
      " steps=1,peak=0.0 if it is to be as it is"
    )
  run, changes = cli.load_run(args.workdir, args.checkpoint), cli.decoding_changes(args)
  settings = run.task.settings(**changes)
  if changes and not run.task.scored:
    raise UserError(f"--{min(changes)}: {run.cfg.task.name} has a loss only, nothing is decoded")
  results = dict(
    workdir=str(args.workdir), checkpoint=args.checkpoint, steps=run.steps, split=args.split
  )
  eval_step = make_eval_step(run.task, run.graph)
  layout = tasks.layout(run.task, run.cfg.batch_size)
  held_out = batches.eval_batches(run.task.items(args.split), layout)
  results |= loss(eval_step, run.params, run.mesh, held_out)
  folder = pathlib.Path(args.workdir) / "evaluations"
  folder.mkdir(exist_ok=True)
  name = "-".join([args.split, re.sub("[:,]", "-", args.checkpoint)])
  if run.task.scored:
    results["settings"] = dataclasses.asdict(settings)
    name = "-".join([name, *settings.words()])
    step = make_predict_step(run.task, run.graph)
    scores, decoded = score(run.task, step, run.params, run.mesh, args.split, changes)
    results |= scores
    for part, found in decoded.items():
      results |= write_outputs(found, part, folder / prefixed(part, name, "-"))
  if LEFT_OUT:  # the scores are of fewer examples
    results["left_out"] = LEFT_OUT
  text = json.dumps(results, indent=2, ensure_ascii=False)
  for path in (folder / f"{name}.json", pathlib.Path(args.workdir) / "results.json"):
    write_atomically(path, text + "\n")
  print(text)


def write_outputs(decoded: Decoded, part: str, path: pathlib.Path) -> dict:
  """Writes the outputs as JSON lines, shows and writes what there is to tell of classes, and gives
  its numbers back."""
  with open(f"{path}.jsonl", "w", encoding="utf-8") as file:
    for example, output in zip(decoded.examples, decoded.outputs):
      file.write(json.dumps(dict(example) | {"output": output}, ensure_ascii=False) + "\n")
  told = decoded.task.report(decoded.outputs, decoded.examples)
  if told is None:
    return {}
  report.show(told)
  pathlib.Path(f"{path}-classes.txt").write_text(report.text(told), encoding="utf-8")
  if len(told.labels):
    report.draw(told, pathlib.Path(f"{path}-confusion.png"))
  return {prefixed(part, "classes", "/"): told.classes}


if __name__ == "__main__":
  cli.run(main)
