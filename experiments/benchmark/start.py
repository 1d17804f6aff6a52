"""Times commands until the end of their first step, with empty and with full caches, beside
transformers' Trainer."""

import functools
import itertools

from experiments.benchmark.comparison import Row, beside, table
from experiments.benchmark.finetune import TASKS, command, peers_command
from experiments.benchmark.sides import in_turns, run_command

TITLE = "Seconds from the command to the first step, beside transformers' Trainer"
RATIOS = {"full": 1.0, "empty": 1.5}
LINES = {"ours": r"step +1/", "Trainer": "first step"}  # that are printed after the first step
STEPS = 10


def tables(options) -> dict[str, list[list[str]]]:
  """Returns the table of this part."""
  return {TITLE: table(_rows(options))}


def _rows(options) -> list[Row]:
  """Returns seconds until the end of the first step of fine-tuning MiniLM on SST-2."""
  number = itertools.count()

  def ours(cache):
    folder = options.temporary / f"cache{next(number) if cache == 'empty' else ''}"
    environment = dict(SCRIPTORIUM_CACHE=str(folder), JAX_COMPILATION_CACHE_DIR=f"{folder}/jax")
    return run_command(command(options, "sst2", STEPS), LINES["ours"], **environment)

  def theirs():
    return run_command(peers_command(options, "sst2", STEPS), LINES["Trainer"])

  measured = []
  for cache, ratio in RATIOS.items():
    calls = {"ours": functools.partial(ours, cache)}
    if options.peers:
      calls["Trainer"] = theirs
    if cache == "full":
      in_turns(1, calls)
    results = in_turns(options.repeats, calls)
    what = f"{TASKS['sst2']}: start to first step, {cache} caches"
    measured += beside(what, "s", results, dict(Trainer=ratio))
  return measured
