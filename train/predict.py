"""python -m train.predict --workdir runs/scan "jump twice"   (or --input FILE, --input -)

What a trained run makes of each input, in the order given, one line each; --nbest N gives N lines
an input, --scores adds log-probabilities (length-penalised for beams), --jsonl writes JSON lines.
"""

import contextlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator

from train import cli, evaluate
from train.errors import UserError
from train.step import make_predict_step

CHUNK = 512  # lines read before any is answered: enough to sort by length, soon enough to stream


class Predictor:
  """A trained run as a function from inputs to outputs: `load(workdir)(["jump twice"])`."""

  def __init__(self, run, settings):
    self.run, self.settings = run, settings
    self.step = make_predict_step(run.task, run.graph)

  def __call__(self, inputs: list[str]) -> list[dict]:
    """A dict with `text`, `score` and `nbest` for each input."""
    run = self.run
    return evaluate.decode(run.task, self.step, run.params, run.mesh, inputs, self.settings)


def load(workdir, checkpoint: str = "latest", **decoding) -> Predictor:
  """The run in `workdir`, its config's way of decoding changed by `decoding`."""
  run = cli.load_run(workdir, checkpoint)
  return Predictor(run, run.task.settings(**decoding))


def stream(predictor, lines: Iterable[str], size: int = CHUNK) -> Iterator[dict]:
  """Outputs of endless lines, in order, `size` at a time."""
  lines = iter(lines)
  while chunk := list(itertools.islice(lines, size)):
    yield from predictor(chunk)


def read(path: str) -> Iterator[str]:
  """Lines of a file or, for "-", of standard input; UserError for what is no UTF-8 text."""
  try:
    with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
      for number, line in enumerate(file, 1):
        try:
          yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
          raise UserError(f"{path}, line {number}: not UTF-8 ({error.reason})") from None
  except OSError as error:
    raise UserError(f"--input {path}: {error.strerror}") from error


def told(output: dict, args) -> str:
  """An output as the lines to print."""
  if args.jsonl:
    return json.dumps(output, ensure_ascii=False)
  lines = output["nbest"] if args.nbest and args.nbest > 1 else output["nbest"][:1]
  return "\n".join(f"{x['score']:.4f}\t{x['text']}" if args.scores else x["text"] for x in lines)


def main(argv):
  parser = cli.parser(__doc__)
  parser.add_argument("inputs", nargs="*", metavar="TEXT")
  parser.add_argument("--input", help="a file of one input a line; - reads standard input")
  parser.add_argument("--scores", action="store_true")
  parser.add_argument("--jsonl", action="store_true")
  cli.add_decoding(parser)
  args = parser.parse_args(argv)
  if bool(args.inputs) == bool(args.input):
    raise UserError("give texts as arguments, or --input FILE, or --input -")
  predictor = load(args.workdir, args.checkpoint, **cli.decoding_changes(args))
  typed = args.input == "-" and sys.stdin.isatty()  # a person waits for each answer
  lines = read(args.input) if args.input else args.inputs
  for output in stream(predictor, lines, 1 if typed else CHUNK):
    print(told(output, args), flush=True)


if __name__ == "__main__":
  cli.run(main)
