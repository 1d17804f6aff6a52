"""Every weight and moment has a place; meshes are what was asked for; arrays come back as put."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from model.config import LSTMConfig, TransformerConfig
from model.lstm import LSTM
from model.settings import POSITIONS
from model.transformer import Transformer
from train import optimizer, sharding
from train.common.errors import UserError
from train.common.trees import path_name

FULL = dict(
  vocab_size=160,  # with dim and mlp_dim at least 128, where adafactor keeps rows and columns
  dim=128,
  num_heads=4,
  num_kv_heads=2,
  mlp_dim=192,
  encoder_layers=1,
  decoder_layers=1,
  gated=True,
  norm_position="pre",
  embedding_norm=True,
  share_embeddings=False,
  tie_output=False,
  output_bias=True,
)


@functools.cache
def shapes(name, **settings):
  """The state of a model and its optimizer, without a number in it."""
  section = ConfigDict(dict(name=name, clip_norm=1.0, no_decay="bias$", rates=()))
  schedule = ConfigDict(dict(name="rsqrt", peak=0.1, warmup_steps=3))
  tx, _ = optimizer.build(section, schedule, 10)
  if settings.pop("lstm", False):
    make = functools.partial(LSTM, LSTMConfig(**settings))
  else:
    make = functools.partial(Transformer, TransformerConfig(**FULL | settings))

  def build():
    params = nnx.to_pure_dict(nnx.state(make(rngs=nnx.Rngs(0))))
    return dict(step=jnp.int32(0), params=params, opt_state=tx.init(params))

  return jax.eval_shape(build)


def named(tree):
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_every_leaf_of_every_optimizer_has_a_place(name, scan, mesh):
  state = shapes(name, positions="learned", scan_layers=scan)
  placed = named(sharding.place(state, mesh))
  assert placed.keys() == named(state).keys()
  for path, leaf in named(state).items():
    placed[path].shard_shape(leaf.shape)  # raises if it does not divide


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_every_leaf_of_an_lstm_has_a_place(name, mesh):
  state = shapes(name, lstm=True, vocab_size=160, dim=128, tie_output=False, output_bias=True)
  placed = named(sharding.place(state, mesh))
  for path, leaf in named(state).items():
    share = math.prod(placed[path].shard_shape(leaf.shape)) / max(leaf.size, 1)
    if path.startswith("params/") and path.endswith(("embedding", "kernel")):
      tables = "embedding" in path or path.endswith("output/kernel")
      assert share == (1 / 4 if tables else 1 if "recurrent" in path else 1 / 2), path


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_every_weight_of_every_model_has_a_place(positions, norm, mesh):
  params = {"params": shapes("sgd", positions=positions, norm=norm)["params"]}
  placed = named(sharding.place(params, mesh))
  for path, leaf in named(params).items():
    share = math.prod(placed[path].shard_shape(leaf.shape)) / leaf.size
    if "kernel" in path or path.endswith("embedding/embedding"):
      assert share == (1 / 2 if "/positions/" in path else 1 / 4), path


@pytest.mark.parametrize("name, moments", [("adamw", ("mu", "nu")), ("lion", ("mu",))])
def test_moments_lie_beside_their_weights(name, moments, mesh):
  placed = named(sharding.place(shapes(name, positions="relative"), mesh))
  weights = {path: place for path, place in placed.items() if path.startswith("params/")}
  assert len(weights) > 50
  for path, place in weights.items():
    for moment in moments:
      tail = f"/{moment}/{path.removeprefix('params/')}"
      (found,) = [p for p in placed if p.startswith("opt_state/") and p.endswith(tail)]
      assert placed[found].spec == place.spec


def test_a_block_is_split_the_way_of_megatron(mesh):
  """In by columns, out by rows: what lies between stays on its chip."""
  placed = named(sharding.place({"params": shapes("sgd")["params"]}, mesh))

  def axis_of_tensor(path):
    return placed[f"params/encoder/blocks/0/{path}"].spec.index("tensor")

  assert [
    axis_of_tensor(f"self_attention/{name}/kernel") for name in ("query", "key", "value")
  ] == [
    1,
    1,
    1,
  ]
  assert axis_of_tensor("self_attention/out/kernel") == 0
  assert [axis_of_tensor(f"mlp/{name}/kernel") for name in ("up", "gate", "down")] == [1, 1, 0]


def test_stacked_layers_are_split_as_one_by_one(mesh):
  single, stacks = (
    named(sharding.place(shapes("sgd", scan_layers=scan)["params"], mesh)) for scan in (False, True)
  )
  assert len(single) == len(stacks)  # of one layer each
  for path, place in single.items():
    layers = (None,) if "/blocks/" in path else ()
    assert tuple(stacks[path.replace("/blocks/0/", "/blocks/")].spec) == (*layers, *place.spec)


def test_a_weight_without_a_rule_is_an_error(mesh):
  leaf = jax.ShapeDtypeStruct((4, 4), jnp.float32)
  with pytest.raises(UserError, match=r"params/adapter/matrix \(4, 4\)"):
    sharding.place({"params": {"adapter": {"matrix": leaf}}}, mesh)


@pytest.mark.parametrize(
  "path, shape",
  [("query/kernel", (8, 3, 4)), ("up/kernel", (7, 8)), ("embedding/embedding", (9, 8))],
)
def test_a_weight_that_cannot_be_split_is_named(path, shape, mesh):
  outer, inner = path.split("/")
  tree = {"params": {"mlp": {outer: {inner: jax.ShapeDtypeStruct(shape, jnp.float32)}}}}
  with pytest.raises(UserError, match=f"params/mlp/{path}") as error:
    sharding.place(tree, mesh)
  assert str(shape) in str(error.value)
  assert ("model.vocab_size=10 adds empty rows" in str(error.value)) == (outer == "embedding")


# Meshes


@pytest.mark.parametrize(
  "sizes, want",
  [
    ((-1, 1, 1), (8, 1, 1)),
    ((-1, 2, 2), (2, 2, 2)),
    ((2, -1, 1), (2, 4, 1)),
    ((1, 2, -1), (1, 2, 4)),
    ((8, 1, -1), (8, 1, 1)),
    ((2, 2, 2), (2, 2, 2)),
  ],
)
def test_one_axis_takes_what_the_others_leave(sizes, want):
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, sizes)))
  assert tuple(mesh.shape[axis] for axis in sharding.AXES) == want
  assert sorted(d.id for d in mesh.devices.flat) == list(range(8))


@pytest.mark.parametrize(
  "sizes",
  [(4, 1, 1), (3, -1, 1), (16, -1, 1), (0, 1, 1), (-1, -1, 1), (-1, -1, -1), (-2, -2, 2)],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes):
  with pytest.raises(UserError, match=r"mesh.*8 devices"):
    sharding.make_mesh(dict(zip(sharding.AXES, sizes)))


@dataclasses.dataclass(frozen=True)
class Device:
  """What a mesh asks of one."""

  id: int
  slice_index: int
  process_index: int = 0
  platform: str = "none"
  device_kind: str = "none"


def test_slices_share_batches_and_no_weights():
  devices = [Device(10 * part + i, part) for part in range(2) for i in range(4)]
  mesh = sharding.make_mesh(dict(data=-1, fsdp=2, tensor=1), devices)
  assert dict(mesh.shape) == dict(data=4, fsdp=2, tensor=1)
  slices = [[device.slice_index for device in row.flat] for row in mesh.devices]
  assert slices == [[0, 0], [0, 0], [1, 1], [1, 1]]
  with pytest.raises(UserError, match="make it a multiple of the 2 slices"):
    sharding.make_mesh(dict(data=1, fsdp=4, tensor=2), devices)


# Batches


@pytest.mark.parametrize("put", [sharding.put, sharding.put_whole])
def test_what_is_put_is_fetched(put, mesh):
  batch = {
    "inputs": np.arange(8 * 3, dtype=np.int32).reshape(8, 3),
    "weights": np.random.default_rng(0).random((8, 5)).astype(np.float32),
    "row": np.arange(8, dtype=np.int32)[:, None],
  }
  there = put(batch, mesh)
  back = sharding.fetch(there)
  assert back.keys() == batch.keys()
  for key, value in batch.items():
    assert there[key].sharding.spec == P(("data", "fsdp"))
    assert {shard.data.shape[0] for shard in there[key].addressable_shards} == {2}
    assert isinstance(back[key], np.ndarray)
    assert back[key].dtype == value.dtype
    np.testing.assert_array_equal(back[key], value)


@pytest.mark.parametrize("put", [sharding.put, sharding.put_whole])
def test_rows_that_the_devices_cannot_share_are_refused(put, mesh):
  with pytest.raises(UserError, match=r"6 rows.*4"):
    put({"inputs": np.zeros((6, 3), np.int32)}, mesh)
