"""python -m train.predict --workdir runs/scan "jump twice"   (or --input FILE, --input -)
python -m train.predict --model hf:DIR "I love Python."   (a Hugging Face directory)

What a trained run makes of each input, in the order given. An input is a text; a pair to classify
is "text<TAB>text", a question "question<TAB>context", and <mask> or [MASK] is a word to find. There
is a line an input, N with --nbest N, one more for each mask; --scores adds (log-)probabilities,
--jsonl writes all that is known as JSON lines. On a terminal tags are coloured (unless NO_COLOR).
"""

import contextlib
import functools
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from train import cli, evaluate, paint
from train.errors import UserError
from train.step import make_predict_step

CHUNK = 512  # lines read before any is answered: enough to sort by length, soon enough to stream


class Predictor:
  """A trained run as a function from inputs to outputs: `load(workdir)(["jump twice"])`."""

  def __init__(self, run, settings):
    self.run, self.settings = run, settings
    self.step = make_predict_step(run.task, run.graph)

  def __call__(self, inputs: Sequence) -> list[dict]:
    """A dict with `text` and more for each input: a text, a pair of them (two texts to classify, a
    question and its context), or an example as the task's data has."""
    run = self.run
    if isinstance(inputs, str):
      raise UserError(f"{inputs!r}: give a list of inputs, of one or more")
    examples = [x if isinstance(x, Mapping) else run.task.example(_typed(x)) for x in inputs]
    return evaluate.decode(run.task, self.step, run.params, run.mesh, examples, self.settings)


def _typed(given) -> str:
  return given if isinstance(given, str) else "\t".join(given)


def load(workdir, checkpoint: str = "latest", *, pair: bool = False, **decoding) -> Predictor:
  """The run in `workdir`, or hf:DIR, its way of decoding changed by `decoding`.

  pair: of hf:DIR, a classifier of two texts; nothing in such a directory says which it is.
  """
  run = cli.load_run(workdir, checkpoint, **(dict(pair=True) if pair else {}))
  return Predictor(run, run.task.settings(**decoding))


def stream(predictor, inputs: Iterable, size: int = CHUNK) -> Iterator[dict]:
  """Outputs of endless inputs, in order, `size` at a time."""
  inputs = iter(inputs)
  while chunk := list(itertools.islice(inputs, size)):
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


def typed(task, lines: Iterable[str], where: str) -> Iterator[Mapping]:
  """The lines as examples; UserError says which line is none."""
  for number, line in enumerate(lines, 1):
    try:
      yield task.example(line)
    except UserError as error:
      raise UserError(f"{where} {number}: {error}") from None


def main(argv):
  parser = cli.parser(__doc__)
  parser.add_argument("inputs", nargs="*", metavar="TEXT")
  parser.add_argument("--input", help="a file of one input a line; - reads standard input")
  parser.add_argument("--scores", action="store_true")
  parser.add_argument("--jsonl", action="store_true")
  parser.add_argument("--pair", action="store_true", help="hf:DIR classifies two texts")
  cli.add_decoding(parser)
  args = parser.parse_args(argv)
  if bool(args.inputs) == bool(args.input):
    raise UserError("give texts as arguments, or --input FILE, or --input -")
  changes = cli.decoding_changes(args)
  pair = dict(pair=True) if args.pair else {}
  predictor = load(args.workdir, args.checkpoint, **pair, **changes)
  waits = args.input == "-" and sys.stdin.isatty()  # a person waits for each answer
  lines = read(args.input) if args.input else args.inputs
  examples = typed(predictor.run.task, lines, f"{args.input}, line" if args.input else "text")
  tell = functools.partial(predictor.run.task.told, scores=args.scores, colour=paint.coloured())
  for output in stream(predictor, examples, 1 if waits else CHUNK):
    print(json.dumps(output, ensure_ascii=False) if args.jsonl else tell(output), flush=True)


if __name__ == "__main__":
  cli.run(main)
