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
from collections.abc import Iterable, Iterator, Mapping

from train import inference
from train.common import entry
from train.common.errors import UserError
from train.inference import load
from train.scoring import colour

CHUNK = 512  # lines read before any is answered: enough to sort by length, soon enough to stream


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
  parser = inference.parser(__doc__)
  parser.add_argument("inputs", nargs="*", metavar="TEXT", help="an input; several are a batch")
  parser.add_argument("--input", help="a file of one input a line; - reads standard input")
  parser.add_argument("--scores", action="store_true", help="prints scores or probabilities too")
  parser.add_argument("--jsonl", action="store_true", help="prints a JSON object for each input")
  parser.add_argument("--pair", action="store_true", help="hf:DIR classifies two texts")
  inference.add_decoding(parser)
  args = parser.parse_args(argv)
  if bool(args.inputs) == bool(args.input):
    raise UserError("give texts as arguments, or --input FILE, or --input -")
  changes = inference.decoding_changes(args)
  pair = dict(pair=True) if args.pair else {}
  predictor = load(args.workdir, args.checkpoint, **pair, **changes)
  waits = args.input == "-" and sys.stdin.isatty()  # a person waits for each answer
  lines = read(args.input) if args.input else args.inputs
  examples = typed(predictor.run.task, lines, f"{args.input}, line" if args.input else "text")
  tell = functools.partial(predictor.run.task.render, scores=args.scores, colour=colour.coloured())
  for output in stream(predictor, examples, 1 if waits else CHUNK):
    print(json.dumps(output, ensure_ascii=False) if args.jsonl else tell(output), flush=True)


if __name__ == "__main__":
  entry.run(main)
