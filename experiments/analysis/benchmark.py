"""python -m experiments.analysis.benchmark PART [--record FILE] [--config configs/NAME.py]

Times a part of a step on this machine, medians in milliseconds:
  dropout    bits from a hash and from threefry
  loss       the gradient of the loss, written out and by autodiff
  attention  the gradient of an encoder on rows of 1,024 to 16,384 tokens, with a window and over
             all pairs, and its memory (a minute on two CPU cores)
  step       an update of a config on its first batch; with and without
             GLIBC_TUNABLES=glibc.malloc.hugetlb=1 it shows the effect of large pages
Alternatives are timed in turns in one process, so that their ratio holds on a busy machine.
--record FILE writes the table for experiments/RESULTS.md.
"""

import functools
import pathlib
import shlex
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.tools import initial
from experiments.tools.report import measured
from model import layers
from model.config import TransformerConfig
from model.transformer import Transformer
from train import losses, resolve, sharding, tasks
from train.common import entry
from train.data.batches import Batches
from train.record import config
from train.step import make_train_step, settings

LENGTHS = (1024, 2048, 4096, 8192, 16384)
MOST = 4096  # tokens of a row on which all pairs are timed
WINDOW = 256


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


def compare(repeats: int, **functions) -> list[list[str]]:
  """Returns a table of two functions' times and their ratio."""
  times = milliseconds(repeats, **functions)
  first, second = times.values()
  rows = [[name.replace("_", " "), f"{value:.2f}"] for name, value in times.items()]
  return [["", "ms"], *rows, ["ratio", f"{second / first:.2f}"]]


def dropout(repeats):
  """Times dropout of a [4096, 256] array at rate 0.1."""
  x, key = jnp.ones((4096, 256)), jax.random.key(0)
  hashed = jax.jit(lambda x, key: layers.dropout(x, 0.1, key))
  drawn = jax.jit(lambda x, key: jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x / 0.9, 0))
  return compare(repeats, hash=lambda: hashed(x, key), threefry=lambda: drawn(x, key))


def loss(repeats):
  """Times the gradient of the smoothed loss for 4,096 tokens of 8,000 words."""
  logits_BTV = jax.random.normal(jax.random.key(0), (64, 64, 8000))
  labels_BT = jax.random.randint(jax.random.key(1), (64, 64), 0, 8000)

  def gradient(of):
    compute = jax.jit(jax.grad(lambda x_BTV: of(x_BTV, labels_BT, 0.1, 0.0)[0].sum()))
    return lambda: compute(logits_BTV)

  by_autodiff = gradient(lambda *given: losses._token_losses(*given)[0])
  return compare(repeats, written_out=gradient(losses.token_losses), autodiff=by_autodiff)


def attention(repeats):
  """Times the gradient of an encoder (2 layers, dim 256, 4 heads) on one row, window 256."""
  sizes = dict(vocab_size=1000, dim=256, num_heads=4, mlp_dim=1024, encoder_layers=2)
  sizes |= dict(decoder_layers=0, positions="rotary", norm_position="pre")
  rows, times = [["tokens", "window: ms", "window: MB", "all pairs: ms", "all pairs: MB"]], []
  for length in LENGTHS:
    rows.append([f"{length:,}"])
    for window in (WINDOW, None):
      cfg = TransformerConfig(**sizes, window=window)
      graph, weights = nnx.split(Transformer(cfg, rngs=nnx.Rngs(0)))
      ids = np.random.default_rng(0).integers(1, 1000, (1, length))

      def square(weights, ids, graph=graph):
        return jnp.square(nnx.merge(graph, weights).encode(ids)).mean()

      compiled = jax.jit(jax.grad(square)).lower(weights, ids).compile()
      timed = window or length <= MOST
      call = functools.partial(compiled, weights, ids)
      times.append(milliseconds(repeats, call=call)["call"] if timed else float("nan"))
      megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
      rows[-1] += [f"{times[-1]:,.0f}" if timed else "", f"{megabytes:,.0f}"]
  slope = np.polyfit(LENGTHS, times[::2], 1)[0]
  rows.append(["each 1,000", f"{1000 * slope:,.0f}", "", "", ""])
  return rows


def step(repeats, cfg):
  """Times an update of a config on its first batch."""
  mesh, task, tx, graph, state = initial.build(cfg)
  train_step = make_train_step(task, graph, tx, **settings(cfg, mesh))
  with Batches(task.items("train"), tasks.layout(task, cfg.batch_size), seed=cfg.seed) as batches:
    batch = sharding.put(next(batches), mesh)

  def update():
    nonlocal state
    state, sums = train_step(state, batch)
    return sums

  return [["", "ms"], ["step", f"{milliseconds(repeats, step=update)['step']:.2f}"]]


PARTS = dict(dropout=dropout, loss=loss, attention=attention, step=step)


def main(argv):
  parser = entry.make_parser(__doc__)
  parser.add_argument("part", choices=PARTS)
  parser.add_argument("--repeats", type=int, default=20)
  parser.add_argument("--record", type=pathlib.Path, metavar="FILE")
  config.add_arguments(parser)
  texts, overrides, rest = config.split(argv)
  args = parser.parse_args(rest)
  part, given = PARTS[args.part], [args.repeats]
  if args.part == "step":
    given.append(resolve.load(config.only(texts), overrides))
  title = part.__doc__.removeprefix("Times ").rstrip(".")
  title = title[0].upper() + title[1:]
  words = [word for word in argv if word not in ("--record", str(args.record))]
  command = shlex.join(["python", "-m", "experiments.analysis.benchmark", *words])
  measured.report(part(*given), args.record, title=title, section="Speed", commands=[command])


if __name__ == "__main__":
  entry.run(main)
