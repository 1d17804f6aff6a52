"""Measures how a corpus is prepared and read, by the commands of experiments/analysis, on texts
that it makes up."""

import argparse
import importlib.util
import sys

from absl import logging

from experiments.analysis import corpora, prepare_speed
from experiments.benchmark.sides import run_command
from train import resolve, tasks

TITLE = "Preparing and reading a corpus"
MEGABYTES, VOCABULARY = 200, 8000


def tables(options) -> dict[str, list[list[str]]]:
  """Returns the tables of prepare_speed and of corpora's part speed."""
  folder = options.temporary / "corpus"
  size = 1 if options.quick else MEGABYTES
  words = ["-m", "tests.corpus", folder / "texts", "--megabytes", str(size)]
  run_command([sys.executable, *words])
  vocabulary = 400 if options.quick else VOCABULARY
  config = corpora.CONFIG.format(folder / "texts")
  cfg = resolve.load(config, [f"task.tokenizer.vocab_size={vocabulary}"])
  tasks.build(cfg.task, folder)  # trains the tokenizer
  tokenizer, out = str(folder / "tokenizer.json"), str(folder / "prepared")
  measured, data = {}, [str(folder / "texts")]
  if importlib.util.find_spec("apache_beam"):
    measured[TITLE] = prepare_speed.tabulate(*data, tokenizer, out)
    data.append(out)
  else:
    logging.warning("preparing is left out: make install REQUIREMENTS=requirements-prepare.txt")
  asked = argparse.Namespace(data=data, tokenizer=tokenizer, repeats=options.repeats)
  return measured | {"Batches alone, beside `encode_batch`": corpora.speed(asked)}
