"""Builds small models, states and meshes, and counts the bytes that devices exchange."""

import collections
import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from model.config import LSTMConfig, TransformerConfig
from model.lstm import LSTM
from model.transformer import Transformer
from train import sharding
from train.data import packing
from train.planning import hlo
from train.state import new_state
from train.tasks.translation import Translation

S, T, VOCAB = 10, 9, 16
# Examples in each row: rows 1 and 5 are padding, so one of four microbatches has no weight at all.
COUNTS = (1, 0, 3, 2, 1, 0, 2, 1)
TASK = Translation(
  data={},
  tokenizer=types.SimpleNamespace(vocab_size=VOCAB),
  source_len=S,
  target_len=T,
  label_smoothing=0.1,
  z_loss=1e-3,
)
MODEL = TransformerConfig(
  vocab_size=VOCAB,
  dim=16,
  num_heads=4,
  num_kv_heads=2,
  mlp_dim=32,
  bias=False,  # fewer weights compile faster
  encoder_layers=1,
  decoder_layers=1,
  norm_position="pre",
  dropout=0.2,
  attention_dropout=0.2,
  activation_dropout=0.2,
)
NO_DROPOUT = dict(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
RECURRENT = LSTMConfig(
  vocab_size=VOCAB, dim=16, encoder_layers=1, decoder_layers=2, dropout=0.2, tie_output=False
)


def mesh_of(*sizes):
  devices = jax.devices()[: math.prod(sizes)]
  return jax.make_mesh(sizes, sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


@functools.cache
def graph_and_weights(base=MODEL, **changes):
  """Builds a model with random weights, without compiling an initializer; nobody changes them."""
  cfg, rng = dataclasses.replace(base, **changes), np.random.default_rng(0)
  make = LSTM if isinstance(cfg, LSTMConfig) else Transformer
  graph, state = nnx.split(nnx.eval_shape(lambda: make(cfg, rngs=nnx.Rngs(0))))
  return graph, jax.tree.map(
    lambda x: (0.2 * rng.normal(size=x.shape) + (x.ndim == 1)).astype(x.dtype),
    nnx.to_pure_dict(state),
  )


def start(tx, params, mesh=None, at=0, **kept):
  """Returns a state of its own (a step eats it), on one device or laid out over a mesh."""
  state = new_state(params, tx, **kept) | dict(step=np.int32(at))
  places = sharding.place(state, mesh) if mesh else jax.devices()[0]
  return jax.device_put(jax.tree.map(np.array, state), places)


def uneven_batch():
  """Packs rows of very different weight."""
  rng = np.random.default_rng(0)
  rows = [[10 * r + i for i in range(count)] for r, count in enumerate(COUNTS)]
  words = iter(range(4, VOCAB))  # each source starts with its own, so it can be learned by heart
  examples = {
    i: {
      "source": [next(words), *rng.integers(4, VOCAB, rng.integers(0, 2)), 2],
      "target": [*rng.integers(4, VOCAB, rng.integers(1, 3)), 2],
    }
    for row in rows
    for i in row
  }
  return packing.fill(rows, examples, source_len=S, target_len=T)


# What devices exchange

B, WORDS, DIM = 16, 512, 64
LENGTHS = (16, 32)  # of source and target
ENCODER, DECODER = 2, 3  # layers


def compile_states(mesh, *, gradient=False, sequence=False, lengths=LENGTHS, dim=DIM, **changes):
  """Compiles a Transformer's hidden states, or their gradient."""
  cfg = TransformerConfig(
    **vars(MODEL)
    | dict(vocab_size=WORDS, dim=dim, num_heads=4, num_kv_heads=4, mlp_dim=128, dropout=0.1)
    | dict(attention_dropout=0.0, activation_dropout=0.0)
    | dict(encoder_layers=ENCODER, decoder_layers=DECODER)
    | changes
  )
  graph, weights = nnx.split(nnx.eval_shape(lambda: Transformer(cfg, rngs=nnx.Rngs(0))))
  shapes = {"params": nnx.to_pure_dict(weights)}
  params = sharding.abstract(shapes, sharding.place(shapes, mesh))["params"]
  rows = NamedSharding(mesh, P(("data", "fsdp")))
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), B))
  keys = jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=rows)
  source, target = (
    jax.ShapeDtypeStruct((B, length), jnp.int32, sharding=rows) for length in lengths
  )

  def states(params, source, target, keys):
    model = nnx.merge(graph, params)
    memory = model.encode(source, key=keys)
    return model.decode(target, memory, (source > 0).astype(jnp.int32), key=keys)

  def total(*args):
    return (states(*args) ** 2).sum()

  with sharding.activation_sharding(mesh, sequence):
    lowered = jax.jit(jax.grad(total) if gradient else states).lower(params, source, target, keys)
    return lowered.compile()


def exchanged_bytes(compiled, mesh):
  """Returns the bytes of each kind of collective along each tuple of axes."""
  total = collections.Counter()
  for collective, times in hlo.read(compiled.as_text()).collectives.items():
    axes = collective.axes(dict(mesh.shape))
    total[collective.kind, *axes] += collective.bytes * times
  return total


def activation_bytes(mesh, sources, targets, width=4, lengths=LENGTHS, dim=DIM):
  """Returns the bytes of so many activations of the source, and of the target, on a device."""
  rows = B // (mesh.shape["data"] * mesh.shape["fsdp"])
  return rows * dim * width * (sources * lengths[0] + targets * lengths[1])
