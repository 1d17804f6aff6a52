"""Times updates of a translator beside transformers' Seq2SeqTrainer, on the same pairs of ids, and
their matrix products beside the largest rate that the machine reaches."""

import contextlib
import functools
import json
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp

from experiments.benchmark.comparison import Row, beside, table
from experiments.benchmark.sides import Side, in_turns, serve, stopwatch, times
from train import optimizer, pretrained, resolve, sharding, tasks
from train.common import entry, flops
from train.data.batches import Batches
from train.state import blueprint
from train.step import make_train_step, settings

TITLE = "Updates of a translator, beside transformers' Seq2SeqTrainer"
SENTENCES = 64  # of an update
VOCABULARY = 8000
SHAPES = {
  "small": dict(dim=256, num_heads=4, mlp_dim=1024, encoder_layers=3, decoder_layers=3),
  "base": dict(dim=512, num_heads=8, mlp_dim=2048, encoder_layers=6, decoder_layers=6),
  "quick": dict(dim=32, num_heads=4, mlp_dim=64, encoder_layers=1, decoder_layers=1),
}
STEPS = {"small": 20, "base": 2, "quick": 4}  # of a turn
PEERS = {
  "Seq2SeqTrainer, grouped by length": "group_by_length",
  "Seq2SeqTrainer, its default": "random",
}
RATIOS = {"group_by_length": 1.5, "random": 2.8}
SHARES = {"small": 0.6, "base": 0.75}
MATRIX = 2048  # rows and columns of the product that shows the machine's rate


def tables(options) -> dict[str, list[list[str]]]:
  """Returns the table of this part."""
  return {TITLE: table(_rows(options))}


def _rows(options) -> list[Row]:
  """Returns tokens a second beside the peer's, and the FLOP/s of products beside the machine's."""
  shapes = ["quick"] if options.quick else ["small", "base"]
  compared = []
  for shape in shapes:
    with contextlib.ExitStack() as stack:
      words = [f"{options.data}/multi30k", shape]
      ours = stack.enter_context(Side(sys.executable, "train", *words))
      peer = None
      if options.peers:
        pairs = options.temporary / "pairs.json"
        ours("write_pairs", file=str(pairs))
        words = ["peers.train", pairs, json.dumps(SHAPES[shape])]
        peer = stack.enter_context(Side(options.peers, *words))
      if shape != "base":
        compared += _updates(options, shape, ours, peer)
      compared += _products(options, shape, ours, peer)
  return compared


def _updates(options, shape, ours, peer) -> list[Row]:
  """Returns rows of non-pad target tokens a second, whole updates with their batches."""
  calls = {"ours": functools.partial(ours, "train", steps=STEPS[shape])}
  for name, sampling in PEERS.items() if peer else ():
    calls[name] = functools.partial(peer, "train", steps=STEPS[shape], sampling=sampling)
  in_turns(1, calls)  # compiles
  answers = in_turns(options.repeats, calls)
  rates = {name: [times(x).rate(x["tokens"]) for x in several] for name, several in answers.items()}
  sentences = answers["ours"][0]["sentences"]
  what = f"updates, {shape} model, {sentences:.0f} sentences an update"
  return beside(what, "target tokens/s", rates, {name: RATIOS[PEERS[name]] for name in PEERS})


def _products(options, shape, ours, peer) -> list[Row]:
  """Returns rows of the products' GFLOP/s of an update, beside those of one large product."""
  size = 128 if options.quick else MATRIX
  calls = {"step": functools.partial(ours, "train", steps=STEPS[shape])}
  calls["one product by XLA"] = functools.partial(ours, "multiply", size=size)
  if peer:
    calls["one product by torch"] = functools.partial(peer, "multiply", size=size)
  in_turns(1, calls)
  answers = in_turns(options.repeats, calls)
  rates = {name: [times(x).rate(x["flops"] / 1e9) for x in answers[name]] for name in calls}
  what = f"products of an update, {shape} model"
  return beside(what, "GFLOP/s", rates, dict.fromkeys(rates, SHARES.get(shape)))


def serve_updates(data: str, shape: str) -> None:
  """Answers the requests of `tables`: updates of configs/multi30k.py with another shape."""
  vocabulary = 400 if shape == "quick" else VOCABULARY
  changes = [f"model.{key}={value}" for key, value in SHAPES[shape].items()]
  changes += [f"task.tokenizer.vocab_size={vocabulary}", "model.norm_position=post"]
  cfg = resolve.load(f"configs/multi30k.py:data={data}", changes)
  mesh = sharding.make_mesh(cfg.mesh)
  with tempfile.TemporaryDirectory() as folder:
    task = pretrained.build_task(cfg.task, folder)
  items = task.items("train")
  cfg.batch_size = rows_of(items, task)
  tx, _ = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
  plan = blueprint(cfg, task, tx, mesh)
  state = plan.make()
  step = make_train_step(task, plan.graph, tx, **settings(cfg, mesh))
  layout = tasks.layout(task, cfg.batch_size)
  with Batches(items, layout, seed=cfg.seed, workers=cfg.workers) as batches:
    first = sharding.put(next(batches), mesh)
    work = flops.count(step.trace(state, first).jaxpr, mesh.size)

    def train(steps):
      nonlocal state
      tokens = sentences = 0
      with stopwatch() as elapsed:
        for _ in range(steps):
          batch = next(batches)
          tokens += int(batch["weights"].sum())
          sentences += int(batch["segments"].max(1).sum())
          state, sums = step(state, sharding.put(batch, mesh))
        jax.block_until_ready(sums)
        took = elapsed()._asdict()
      return took | dict(tokens=tokens, sentences=sentences / steps, flops=work * steps)

    def write_pairs(file):
      numbers = range(len(items.lengths()))
      pairs = [(list(x["source"]), list(x["target"])) for x in items.read(numbers, numbers)]
      ids = dict(start=items.start, pad=task.tokenizer.roles.pad, eos=task.tokenizer.roles.eos)
      content = ids | dict(vocab_size=task.tokenizer.vocab_size, pairs=pairs)
      pathlib.Path(file).write_text(json.dumps(content, default=int), encoding="utf-8")

    serve(train=train, write_pairs=write_pairs, multiply=multiply)


def rows_of(items, task) -> int:
  """Returns how many packed rows hold SENTENCES pairs."""
  with Batches(items, tasks.layout(task, SENTENCES), seed=0) as batches:
    return round(SENTENCES**2 / next(batches)["segments"].max(1).sum())


def multiply(size, times=4):
  """Times products of two large matrices."""
  x = jnp.ones((size, size))
  product = jax.jit(jnp.matmul)
  jax.block_until_ready(product(x, x))
  with stopwatch() as elapsed:
    for _ in range(times):
      y = product(x, x)
    jax.block_until_ready(y)
    took = elapsed()._asdict()
  return took | dict(flops=2 * times * size**3)


if __name__ == "__main__":
  entry.set_logging()
  entry.set_compile_cache()
  serve_updates(*sys.argv[1:])
