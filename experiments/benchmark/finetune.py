"""Times whole commands that fine-tune MiniLM, and the scoring of a split, beside transformers'
Trainer (tests/parity/trainer.py) with the same weights, data, examples an update and scores."""

import contextlib
import functools
import shutil
import sys

from experiments import minilm
from experiments.benchmark.comparison import Row, beside, table
from experiments.benchmark.sides import Side, in_turns, run_command, serve, times
from experiments.tools import initial
from train import resolve
from train.common import entry
from train.data import sources
from train.evaluation import EarlyStopping, Evaluation

TITLE = "Fine-tuning MiniLM, beside transformers' Trainer"
TASKS = {"sst2": "SST-2", "ud_ewt": "tags", "qa": "questions"}  # of experiments/minilm.py
STEPS = 60
RATIO, SCORING_RATIO = 0.8, 1.0
TRAINER = "tests/parity/trainer.py"
SORTED = "transformers, sorted"  # the peer that scores


def config(options, name: str, steps: int) -> tuple[str, list[str]]:
  """Returns the config of a task as experiments/minilm.py trains it, and its changes."""
  task = minilm.TASKS[name]
  peak = minilm.PEAKS["pretrained"]
  text = f"configs/{task.config},steps={steps},peak={peak},init=hf:{options.minilm}"
  changes = {"batch_size": task.rows, "checkpoint.every": steps, "log_every": 1}
  changes |= minilm.OPTIMIZER | minilm.evaluate_every(steps)
  return text.format(data=options.data), [f"{key}={value}" for key, value in changes.items()]


def command(options, name: str, steps: int) -> list:
  """Returns our command that fine-tunes on a task and scores its validation split."""
  text, changes = config(options, name, steps)
  workdir = options.temporary / "finetuned"
  shutil.rmtree(workdir, ignore_errors=True)
  words = [f"--config.{change}" for change in changes]
  return [sys.executable, "-m", "train.main", "--config", text, "--workdir", workdir, *words]


def peers_command(options, name: str, steps: int) -> list:
  """Returns Trainer's command that does so."""
  words = ["--data", options.data, "--model", options.minilm, "--max_steps", str(steps)]
  return [options.peers, TRAINER, name, *words, "--no_test"]


def tables(options) -> dict[str, list[list[str]]]:
  """Returns the table of this part."""
  return {TITLE: table(_rows(options))}


def _rows(options) -> list[Row]:
  """Returns seconds of whole commands, with full caches, and of scoring the validation split."""
  steps, measured = 3 if options.quick else STEPS, []
  for name, what in TASKS.items():
    calls = {"ours": lambda name=name: run_command(command(options, name, steps))}
    if options.peers:
      calls["Trainer"] = lambda name=name: run_command(peers_command(options, name, steps))
    in_turns(0 if options.quick else 1, calls)  # fills the caches
    results = in_turns(options.repeats, calls)
    what = f"{what}: {steps} updates and scoring, the whole command"
    measured += beside(what, "s", results, dict(Trainer=RATIO))
  return measured + [row for name, what in TASKS.items() for row in _score(options, name, what)]


def _score(options, name: str, what: str) -> list[Row]:
  text, changes = config(options, name, STEPS)
  with contextlib.ExitStack() as stack:
    sides = {"ours": stack.enter_context(Side(sys.executable, "finetune", text, *changes))}
    if options.peers:
      words = ["peers.score", name, options.data, options.minilm]
      sides[SORTED] = stack.enter_context(Side(options.peers, *words))
    calls = {side: functools.partial(call, "score") for side, call in sides.items()}
    in_turns(1, calls)  # compiles
    answers = in_turns(options.repeats, calls)
  results = {side: [times(answer) for answer in answers[side]] for side in answers}
  count = answers["ours"][0]["examples"]
  return beside(f"{what}: scoring {count:,} examples", "s", results, {SORTED: SCORING_RATIO})


def serve_scoring(text: str, *changes: str) -> None:
  """Answers requests to score the validation split as a run does after its last update."""
  cfg = resolve.load(text, changes)
  mesh, task, _, graph, state = initial.build(cfg)
  evaluation = Evaluation(cfg, task, graph, mesh, EarlyStopping(0, "loss", "min"))
  examples = len(sources.open_split(cfg.task.data.to_dict(), "validation"))

  def score():
    return dict(examples=examples, **evaluation(cfg.steps, state["params"]))

  serve(score=score)


if __name__ == "__main__":
  entry.set_logging()
  entry.set_compile_cache()
  serve_scoring(*sys.argv[1:])
