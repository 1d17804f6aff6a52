"""python -m train.evaluate --workdir runs/scan --split test --checkpoint best

Loss and scores of a run's checkpoint on a split: prints them and writes results.json and the
outputs (JSON lines) into the workdir's folder `evaluations`.
"""

import json
import pathlib
import re

import jax
import numpy as np

from train import cli, sharding
from train.step import make_eval_step, make_predict_step, means


def loss(eval_step, params, mesh, batches) -> dict[str, float]:
  """Means over all of `batches`."""
  total = None
  for batch in batches:
    sums = jax.device_get(eval_step(params, sharding.put(batch, mesh)))
    total = sums if total is None else jax.tree.map(np.add, total, sums)
  return means(total)


def decode(task, predict_step, params, mesh, inputs, settings) -> list[dict]:
  """`task.output` of each input, in order; what it is does not depend on the other inputs.

  All processes decode the same inputs together and all get the result.
  """
  outputs: list = [None] * len(inputs)
  # The fixed batch, rounded up so that the devices share it evenly.
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  rows = -(-task.decode_batch // shards) * shards
  for batch in task.predict_batches(inputs, rows):
    found = predict_step(params, sharding.put_whole(batch, mesh), settings)
    found = sharding.fetch(found)
    for place, row in enumerate(found["row"].tolist()):
      if row >= 0:
        outputs[row] = task.output({name: values[place] for name, values in found.items()})
  return outputs


def score(task, predict_step, params, mesh, split: str, settings, most: int = 0):
  """(scores, outputs, examples) of the first `most` examples of a split (0: all)."""
  source = task.examples(split)
  examples = [source[i] for i in range(min(len(source), most or len(source)))]
  inputs = [example["source"] for example in examples]
  outputs = decode(task, predict_step, params, mesh, inputs, settings)
  return task.score(outputs, examples), outputs, examples


def main(argv):
  parser = cli.parser(__doc__)
  parser.add_argument("--split", default="test")
  cli.add_decoding(parser)
  args = parser.parse_args(argv)
  run = cli.load_run(args.workdir, args.checkpoint)
  settings = run.task.settings(**cli.decoding_changes(args))
  results = dict(
    workdir=str(args.workdir),
    checkpoint=args.checkpoint,
    steps=run.steps,
    split=args.split,
    decoding=vars(settings),
  )
  eval_step = make_eval_step(run.task, run.graph)
  batches = run.task.eval_batches(args.split, run.cfg.batch_size)
  results |= loss(eval_step, run.params, run.mesh, batches)
  predict_step = make_predict_step(run.task, run.graph)
  scores, outputs, examples = score(
    run.task, predict_step, run.params, run.mesh, args.split, settings
  )
  results |= scores
  folder = pathlib.Path(args.workdir) / "evaluations"
  name = f"{args.split}-{re.sub('[:,]', '-', args.checkpoint)}-beam{settings.beam}"
  folder.mkdir(exist_ok=True)
  with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
    for example, output in zip(examples, outputs):
      file.write(json.dumps({**example, "output": output["text"]}, ensure_ascii=False) + "\n")
  text = json.dumps(results, indent=2, ensure_ascii=False)
  for path in (folder / f"{name}.json", pathlib.Path(args.workdir) / "results.json"):
    path.write_text(text + "\n", encoding="utf-8")
  print(text)


if __name__ == "__main__":
  cli.run(main)
