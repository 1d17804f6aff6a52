"""python -m experiments.analysis.benchmark dropout|loss|product|step [--config configs/NAME.py]

Times parts of a step on this machine, medians in milliseconds: dropout with bits from a hash or
from threefry; the gradient of the loss, and that of the logits, written out or by autodiff; a whole
step of a config on its first batch. Alternatives are timed in turns in one process, so that their
ratio holds on a busy machine. --record FILE writes the table for experiments/RESULTS.md. To measure
large pages, time `step` with and without GLIBC_TUNABLES=glibc.malloc.hugetlb=1.
"""

import argparse
import pathlib
import shlex
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

from experiments.tools.report import measured
from model import layers, matmul
from train import losses, optimizer, sharding, tasks
from train.common import entry
from train.common.errors import UserError
from train.data.batches import Batches
from train.record import config
from train.state import init
from train.step import make_train_step, settings


def milliseconds(repeats: int, **functions) -> dict[str, float]:
  """Returns the median time of each function, called in turns and once before."""
  times = {name: [] for name in functions}
  for turn in range(repeats + 1):
    for name, function in functions.items():
      began = time.perf_counter()
      jax.block_until_ready(function())
      if turn:
        times[name].append(1000 * (time.perf_counter() - began))
  return {name: statistics.median(values) for name, values in times.items()}


def dropout(repeats):
  """Times dropout of a [4096, 256] array at rate 0.1."""
  x, key = jnp.ones((4096, 256)), jax.random.key(0)

  def threefry(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x / 0.9, 0)

  hashed = jax.jit(lambda x, key: layers.dropout(x, 0.1, key))
  drawn = jax.jit(threefry)
  return milliseconds(repeats, hash=lambda: hashed(x, key), threefry=lambda: drawn(x, key))


def loss(repeats):
  """Times the gradient of the smoothed loss for 4,096 tokens of 8,000 words."""
  logits_BTV = jax.random.normal(jax.random.key(0), (64, 64, 8000))
  labels_BT = jax.random.randint(jax.random.key(1), (64, 64), 0, 8000)

  def gradient(of):
    compute = jax.jit(jax.grad(lambda x_BTV: of(x_BTV, labels_BT, 0.1, 0.0)[0].sum()))
    return lambda: compute(logits_BTV)

  return milliseconds(
    repeats,
    written_out=gradient(losses.token_losses),
    autodiff=gradient(lambda *args: losses._token_losses(*args)[0]),
  )


def product(repeats):
  """Times the gradient of 4,096 tokens' logits over 8,000 words, with 256 numbers a token."""
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = (64, 64, 256), (8000, 256), (64, 64, 8000)
  x_BTD, table_VD, up_BTV = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes))
  axes = ((2,), (0,)), ((), ())

  def gradient(of):
    compute = jax.jit(lambda *args: jax.vjp(lambda x, w: of(x, w.T, axes), *args[:2])[1](args[2]))
    return lambda: compute(x_BTD, table_VD, up_BTV)

  return milliseconds(
    repeats,
    written_out=gradient(matmul.product),
    autodiff=gradient(jax.lax.dot_general),
  )


def step(repeats, cfg):
  """Times an update of a config on its first batch."""
  mesh = sharding.make_mesh(cfg.mesh)
  with tempfile.TemporaryDirectory() as folder:
    task = tasks.build(cfg.task, folder)
  tx, _ = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
  graph, state = init(cfg, task, tx, mesh)
  train_step = make_train_step(task, graph, tx, **settings(cfg))
  with Batches(task.items("train"), tasks.layout(task, cfg.batch_size), seed=cfg.seed) as batches:
    batch = sharding.put(next(batches), mesh)

  def update():
    nonlocal state
    state, sums = train_step(state, batch)
    return sums

  return milliseconds(repeats, step=update)


PARTS = dict(dropout=dropout, loss=loss, product=product, step=step)


def main(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("part", choices=PARTS)
  parser.add_argument("--repeats", type=int, default=20)
  parser.add_argument("--record", type=pathlib.Path, metavar="FILE")
  args, rest = parser.parse_known_args(argv)
  given = [args.repeats]
  if args.part == "step":
    cfg, rest = config.parse(rest)
    given.append(cfg)
  if rest:
    raise UserError(f"unknown arguments: {' '.join(rest)}")
  times = PARTS[args.part](*given)
  table = [["", "milliseconds"], *([name, f"{value:.2f}"] for name, value in times.items())]
  if len(times) == 2:
    first, second = times.values()
    table.append(["ratio", f"{second / first:.2f}"])
  title = PARTS[args.part].__doc__.removeprefix("Times ").rstrip(".").capitalize()
  words = [word for word in argv if "--record" not in word and word != str(args.record)]
  command = shlex.join(["python", "-m", "experiments.analysis.benchmark", *words])
  measured.report(table, args.record, title=title, section="Speed", commands=[command])


if __name__ == "__main__":
  entry.run(main)
