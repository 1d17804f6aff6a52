"""python -m experiments.analysis.local_attention [--window 256] [--repeats 3]

Measures time and memory of the gradient of an encoder (2 layers, dim 256, 4 heads) on one row of
1,024 to 16,384 tokens, with a window and over all pairs (timed up to 4,096). Takes about a minute
on two CPU cores. --record FILE writes the table for experiments/RESULTS.md.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.analysis.benchmark import milliseconds
from experiments.tools.report import measured
from model.config import TransformerConfig
from model.transformer import Transformer

LENGTHS = (1024, 2048, 4096, 8192, 16384)
MOST = 4096  # tokens, to time all pairs


def gradient(length: int, window: int | None):
  """Returns the compiled gradient of the mean of the states' squares, and its arguments."""
  cfg = TransformerConfig(
    vocab_size=1000,
    dim=256,
    num_heads=4,
    mlp_dim=1024,
    encoder_layers=2,
    decoder_layers=0,
    positions="rotary",
    norm_position="pre",
    window=window,
  )
  graph, weights = nnx.split(Transformer(cfg, rngs=nnx.Rngs(0)))
  ids = np.random.default_rng(0).integers(1, 1000, (1, length))

  def loss(weights, ids):
    return jnp.square(nnx.merge(graph, weights).encode(ids)).mean()

  return jax.jit(jax.grad(loss)).lower(weights, ids).compile(), (weights, ids)


def main(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--window", type=int, default=256)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--record", type=pathlib.Path, metavar="FILE")
  args = parser.parse_args(argv)
  table = [["tokens", "window: ms", "window: MB", "all pairs: ms", "all pairs: MB"]]
  times = []
  for length in LENGTHS:
    cells = [f"{length:,}"]
    for window in (args.window, None):
      compiled, given = gradient(length, window)
      megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
      text = ""
      if window or length <= MOST:
        call = functools.partial(compiled, *given)
        time = milliseconds(args.repeats, gradient=call)["gradient"]
        text = f"{time:,.0f}"
        if window:
          times.append(time)
      cells += [text, f"{megabytes:,.0f}"]
    table.append(cells)
  slope, _ = np.polyfit(LENGTHS, times, 1)
  r2 = np.corrcoef(LENGTHS, times)[0, 1] ** 2
  measured.report(
    table,
    args.record,
    title="Gradient of an encoder of 2 layers, dim 256, on one row",
    section="Local attention",
    commands=["python -m experiments.analysis.local_attention"],
    note=f"A window of {args.window} takes {1000 * slope:.0f} ms per 1,000 tokens (R2 {r2:.3f}).",
  )


if __name__ == "__main__":
  from train.common.entry import run

  run(main)
