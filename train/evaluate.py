"""python -m train.evaluate --workdir runs/scan --split test --checkpoint best

Evaluates a run's checkpoint on a split: prints loss and scores as JSON and writes results.json, and
the outputs (JSON lines) into the workdir's folder `evaluations`. The precision, recall and F1 of
classes and their confusion go to standard error, a .txt and a .png file.
"""

import dataclasses
import json
import pathlib
import re

from train import evaluation, inference, pretrained, tasks
from train.common import entry
from train.common.errors import UserError
from train.common.files import write_atomically
from train.data import batches
from train.data.bad_records import LEFT_OUT
from train.scoring import classes
from train.step import make_eval_step, make_predict_step


def main(argv):
  parser = inference.parser(__doc__, "a run's folder")
  parser.add_argument("--split", default="test", help="a split of the run's data")
  inference.add_decoding(parser)
  args = parser.parse_args(argv)
  if pretrained.open(args.workdir).config is None:
    raise UserError(
      f"{args.workdir} has no data to evaluate on: start a run from it (a config's init=), with"
      " steps=1,peak=0.0 if its weights are to stay the same"
    )
  changes = inference.decoding_changes(args)
  run = inference.load_run(args.workdir, args.checkpoint, rows=args.batch_size, **changes)
  settings = run.task.settings(**changes)
  if changes and not run.task.has_score:
    raise UserError(f"--{min(changes)}: a {run.cfg.task.name} task has a loss and no score")
  tasks.check_packages(run.cfg.task.to_dict())
  results = dict(
    workdir=str(args.workdir), checkpoint=args.checkpoint, steps=run.steps, split=args.split
  )
  eval_step = make_eval_step(run.task, run.graph)
  layout = tasks.layout(run.task, run.cfg.batch_size)
  eval_batches = batches.eval_batches(run.task.items(args.split), layout)
  results |= evaluation.loss(eval_step, run.params, run.mesh, eval_batches)
  folder = pathlib.Path(args.workdir) / "evaluations"
  folder.mkdir(exist_ok=True)
  name = "-".join([args.split, re.sub("[:,]", "-", args.checkpoint)])
  if run.task.has_score:
    results["settings"] = dataclasses.asdict(settings)
    name = "-".join([name, *settings.tag()])
    step = make_predict_step(run.task, run.graph)
    scores, decoded = evaluation.score(run.task, step, run.params, run.mesh, args.split, changes)
    results |= scores
    for part, outputs in decoded.items():
      results |= write_outputs(outputs, part, folder / evaluation.prefixed(part, name, "-"))
  if LEFT_OUT:  # the scores are those of fewer examples
    results["left_out"] = LEFT_OUT
  text = json.dumps(results, indent=2, ensure_ascii=False)
  for path in (folder / f"{name}.json", pathlib.Path(args.workdir) / "results.json"):
    write_atomically(path, text + "\n")
  print(text)


def write_outputs(decoded: evaluation.Decoded, part: str, path: pathlib.Path) -> dict:
  """Writes the outputs as JSON lines; shows, writes and returns the task's report of classes."""
  with open(f"{path}.jsonl", "w", encoding="utf-8") as file:
    for example, output in zip(decoded.examples, decoded.outputs):
      file.write(json.dumps(dict(example) | {"output": output}, ensure_ascii=False) + "\n")
  report = decoded.task.report(decoded.outputs, decoded.examples)
  if report is None:
    return {}
  classes.print_report(report)
  pathlib.Path(f"{path}-classes.txt").write_text(classes.format_report(report), encoding="utf-8")
  if len(report.labels):
    classes.draw_confusion(report, pathlib.Path(f"{path}-confusion.png"))
  return {evaluation.prefixed(part, "classes", "/"): report.classes}


if __name__ == "__main__":
  entry.run(main)
