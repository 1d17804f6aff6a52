"""Predicts by smaller models, quantized, pruned and distilled, beside the whole ones and beside
CTranslate2's int8."""

import contextlib
import functools
import sys
from collections.abc import Mapping

from experiments.benchmark import decode
from experiments.benchmark.comparison import Row, beside, table
from experiments.benchmark.sides import Side, in_turns, run_command, serve, times
from train import inference
from train.common import entry
from train.data.tokenizer import Tokenizer
from train.scoring import scores

TITLE = "Smaller models, beside the whole ones"
WHOLE, CTRANSLATE2 = "float32", "CTranslate2 int8"
QUANTIZED = {
  "int8 weights": ("--quantize", "int8"),
  "int8 weights and activations": ("--quantize", "int8", "--activations", "int8"),
  "int4 weights": ("--quantize", "int4", "--group", "{group}"),
}
FASTER = 1.5  # a student, issue 24


def tables(options) -> dict[str, list[list[str]]]:
  """Returns the table of this part."""
  rows = _translating(options)
  return {TITLE: table(rows + (_classifying(options) if options.classifier else []))}


def _translating(options) -> list[Row]:
  model = decode.trained(options)
  texts, references = decode.columns(options, "multi30k.py", "multi30k", ("source", "target"))
  tokenizer = Tokenizer.load(model / "tokenizer.json")
  others = {"student": options.student} if options.student else {}
  with contextlib.ExitStack() as stack:
    sides = _sides(stack, options, model, others)
    if options.peers:
      words = ("peers.decode", "int8", decode.export(options, model, "ctranslate2"))
      sides[CTRANSLATE2] = stack.enter_context(Side(options.peers, *words))
    rows = []
    for search, beam in decode.SEARCHES.items():
      calls = {
        name: functools.partial(side, "decode", texts=texts, beam=beam)
        for name, side in sides.items()
      }
      in_turns(1, calls)  # compiles
      answers = in_turns(options.repeats, calls)
      speeds = {name: decode.rates(tokenizer, several) for name, several in answers.items()}
      found = {
        name: f"{scores.texts(several[0]['texts'], references)['bleu']:.2f} BLEU"
        for name, several in answers.items()
      }
      rows += _rows(f"{search}, {len(texts):,} sentences", "tokens/s", speeds, found)
  return rows


def _classifying(options) -> list[Row]:
  texts, labels = decode.columns(options, "classify.py", "sst2", ("text", "label"))
  others = {"half of the heads": options.pruned} if options.pruned else {}
  with contextlib.ExitStack() as stack:
    sides = _sides(stack, options, options.classifier, others)
    calls = {name: functools.partial(side, "classify", texts=texts) for name, side in sides.items()}
    in_turns(1, calls)  # compiles
    answers = in_turns(options.repeats, calls)
  speeds = {
    name: [times(answer).rate(len(texts)) for answer in several]
    for name, several in answers.items()
  }
  found = {
    name: f"{scores.classes(several[0]['texts'], labels)['accuracy']:.2f}% right"
    for name, several in answers.items()
  }
  return _rows(f"classes of {len(texts):,} texts", "texts/s", speeds, found)


def _sides(stack, options, model, others: Mapping) -> dict[str, Side]:
  """Returns a process for each form of a run, and for each of `others`."""
  folders, group = {WHOLE: (model, "best")}, "8" if options.quick else "16"
  for number, (name, flags) in enumerate(QUANTIZED.items()):
    out = options.temporary / f"{model.name}-{number}"
    command = [sys.executable, "-m", "train.export", "--workdir", model, "--checkpoint", "best"]
    run_command([*command, *(flag.format(group=group) for flag in flags), "--out", out])
    folders[name] = out, "latest"
  folders |= {name: (folder, "best") for name, folder in others.items()}
  return {
    name: stack.enter_context(Side(sys.executable, "smaller", *words))
    for name, words in folders.items()
  }


def _rows(what: str, unit: str, speeds: Mapping, found: Mapping[str, str]) -> list[Row]:
  """Returns the rows of each smaller model beside the whole one, of int8 beside CTranslate2's."""
  rows = []
  for name in speeds:
    if name not in (WHOLE, CTRANSLATE2):
      peers = [WHOLE, *([CTRANSLATE2] if name in QUANTIZED and CTRANSLATE2 in speeds else [])]
      results = {peer: speeds[peer] for peer in (name, *peers)}
      ratios = {WHOLE: FASTER} if name == "student" else {}
      remarks = {peer: f"{found[name]}, there {found[peer]}" for peer in peers}
      rows += beside(f"{what}: {name}", unit, results, ratios, remarks)
  return rows


def serve_run(workdir: str, checkpoint: str) -> None:
  """Answers the requests of `tables` by the run in `workdir`."""

  @functools.cache
  def predictor(**decoding):
    return inference.load(workdir, checkpoint, **decoding)

  def outputs(texts, **decoding):
    return dict(texts=[output["text"] for output in predictor(**decoding)(texts)])

  serve(decode=outputs, classify=outputs)


if __name__ == "__main__":
  entry.set_logging()
  entry.set_compile_cache()
  serve_run(*sys.argv[1:])
