"""python -m train.predict --workdir runs/scan "jump twice"   (or --input FILE, --input -)
python -m train.predict --model hf:DIR "I love Python."   (a Hugging Face directory)
python -m train.predict --workdir runs/reviews --data reviews.csv --columns text+stars --limit 100

Prints the prediction of a trained run for each input, in the order of the inputs. An input is a
text. A pair to classify is "text<TAB>text", a question "question<TAB>context", and <mask> or [MASK]
stands for a word to predict. An input has one line of output, N with --nbest N, and one more for
each mask. Line ends of an output are printed as \\n and \\r. --scores adds (log-)probabilities,
--jsonl prints everything as JSON lines, with line ends as they are. Tags are coloured on a terminal
(unless NO_COLOR is set).

--split train --out FILE.jsonl writes pairs of sources and outputs, to train a smaller model on
(configs/multi30k.py:distilled=FILE.jsonl). The same command goes on where it was interrupted.
"""

import contextlib
import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping

from absl import logging

from train import inference, split_outputs, tasks
from train.common import entry, paths
from train.common.errors import UserError
from train.data import given, reading, tables
from train.inference import load
from train.scoring import colour

CHUNK = 512  # inputs that are sorted by length together; the first output waits for all of them


def stream(predictor, inputs: Iterable, size: int = CHUNK) -> Iterator[dict]:
  """Yields the outputs of inputs that may be endless, in order; `size` are predicted together."""
  inputs = iter(inputs)
  while chunk := list(itertools.islice(inputs, size)):
    yield from predictor(chunk)


def read(path: str) -> Iterator[str]:
  """Yields the lines of a file or, for "-", of standard input; raises UserError if not UTF-8."""
  try:
    with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
      for number, line in enumerate(file, 1):
        try:
          yield line.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n")
        except UnicodeDecodeError as error:
          raise UserError(f"{path}, line {number}: not UTF-8 ({error.reason})") from None
  except OSError as error:
    raise UserError(f"--input {path}: {error.strerror}") from error


def parse(task, lines: Iterable[str], where: str) -> Iterator[Mapping]:
  """Yields the lines as examples; raises UserError, which names the line, for an unusable line."""
  for number, line in enumerate(lines, 1):
    try:
      yield task.example(line)
    except UserError as error:
      raise UserError(f"{where} {number}: {error}") from None


def read_data(task, file: str, columns: str) -> Iterable[Mapping]:
  """Returns the examples of a file in a form that the task's configs read, with or without answers.

  Raises UserError for a file of plain text.
  """
  task = inference.on_file(tasks.main_part(task), file, columns)
  if task.data["name"] == "text" and given.file_types(file) != {".jsonl"}:
    raise UserError(f"--data {file} is a text without examples; --input {file} reads its lines")
  source = given.open_inputs(task.data)
  if task.columns != ("text",):
    return source
  return parse(task, (example["text"] for example in source), f"{file}, example")


def on_one_line(value):
  """Returns an output, or a part of one, whose texts have \\n and \\r in place of line ends."""
  if isinstance(value, str):
    return value.replace("\n", "\\n").replace("\r", "\\r")
  if isinstance(value, dict):
    return {key: on_one_line(part) for key, part in value.items()}
  return list(map(on_one_line, value)) if isinstance(value, (list, tuple)) else value


def main(argv):
  parser = inference.parser(__doc__)
  parser.add_argument("inputs", nargs="*", metavar="TEXT", help="an input; several are a batch")
  parser.add_argument("--input", help="a file with an input on each line; - is standard input")
  inference.add_data(parser)
  parser.add_argument("--split", help="a split of the run's data, whose outputs go to --out")
  parser.add_argument(
    "--out", type=paths.of, metavar="FILE", help="JSON lines with source and target, to train on"
  )
  parser.add_argument(
    "--choose",
    choices=split_outputs.CHOICES,
    default="score",
    help="the target: the best by score, or the one of the n best with the best BLEU",
  )
  parser.add_argument("--scores", action="store_true", help="prints scores or probabilities too")
  parser.add_argument("--jsonl", action="store_true", help="prints a JSON object for each input")
  inference.add_decoding(parser)
  args = parser.parse_args(argv)
  if sum(map(bool, (args.inputs, args.input, args.data, args.split))) != 1:
    raise UserError(
      "pass either texts as arguments, or --input FILE (a line an input), --input -, --data FILE or"
      " --split SPLIT"
    )
  if bool(args.split) != bool(args.out):
    raise UserError("--split SPLIT writes its outputs to --out FILE.jsonl: give both")
  if args.split and (args.limit or args.jsonl or args.scores or args.columns):
    raise UserError(
      "--split has no use for --limit, --jsonl, --scores and --columns: leave them out"
    )
  if not args.split and args.choose != "score":
    raise UserError("--choose picks what --split SPLIT writes: give that too")
  changes = inference.decoding_changes(args)
  if args.choose == "bleu" and changes.get("nbest", 1) < 2:
    raise UserError("--choose bleu picks one of the n best: give --nbest N too")
  predictor = load(
    args.workdir,
    args.checkpoint,
    pair=args.pair,
    batch_size=args.batch_size,
    **inference.direction(args),
    **changes,
  )
  task = predictor.run.task
  if args.split:
    split_outputs.write(predictor, args.split, args.out, args.choose)
    print(args.out)
    return
  if args.input and reading.file_type(pathlib.Path(args.input)) in tables.ENDINGS:
    logging.warning("--input %s: each line is an input; --data reads a table's rows", args.input)
  waits = args.input == "-" and sys.stdin.isatty()  # a person waits for each answer
  if args.data:
    examples = read_data(task, args.data, args.columns)
  else:
    lines = read(args.input) if args.input else args.inputs
    examples = parse(task, lines, f"{args.input}, line" if args.input else "text")
  examples = itertools.islice(examples, args.limit)
  render = functools.partial(task.render, scores=args.scores, colour=colour.supports_colour())
  for output in stream(predictor, examples, 1 if waits else CHUNK):
    text = json.dumps(output, ensure_ascii=False) if args.jsonl else render(on_one_line(output))
    print(text, flush=True)


if __name__ == "__main__":
  entry.run(main)
