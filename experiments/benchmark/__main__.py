"""python -m experiments.benchmark PART --data DIR [--peers [PYTHON]] [--quick] [--record [FOLDER]]

Measures our speed, and with --peers that of other libraries in turns with ours: medians, with the
lowest and highest value. PART:
  decode       tokens a second of a translator, beside CTranslate2 and transformers' generate
  train        target tokens a second of updates, beside transformers' Seq2SeqTrainer, and their
               products beside the largest rate of this machine's
  finetune     seconds to fine-tune MiniLM and to score a split, beside Trainer
  smaller      predictions a second by quantized, pruned and distilled models, beside whole ones
  start        seconds from the command to the first step, beside Trainer
  data         the speed of preparing and reading a corpus
  accelerator  milliseconds, MFU and memory of steps on a GPU or TPU, their costliest operations,
               and the tests of model/ that fail there
  all          all of them; without an accelerator all others
--data is the folder of the data sets, as for `python -m experiments.run`. `make bench` makes the
environment of the peers. --quick runs everything on tiny models and made-up data: its numbers mean
nothing. A busy machine slows the sides differently: the load average is reported, and the ratio of
the seconds of cores changes less than that of seconds. --record writes the tables for
experiments/RESULTS.md. `all` takes an hour on two idle cores.
"""

import os
import pathlib
import shlex
import subprocess
import tempfile

from absl import logging

from experiments.benchmark import accelerator, data, decode, finetune, smaller, start, toys, train
from experiments.benchmark.sides import CORES
from experiments.tools.report import measured
from train.common import entry
from train.common.errors import UserError

PARTS = dict(
  decode=decode,
  train=train,
  finetune=finetune,
  smaller=smaller,
  start=start,
  data=data,
  accelerator=accelerator,
)
NEED_DATA = ("decode", "train", "finetune", "smaller", "start")
NEED_MINILM = ("finetune", "start")
FOR_SMALLER = {
  "student": "smaller: a smaller translator than --model",
  "classifier": "smaller: a run of configs/classify.py on DIR/sst2",
  "pruned": "smaller: a run that lost heads of the classifier",
}
RESULTS = pathlib.Path("experiments/results") / measured.FOLDER
PEERS = pathlib.Path(".parity/bin/python")
PACKAGES = ("torch", "transformers", "accelerate", "ctranslate2")


def build_parser():
  """Returns the parser of the command's arguments."""
  parser = entry.make_parser(__doc__)
  parser.add_argument("part", choices=(*PARTS, "all"))
  parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="the folder of data sets")
  parser.add_argument(
    "--peers",
    nargs="?",
    const=PEERS,
    type=pathlib.Path,
    metavar="PYTHON",
    help=f"measures the peers too, by this Python ({PEERS}, of `make bench`)",
  )
  parser.add_argument("--quick", action="store_true", help="tiny models, made-up data: a trial")
  parser.add_argument("--repeats", type=int, default=0, help="of a measurement (5; quick: 1)")
  parser.add_argument("--minutes", type=float, default=8.0, help="of the part accelerator, at most")
  parser.add_argument("--model", type=pathlib.Path, help="a trained run of configs/multi30k.py")
  for name, what in FOR_SMALLER.items():
    parser.add_argument(f"--{name}", type=pathlib.Path, metavar="RUN", help=what)
  parser.add_argument("--minilm", type=pathlib.Path, default=pathlib.Path("data/minilm"))
  parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/benchmark"))
  parser.add_argument("--record", nargs="?", const=RESULTS, type=pathlib.Path, metavar="FOLDER")
  return parser


def check_peers(python: pathlib.Path) -> None:
  """Raises UserError where a Python lacks the peers' packages."""
  how = "`make bench` makes that environment (requirements-parity.txt)"
  if not python.exists():
    raise UserError(f"--peers: there is no {python}: {how}")
  code = "import importlib.util as u, sys; print(*(x for x in sys.argv[1:] if not u.find_spec(x)))"
  command = [python, "-c", code, *PACKAGES]
  missing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
  if missing:
    raise UserError(f"--peers: {python} lacks {', '.join(missing)}: {how}")


def load() -> str:
  """Returns the load average of the last minute, and warns about one above 1 a core."""
  average = os.getloadavg()[0]
  text = f"load average {average:.1f} on {CORES} cores"
  if average > CORES:
    logging.warning("%s: other programs slow what is measured; compare the cores' seconds", text)
  return text


def check(options, parts) -> None:
  """Raises UserError for an argument that is missing or names nothing, before anything runs."""
  if options.peers:
    options.peers = options.peers.absolute()
    check_peers(options.peers)
  if options.pruned and not options.classifier:
    raise UserError("--pruned is compared with --classifier: give it too")
  if options.quick:
    return
  if not options.data and not set(parts).isdisjoint(NEED_DATA):
    raise UserError(f"{options.part} needs --data DIR, the folder of the data sets")
  if not options.minilm.exists() and not set(parts).isdisjoint(NEED_MINILM):
    raise UserError(f"--minilm: there is no {options.minilm}: `make data` makes it")


def main(argv):
  options = build_parser().parse_args(argv)
  parts = list(PARTS) if options.part == "all" else [options.part]
  if options.part == "all" and not accelerator.is_there():
    logging.info("there is no accelerator: that part is left out")
    parts.remove("accelerator")
  check(options, parts)
  options.repeats = options.repeats or (1 if options.quick else 5)
  words = [word for word in argv if word not in ("--record", str(options.record))]
  command = shlex.join(["python", "-m", "experiments.benchmark", *words])
  with tempfile.TemporaryDirectory() as folder:
    options.temporary = pathlib.Path(folder)
    if options.quick:
      toys.write(options, parts)
    for part in parts:
      before = load()
      tables = PARTS[part].tables(options)
      turns = "" if part == "accelerator" else f"medians of {options.repeats} turns; "
      note = f"{turns}{before} at the start, {load()} at the end.".capitalize()
      for number, (title, table) in enumerate(tables.items()):
        print(f"\n## {title}\n\n{note}\n", flush=True)
        file = options.record and options.record / f"benchmark_{part}{number or ''}.json"
        fields = dict(title=title, section="Speed", commands=[command], note=note)
        measured.report(table, file, **fields)


if __name__ == "__main__":
  entry.run(main)
