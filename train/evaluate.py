"""python -m train.evaluate --workdir runs/scan --split test --checkpoint best
python -m train.evaluate --workdir runs/reviews --data others.csv --columns text+stars
python -m train.evaluate --model hf:DIR --data reviews.tsv --limit 1000   (a Hugging Face directory)

Evaluates a run's checkpoint, or a Hugging Face directory, on a split of the run's data or on a
file: prints loss and scores as JSON. The results, the outputs (JSON lines) and the precision,
recall, F1 and confusion of classes go into the folder `evaluations` of the run, or of --out; the
results also into results.json beside it. Results on a file name it with its SHA-256 digest.
"""

import dataclasses
import json
import re

from train import evaluation, inference, pretrained, tasks
from train.common import entry, paths
from train.common.errors import UserError
from train.common.files import write_atomically
from train.data import batches, given
from train.data.bad_records import LEFT_OUT
from train.data.items import is_streamed
from train.scoring import classes
from train.tasks.windows import check_any_known


def main(argv):
  args = build_parser().parse_args(argv)
  if args.split and args.data:
    raise UserError("--split is of a run's data, and --data takes their place: give one of them")
  if not args.data and pretrained.open(args.workdir).config is None:
    raise UserError(f"{args.workdir} has no data to evaluate on: name a file, --data FILE")
  if args.columns and not args.data:
    raise UserError("--columns names columns of a file: give --data FILE too")
  changes = inference.decoding_changes(args)
  run = inference.load_run(
    args.workdir,
    args.checkpoint,
    pair=args.pair,
    rows=args.batch_size,
    **inference.direction(args),
    **changes,
  )
  if changes and not run.task.has_score:
    raise UserError(f"--{min(changes)}: a {type(run.task).__name__} task has a loss and no score")
  if run.cfg:
    tasks.check_packages(run.cfg.task.to_dict())
  task, split, name, results = prepare(run, args)
  items = task.items(split)
  if is_streamed(items):
    raise UserError(f"--split {split}: the data are streamed: --limit N takes N examples of them")
  rows = args.batch_size or (run.cfg.batch_size if run.cfg else rows_of(task, items))
  layout = tasks.layout(task, evaluation.rounded_up(rows, run.mesh))
  on_split = evaluation.Split(task, run.graph, run.mesh, split, items, layout)
  evaluated = evaluation.Pass(on_split, run.params, batches.eval_batches(items, layout))
  results |= evaluated.loss()
  parent = args.out or (args.workdir if run.cfg else None)
  folder = parent and parent / "evaluations"
  if folder:
    folder.mkdir(parents=True, exist_ok=True)
  if task.has_score:
    settings = task.settings(**changes)
    results["settings"] = dataclasses.asdict(settings)
    name = "-".join([name, *settings.tag()])
    scores, decoded = evaluated.score(changes)
    results |= scores
    for part, outputs in decoded.items():
      path = folder and folder / evaluation.prefixed(part, name, "-")
      results |= report(outputs, part, path)
  if LEFT_OUT:  # the scores are those of fewer examples
    results["left_out"] = LEFT_OUT
  text = json.dumps(results, indent=2, ensure_ascii=False)
  for path in (folder / f"{name}.json", folder.parent / "results.json") if folder else ():
    write_atomically(path, text + "\n")
  print(text)


def build_parser():
  parser = inference.parser(__doc__)
  parser.add_argument("--split", help="a split of the run's data (test)")
  inference.add_data(parser)
  parser.add_argument(
    "--out",
    type=paths.of,
    metavar="DIR",
    help="the folder for results (the run's; those of hf:DIR are only printed without one)",
  )
  inference.add_decoding(parser)
  return parser


def prepare(run: inference.Run, args) -> tuple:
  """Returns the task with the data to evaluate on, their split, the name of the results, and the
  first of the results."""
  task, split = run.task, given.SPLIT if args.data else args.split or "test"
  results = dict(workdir=str(args.workdir), checkpoint=args.checkpoint, steps=run.steps)
  if args.data:
    task = inference.on_file(task, args.data, args.columns)
    results["data"] = given.digests(args.data)
    name = given.short_name(args.data, results["data"])
  else:
    name = results["split"] = split
  for key, language in inference.direction(args).items():
    name, results[key] = f"{name}-{re.sub('[^A-Za-z0-9_]', '-', language)}", language
  if args.limit:
    task = inference.limited(task, split, args.limit)
    name, results["limit"] = f"{name}-first{args.limit}", args.limit
  if args.data:
    check_any_known(tasks.main_part(task), split, args.data)
  return task, split, "-".join([name, re.sub("[:,]", "-", args.checkpoint)]), results


def rows_of(task, items) -> int:
  """Returns the rows of a batch for a model without a config: no more than there are items."""
  return max(1, min(task.decode_batch, len(items.lengths())))


def report(decoded: evaluation.Decoded, part: str, path: paths.Path | None) -> dict:
  """Returns the task's report of classes, which it shows; writes it and the outputs as JSON lines
  to files that begin with `path`, if there is one."""
  if path:
    with path.with_name(f"{path.name}.jsonl").open("w", encoding="utf-8") as file:
      for example, output in zip(decoded.examples, decoded.outputs):
        file.write(json.dumps(dict(example) | {"output": output}, ensure_ascii=False) + "\n")
  by_class = decoded.task.report(decoded.outputs, decoded.examples)
  if by_class is None:
    return {}
  classes.print_report(by_class)
  if path:
    text = classes.format_report(by_class)
    path.with_name(f"{path.name}-classes.txt").write_text(text, encoding="utf-8")
    if len(by_class.labels):
      classes.draw_confusion(by_class, path.with_name(f"{path.name}-confusion.png"))
  return {evaluation.prefixed(part, "classes", "/"): by_class.classes}


if __name__ == "__main__":
  entry.run(main)
