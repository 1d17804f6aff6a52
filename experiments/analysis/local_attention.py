"""python -m experiments.analysis.local_attention [--window 256] [--repeats 3]

Time and memory of an update's gradient for an encoder (2 layers, dim 256, 4 heads) on one row of
1,024 to 16,384 tokens: with a window, in chunks, and over all pairs (timed to 4,096). About a
minute on two CPU cores.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.analysis.benchmark import milliseconds
from model.config import TransformerConfig
from model.transformer import Transformer

LENGTHS = (1024, 2048, 4096, 8192, 16384)
MOST = 4096  # tokens, to time all pairs


def gradient(length: int, window: int | None):
  """The compiled gradient of the states' squares, and its arguments."""
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
  args = parser.parse_args(argv)
  print(
    "| tokens | window: ms | window: MB | all pairs: ms | all pairs: MB |\n|---|---|---|---|---|"
  )
  local = []
  for length in LENGTHS:
    cells = [f"{length:,}"]
    for window in (args.window, None):
      compiled, given = gradient(length, window)
      megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
      told = ""
      if window or length <= MOST:
        found = milliseconds(args.repeats, run=functools.partial(compiled, *given))["run"]
        if window:
          local.append((length, found))
        told = f"{found:,.0f}"
      cells += [told, f"{megabytes:,.0f}"]
    print(f"| {' | '.join(cells)} |", flush=True)
  x, y = np.array(local).T
  slope, rest = np.polyfit(x, y, 1)
  explained = 1 - ((y - slope * x - rest) ** 2).sum() / ((y - y.mean()) ** 2).sum()
  print(
    f"\nwith the window {1000 * slope:.1f} ms a thousand tokens, {rest:+.0f} (R2 {explained:.4f})"
  )


if __name__ == "__main__":
  from train.common.entry import run

  run(main)
