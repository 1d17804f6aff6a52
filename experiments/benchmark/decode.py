"""Translates sentences by a trained run, by CTranslate2 and by transformers' generate, the last two
from our own exports of the same weights."""

import contextlib
import functools
import sys
from collections.abc import Mapping, Sequence

from absl import logging

from experiments.benchmark.comparison import Row, beside, table
from experiments.benchmark.sides import Side, Times, in_turns, run_command, serve, times
from train import inference
from train.common import entry
from train.data import sources
from train.data.source import read_many
from train.data.tokenizer import Tokenizer
from train.record.config import read as read_config

TITLE = "Translating, beside CTranslate2 and transformers"
SENTENCES = 1000
SEARCHES = {"beam 4": 4, "greedy": 1}
# Peer -> its export, and the words of peers/decode.py.
PEERS = {
  "CTranslate2 float32": ("ctranslate2", "float32"),
  "CTranslate2 int8": ("ctranslate2", "int8"),
  "transformers generate": ("hf", "transformers"),
}
RATIOS = {  # issue 23
  "beam 4": {"CTranslate2 float32": 0.7, "transformers generate": 5},
  "greedy": {"CTranslate2 float32": 0.7, "transformers generate": 2},
}
FIRST_CALL = 3.0  # seconds
QUICK = ("steps=2", "schedule.warmup_steps=1", "evaluate.every=2", "evaluate.decode_every=0")
QUICK = [f"--config.{change}" for change in QUICK]


def trained(options):
  """Returns the folder of the run whose model translates, after training it if there is none."""
  if options.model:
    return options.model
  folder, config = options.root / "multi30k", f"configs/multi30k.py:data={options.data}/multi30k"
  changes = QUICK if options.quick else ()
  config += ",small" * options.quick
  command = [sys.executable, "-m", "train.main", "--config", config, "--workdir", folder, *changes]
  logging.info("%s: training it takes some 15 minutes, unless it is trained", folder)
  logging.info("%s: ready after %.0f s", folder, run_command(command).seconds)
  return folder


def export(options, model, form: str):
  """Returns the folder of an export of the run, which the peers' environment writes."""
  folder = options.temporary / form
  if not folder.exists():
    command = [options.peers, "-m", "train.export", "--workdir", model, "--checkpoint", "best"]
    run_command([*command, "--format", form, "--no-check", "--out", folder])
  return folder


def columns(options, config: str, folder: str, names: Sequence[str]) -> list[list[str]]:
  """Returns columns of the first examples of a test split, each as a list."""
  data = read_config(f"configs/{config}:data={options.data}/{folder}").task.data.to_dict()
  source = sources.open_split(data, "test")
  count = min(len(source), 20 if options.quick else SENTENCES)
  examples = read_many(source, range(count))
  return [[example[name] for example in examples] for name in names]


def rates(tokenizer: Tokenizer, answers: Sequence[Mapping]) -> list[Times]:
  """Returns how many tokens a second each answer has written."""
  counts = (sum(map(len, tokenizer.encode_targets(answer["texts"]))) for answer in answers)
  return [times(answer).rate(count) for answer, count in zip(answers, counts)]


def tables(options) -> dict[str, list[list[str]]]:
  """Returns the table of this part."""
  return {TITLE: table(_rows(options))}


def _rows(options) -> list[Row]:
  """Returns tokens a second of each search, and the seconds of the first call of a process."""
  model = trained(options)
  (texts,) = columns(options, "multi30k.py", "multi30k", ["source"])
  tokenizer = Tokenizer.load(model / "tokenizer.json")
  if not options.quick:
    with Side(sys.executable, "decode", model) as ours:  # fills the cache of compiled programs
      for beam in SEARCHES.values():
        ours("decode", texts=texts, beam=beam)
  with contextlib.ExitStack() as stack:
    sides = {"ours": stack.enter_context(Side(sys.executable, "decode", model))}
    for peer, (form, how) in PEERS.items() if options.peers else ():
      folder = export(options, model, form)
      sides[peer] = stack.enter_context(Side(options.peers, "peers.decode", how, folder))
    started = {name: [Times(side.started, float("nan"))] for name, side in sides.items()}
    what = "translation: start until texts can be given"
    return beside(what, "s", started) + [
      row
      for search, beam in SEARCHES.items()
      for row in _compare(options, search, beam, texts, sides, tokenizer)
    ]


def _compare(options, search, beam, texts, sides, tokenizer):
  """Returns the rows of a search: of each peer, and the seconds of the first call."""
  calls = {
    name: functools.partial(side, "decode", texts=texts, beam=beam) for name, side in sides.items()
  }
  first = {name: times(call()) for name, call in calls.items()}
  answers = in_turns(options.repeats, calls)

  what = f"{search}, {len(texts):,} sentences"
  remarks = {}
  for name in sides:
    pairs = list(zip(answers["ours"][0]["texts"], answers[name][0]["texts"]))
    remarks[name] = f"{sum(a == b for a, b in pairs) / len(pairs):.1%} of the texts equal"
  speeds = {name: rates(tokenizer, answers[name]) for name in sides}
  compared = beside(what, "tokens/s", speeds, RATIOS[search], remarks)
  later = [times(answer) for answer in answers["ours"]]
  beyond = Times(*(max(a - min(b), 0.0) for a, b in zip(first["ours"], zip(*later))))
  remark = f"beyond a later one, with all programs cached; {beyond.cpu_seconds:.1f} s of cores"
  row = Row(f"{search}: the first call of a process", "s", [beyond], remark=remark, most=FIRST_CALL)
  return [*compared, row]


def serve_run(workdir):
  """Answers the requests of `tables` by the run in `workdir`."""

  @functools.cache
  def predictor(beam):
    return inference.load(workdir, "best", beam=beam)

  for beam in SEARCHES.values():
    predictor(beam)

  def decode(texts, beam):
    return dict(texts=[output["text"] for output in predictor(beam)(texts)])

  serve(decode=decode)


if __name__ == "__main__":
  entry.set_logging()
  entry.set_compile_cache()
  serve_run(sys.argv[1])
