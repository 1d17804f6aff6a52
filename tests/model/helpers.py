"""Builds tiny Transformers and packed batches for the tests of models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.config import TransformerConfig
from model.transformer import Transformer
from train.data import packing

TINY = dict(
  vocab_size=16,
  dim=16,
  num_heads=4,
  num_kv_heads=2,
  mlp_dim=24,
  encoder_layers=2,
  decoder_layers=2,
  max_len=24,
  relative_buckets=8,
  relative_max_distance=12,
  dropout=0.0,
)
# Lengths with eos. As many rows packed as separate, here and below: equal shapes compile once.
SIZES = [(3, 4), (5, 3), (6, 2), (2, 6), (7, 8)]
S, T = 9, 9
PACKED, SEPARATE = [[0, 1], [2, 3], [4], [], []], [[0], [1], [2], [3], [4]]


def build(seed=0, **settings):
  """Builds a tiny model with random weights (no bias is 0), without compiling an initializer."""
  cfg = TransformerConfig(**TINY | settings)
  rng = np.random.default_rng(seed)
  graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(cfg, rngs=nnx.Rngs(0))))
  weights = jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape) + (x.ndim == 1), x.dtype), state
  )
  return nnx.merge(graph, weights)


@functools.cache
def batch_of(packed):
  """Returns a batch of pairs of the lengths SIZES, in the rows PACKED or SEPARATE."""
  rng = np.random.default_rng(1)
  examples = {
    i: {"source": [*rng.integers(4, 16, s - 1), 2], "target": [*rng.integers(4, 16, t - 1), 2]}
    for i, (s, t) in enumerate(SIZES)
  }
  return packing.fill(PACKED if packed else SEPARATE, examples, source_len=S, target_len=T)


def run(model, batch):
  """Returns the encoder states and the decoder's logits of a batch."""
  memory = model.encode(batch["source"], batch["source_segments"], batch["source_positions"])
  hidden = model.decode(
    batch["inputs"], memory, batch["source_segments"], batch["segments"], batch["positions"]
  )
  return np.asarray(memory), np.asarray(model.logits(hidden))


def decode_step_by_step(model, inputs, cache):
  """Returns the logits [B, T, V] of `inputs`, decoded one token at a time."""
  steps = []
  for token in inputs.T:
    logits, cache = model.decode_step(jnp.asarray(token)[:, None], cache)
    steps.append(np.asarray(logits)[:, 0])
  return np.stack(steps, 1)
