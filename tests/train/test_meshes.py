"""A run is the same on every mesh; and what devices exchange for it is what the papers say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model.config import TransformerConfig
from model.transformer import Transformer
from tests.train.helpers import (
  DECODER,
  DIM,
  ENCODER,
  RECURRENT,
  TASK,
  WORDS,
  B,
  S,
  T,
  activation_bytes,
  compile_states,
  exchanged_bytes,
  graph_and_weights,
  mesh_of,
  start,
)
from train import loop, optimizer, resolve, sharding, step
from train.common.errors import UserError
from train.data import packing
from train.planning import hlo
from train.planning.estimate import local_bytes, without_data
from train.record import meter

# 20 losses of one run


STEPS, ROWS = 20, 32
ADAM = optax.adam(3e-3)
SIZES = [
  *((8, 1, 1), (1, 8, 1), (4, 2, 1), (4, 1, 2), (2, 4, 1), (1, 4, 2), (2, 1, 4), (1, 2, 4)),
  *((2, 2, 2), (1, 1, 8)),
]
WAYS = [  # scan_layers, remat, microbatches: each pair of values in two of four
  *((False, "none", 1), (True, "full", 1), (True, "none", 4), (False, "full", 4)),
]


@pytest.fixture(scope="module")
def batches():
  """Returns one batch for each step, packed rows of very different weight."""
  rng, packed = np.random.default_rng(1), []
  for _ in range(STEPS):
    rows = [[3 * row + i for i in range(rng.integers(0, 4))] for row in range(ROWS)]
    words = {
      i: {
        "source": [*rng.integers(4, 16, rng.integers(1, 3)), 2],
        "target": [*rng.integers(4, 16, rng.integers(1, 3)), 2],
      }
      for row in rows
      for i in row
    }
    packed.append(packing.fill(rows, words, source_len=S, target_len=T))
  return packed


def losses(batches, sizes, scan=False, remat="none", microbatches=1, how="jit", sequence=False):
  """Returns the loss of each step, with dropout."""
  changes = dict(scan_layers=scan, remat=remat, num_heads=8, num_kv_heads=8, encoder_layers=2)
  graph, params = graph_and_weights(**changes)
  if scan:  # the weights of the run without, stacked
    single = graph_and_weights(**changes | dict(scan_layers=False))[1]
    for side in ("encoder", "decoder"):
      blocks = jax.tree.map(lambda *x: np.stack(x), *single[side]["blocks"].values())
      params = params | {side: params[side] | dict(blocks=blocks)}
  mesh = mesh_of(*sizes)
  settings = dict(microbatches=microbatches, seed=0, how=how)
  train_step = step.make_train_step(TASK, graph, ADAM, **settings)
  state, values = start(ADAM, params, mesh), []
  with sharding.activation_sharding(mesh, sequence):
    for batch in batches:
      state, sums = train_step(state, loop.PUT[how](batch, mesh))
      values.append(meter.means(sums)["loss"])
  return values


@pytest.fixture(scope="module")
def alone(batches):
  values = losses(batches, (1, 1, 1))
  assert values[-1] < 0.9 * values[0]  # it learns: updates are part of what is compared
  return values


@pytest.mark.parametrize("at", [1, 2, 7, 8], ids=lambda at: "x".join(map(str, SIZES[at])))
def test_a_run_is_the_same_on_every_mesh(at, batches, alone):
  """Each axis with others, each way; `make test-all` takes all sizes with all ways."""
  values = losses(batches, SIZES[at], *WAYS[at % len(WAYS)])
  np.testing.assert_allclose(values, alone, rtol=2e-5)


def test_a_run_of_an_lstm_is_the_same_on_every_axis(batches):
  graph, params = graph_and_weights(RECURRENT)
  train_step = step.make_train_step(TASK, graph, ADAM, microbatches=1, seed=0)
  runs = []
  for sizes in ((1, 1, 1), (2, 2, 2)):
    mesh = mesh_of(*sizes)
    state, values = start(ADAM, params, mesh), []
    with sharding.activation_sharding(mesh):
      for batch in batches:
        state, sums = train_step(state, loop.PUT["jit"](batch, mesh))
        values.append(meter.means(sums)["loss"])
    runs.append(values)
  assert runs[0][-1] < 0.9 * runs[0][0]
  np.testing.assert_allclose(runs[1], runs[0], rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_run_is_the_same_on_every_mesh_in_every_way(sizes, way, batches, alone):
  np.testing.assert_allclose(losses(batches, sizes, *way), alone, rtol=2e-5)


@pytest.mark.parametrize("way", [pytest.param(WAYS[1], marks=pytest.mark.slow), WAYS[2]], ids=str)
def test_a_run_is_the_same_with_pmap(way, batches, alone):
  values = losses(batches, (8, 1, 1), *way, how="pmap")
  np.testing.assert_allclose(values, alone, rtol=2e-5)


@pytest.mark.parametrize(
  "sizes", [pytest.param((4, 1, 2), marks=pytest.mark.slow), (1, 4, 2)], ids=str
)
def test_a_run_is_the_same_with_its_sequences_split(sizes, batches, alone):
  """Of 10 and 9 tokens: those that divide are split, the others are not."""
  values = losses(batches, sizes, sequence=True)
  np.testing.assert_allclose(values, alone, rtol=2e-5)


# What devices exchange


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("sizes", [pytest.param((1, 1, 4), marks=pytest.mark.slow), (2, 1, 4)])
def test_a_tensor_parallel_forward_pass_sums_twice_a_block(sizes, norm_position):
  """Megatron (Shoeybi et al. 2019, section 3): after attention and after the feed-forward, and
  after cross-attention; each word's vector is looked up on the device that has it."""
  mesh = mesh_of(*sizes)
  sent = exchanged_bytes(compile_states(mesh, norm_position=norm_position), mesh)
  expected = activation_bytes(mesh, 2 * ENCODER + 1, 3 * DECODER + 1)
  assert sent == {("all-reduce", "tensor"): expected}


def test_a_tensor_parallel_gradient_gathers_nothing():
  mesh = mesh_of(1, 1, 4)
  sent = exchanged_bytes(compile_states(mesh, gradient=True), mesh)
  assert sent.keys() == {("all-reduce", "tensor")}


@pytest.mark.parametrize(
  "scan, remat, window",
  [
    (False, "none", None),
    (True, "full", None),
    (True, "full", (16, None)),
    pytest.param(False, "full", None, marks=pytest.mark.slow),
    pytest.param(True, "none", None, marks=pytest.mark.slow),
  ],
)
def test_fsdp_gathers_each_weight_when_it_is_used_and_then_forgets_it(scan, remat, window):
  """Once for the forward pass, once for the backward; never activations."""
  mesh = mesh_of(1, 8, 1)
  settings = dict(scan_layers=scan, remat=remat, window=window, gradient=True)
  program = compile_states(mesh, **settings)
  attention, mlp = 4 * DIM**2, 2 * DIM * 128
  blocks = ENCODER * (attention + mlp) + DECODER * (2 * attention + mlp)
  sent = exchanged_bytes(program, mesh)
  gathered = sent["all-gather", "fsdp"]
  # the table is gathered for the source and the target, or once for both
  assert gathered - 2 * 4 * blocks in (4 * WORDS * DIM, 2 * 4 * WORDS * DIM)
  assert set(sent) == {("all-gather", "fsdp"), ("all-reduce", "fsdp")}
  collectives = hlo.read(program.as_text()).collectives
  largest = max(x.bytes for x in collectives if x.kind == "all-gather")
  assert largest == 4 * WORDS * DIM  # one weight at a time


def test_two_dimensions_of_weights_do_not_split_activations():
  mesh = mesh_of(2, 2, 2)
  sent = exchanged_bytes(compile_states(mesh, gradient=True), mesh)
  assert {kind for kind, *_ in sent} == {"all-gather", "all-reduce"}
  assert [axes for kind, *axes in sent if kind == "all-gather"] == [["fsdp"]]


@pytest.mark.parametrize("options", [{}, dict(label_smoothing=0.1, z_loss=1e-3)])
def test_a_vocabulary_parallel_loss_never_gathers_logits(options):
  """Nothing exchanged is nearly as large as a device's part of the logits."""
  from train import losses as train_losses

  mesh, words = mesh_of(1, 1, 8), 4096
  x = jax.ShapeDtypeStruct((B, 32, DIM), jnp.float32, sharding=NamedSharding(mesh, P()))
  table = jax.ShapeDtypeStruct(
    (words, DIM), jnp.float32, sharding=NamedSharding(mesh, P("tensor", None))
  )
  ids = jax.ShapeDtypeStruct((B, 32), jnp.int32, sharding=NamedSharding(mesh, P()))

  def loss(x, table, labels):
    sums = train_losses.cross_entropy(x @ table.T, labels, jnp.ones_like(labels, float), **options)
    return sums["loss"][0], sums

  program = hlo.read(
    jax.jit(jax.grad(loss, (0, 1), has_aux=True)).lower(x, table, ids).compile().as_text()
  )
  part = B * 32 * words * 4 // 8
  assert program.count("all-reduce") > 0
  assert program.count("all-gather") == 0
  largest = max(collective.bytes for collective in program.collectives)
  assert largest <= B * 32 * DIM * 4 * 1.1 < part / 4  # the gradient of x, a sum over words


# What devices hold


@functools.cache
def base(fsdp):
  """Returns the weights and moments of Vaswani's base as they lie on `fsdp` devices."""
  cfg = without_data(resolve.load("configs/wmt14.py:data_dir=/nowhere", ["model.vocab_size=37000"]))
  model = TransformerConfig(**{key: x for key, x in cfg.model.items() if key != "name"})
  tx, _ = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)

  def build():
    params = nnx.to_pure_dict(nnx.state(Transformer(model, rngs=nnx.Rngs(0))))
    return dict(params=params, opt_state=tx.init(params))

  shapes = jax.eval_shape(build)
  return sharding.abstract(shapes, sharding.place(shapes, mesh_of(1, fsdp, 1)))


def test_fsdp_over_eight_holds_an_eighth():
  whole, part = local_bytes(base(1)), local_bytes(base(8))
  assert whole == pytest.approx(3 * 4 * 63.1e6, rel=0.01)
  assert whole / 8 < part < 1.05 * whole / 8


# Mistakes


@pytest.mark.parametrize(
  "changes, message",
  [
    (["batch_size=12"], "batch_size 12: 1 microbatches, each shared by mesh data x fsdp = 8"),
    (["microbatches=4"], "need a multiple of 32"),
    (["mesh.data=4", "mesh.tensor=2", "mesh.sequence=True"], "mesh.sequence: task.source_len 9"),
  ],
)
def test_what_devices_cannot_share_is_named(changes, message):
  cfg = resolve.load("configs/scan.py:small", ["batch_size=8", "task.source_len=9", *changes])
  with pytest.raises(UserError, match=message):
    sharding.check(cfg, cfg.task, sharding.make_mesh(cfg.mesh))


def test_an_lstm_has_no_sequence_to_share():
  cfg = resolve.load("configs/scan.py:small,model=lstm", ["mesh.sequence=True"])
  with pytest.raises(UserError, match=r"mesh\.sequence: an lstm"):
    sharding.check(cfg, cfg.task, sharding.make_mesh(cfg.mesh))
