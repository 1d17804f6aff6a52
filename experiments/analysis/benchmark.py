"""python -m experiments.analysis.benchmark dropout|loss|product|step [--config configs/NAME.py]

How long parts of a step take on this machine, medians in milliseconds: dropout's bits from a hash
or from threefry; the loss's gradient written out or by autodiff, and the gradient of logits too; a
whole step of a config on its own first batch. Two ways are timed in turns in one process, so that
the ratio holds on a machine that is not quiet. For large pages start `step` twice, with and without
GLIBC_TUNABLES=glibc.malloc.hugetlb=1.
"""

import argparse
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

from model import layers, matmul
from train import losses, optimizer, pretrained, resolve, sharding, tasks
from train.common import entry
from train.data.batches import Batches
from train.record import config
from train.state import init
from train.step import make_train_step, settings


def milliseconds(repeats: int, **ways) -> dict[str, float]:
  """Median time of calling each function, in turns; each is called once before."""
  times = {name: [] for name in ways}
  for turn in range(repeats + 1):
    for name, way in ways.items():
      began = time.perf_counter()
      jax.block_until_ready(way())
      if turn:
        times[name].append(1000 * (time.perf_counter() - began))
  return {name: statistics.median(values) for name, values in times.items()}


def dropout(repeats):
  """Dropout of a [4096, 256] array at rate 0.1."""
  x, key = jnp.ones((4096, 256)), jax.random.key(0)

  def threefry(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x / 0.9, 0)

  ours = jax.jit(lambda x, key: layers.dropout(x, 0.1, key))
  theirs = jax.jit(threefry)
  return milliseconds(repeats, hash=lambda: ours(x, key), threefry=lambda: theirs(x, key))


def loss(repeats):
  """The smoothed loss and its gradient for 4,096 tokens of 8,000 words."""
  logits_BTV = jax.random.normal(jax.random.key(0), (64, 64, 8000))
  labels_BT = jax.random.randint(jax.random.key(1), (64, 64), 0, 8000)

  def gradient(of):
    found = jax.jit(jax.grad(lambda x_BTV: of(x_BTV, labels_BT, 0.1, 0.0)[0].sum()))
    return lambda: found(logits_BTV)

  return milliseconds(
    repeats,
    written_out=gradient(losses.token_losses),
    autodiff=gradient(lambda *args: losses._token_losses(*args)[0]),
  )


def product(repeats):
  """The gradient of 4,096 tokens' logits over 8,000 words: to hidden states of 256, and weights."""
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = (64, 64, 256), (8000, 256), (64, 64, 8000)
  x_BTD, table_VD, up_BTV = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes))
  axes = ((2,), (0,)), ((), ())

  def gradient(of):
    found = jax.jit(lambda *args: jax.vjp(lambda x, w: of(x, w.T, axes), *args[:2])[1](args[2]))
    return lambda: found(x_BTD, table_VD, up_BTV)

  return milliseconds(
    repeats,
    written_out=gradient(matmul.product),
    autodiff=gradient(jax.lax.dot_general),
  )


def step(repeats, cfg):
  """One update of `cfg` on its first batch."""
  mesh = sharding.make_mesh(cfg.mesh)
  with tempfile.TemporaryDirectory() as folder:
    task = pretrained.build_task(cfg.task, folder)
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


def main(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("part", choices=("dropout", "loss", "product", "step"))
  parser.add_argument("--repeats", type=int, default=20)
  config.add_arguments(parser)
  texts, overrides, rest = config.split(argv)
  args = parser.parse_args(rest)
  if args.part == "step":
    cfg = resolve.load(config.only(texts), overrides)
  parts = {"dropout": dropout, "loss": loss, "product": product}
  found = step(args.repeats, cfg) if args.part == "step" else parts[args.part](args.repeats)
  for name, value in found.items():
    print(f"{name:12} {value:8.2f} ms")
  if len(found) == 2:
    ours, theirs = found.values()
    print(f"{'ratio':12} {theirs / ours:8.2f}")


if __name__ == "__main__":
  entry.run(main)
