"""python tests/train/older_runs.py KIND OUT, for a run of tests/fixtures/formats/2.

Predicts from its checkpoint of step 3, goes on to step 6, and evaluates. It is run from the
project's root and on one device, as the fixtures were made. OUT/KIND is the run afterwards and
OUT/KIND.json holds the predictions.
"""

import json
import pathlib
import shutil
import sys

from train import evaluate, inference, loop, schema
from train.record import config, workdir

FIXTURES = pathlib.Path("tests/fixtures/formats/2")


def main(kind: str, out: str) -> None:
  run = shutil.copytree(FIXTURES / kind, pathlib.Path(out, kind))
  predictions = run / "predictions.json"
  if predictions.exists():
    inputs = [item["input"] for item in json.loads(predictions.read_text())]
    outputs = inference.load(run)(inputs)
    pathlib.Path(out, f"{kind}.json").write_text(json.dumps(outputs))
  cfg = schema.complete(workdir.again(run))  # as --rerun does
  defaults = config.flat(schema.defaults(cfg))
  with workdir.open_run(run, cfg, ["again"], defaults=defaults) as opened:
    assert loop.train(cfg, opened) == 0
  evaluate.main(["--workdir", str(run), "--split", "validation"])


if __name__ == "__main__":
  main(*sys.argv[1:])
