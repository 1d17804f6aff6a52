"""The costs read from a program are the costs written into it."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from train import sharding
from train.planning import hlo

ROWS, DIM = 16, 32


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(dict(data=2, fsdp=1, tensor=4))


def compiled(function, mesh, *specs):
  x = [
    jax.ShapeDtypeStruct((DIM, DIM), jnp.float32, sharding=NamedSharding(mesh, spec))
    for spec in specs
  ]
  return hlo.read(jax.jit(function).lower(*x).compile().as_text())


def key(collective):
  return collective.kind, collective.bytes, collective.group


def test_a_sum_over_a_split_axis_is_an_all_reduce_of_its_size(mesh):
  program = compiled(lambda x, w: x @ w, mesh, P("data", "tensor"), P("tensor", None))
  (collective,) = program.collectives
  assert key(collective) == ("all-reduce", DIM // 2 * DIM * 4, 4)
  assert program.collectives[collective] == 1
  assert "dot_general" in collective.origin
  assert program.wire_bytes == pytest.approx(2 * 3 / 4 * collective.bytes)


def test_a_weight_split_along_rows_is_gathered_whole(mesh):
  split = NamedSharding(mesh, P())
  program = compiled(lambda x: jax.lax.with_sharding_constraint(x, split), mesh, P("tensor"))
  (collective,) = program.collectives
  assert key(collective) == ("all-gather", DIM * DIM * 4, 4)
  assert collective.wire_bytes == pytest.approx(3 / 4 * DIM * DIM * 4)


@pytest.mark.parametrize("outer, inner", [(1, 5), (3, 4)])
def test_loops_are_multiplied_out(outer, inner, mesh):
  def step(x, w):
    return jnp.tanh(x @ w)

  def many(x, w, times, body):
    return jax.lax.scan(lambda x, _: (body(x, w), None), x, length=times)[0]

  inner_loop = functools.partial(many, times=inner, body=step)
  program = compiled(
    functools.partial(many, times=outer, body=inner_loop),
    mesh,
    P(None, "tensor"),
    P("tensor", None),
  )
  assert program.count("all-reduce") == outer * inner
  assert program.endless_loops == 0


def test_a_loop_of_unknown_length_is_reported(mesh):
  def until(x):
    return jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: x * 1.5, x)

  assert compiled(until, mesh, P()).endless_loops == 1


@pytest.mark.parametrize(
  "text, kind, size, group",
  [
    (
      "  %s = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(f32[2,8]{1,0} %p),"
      " replica_groups=[2,4]<=[8], dimensions={0}",
      *("all-gather", 8 * 8 * 4, 4),
    ),
    (
      "  %s = bf16[2,8]{1,0} reduce-scatter(bf16[8,8]{1,0} %p), replica_groups={{0,1,2,3}}",
      *("reduce-scatter", 8 * 8 * 2, 4),
    ),
    (
      "  %s = ((bf16[8,64,256]{2,0,1}), bf16[8,8,256]{2,0,1}) reduce-scatter-start(%p),"
      " channel_id=93, replica_groups=[2,8]<=[16]",
      *("reduce-scatter", 8 * 64 * 256 * 2, 8),
    ),
    (
      "  %s = ((f32[2,8]{1,0}, bf16[4]{0}), (f32[8,8]{1,0}, bf16[16]{0}))"
      " all-gather-start(f32[2,8]{1,0} %p, bf16[4]{0} %q), replica_groups=[2,4]<=[8]",
      *("all-gather", 8 * 8 * 4 + 16 * 2, 4),
    ),
    (
      "  %s = (f32[4]{0}, bf16[6]{0}) all-reduce(f32[4]{0} %a, bf16[6]{0} %b),"
      " replica_groups=[1,8]<=[8]",
      *("all-reduce", 4 * 4 + 6 * 2, 8),
    ),
  ],
)
def test_sizes_of_asynchronous_collectives_and_of_parts(text, kind, size, group):
  program = hlo.read("ENTRY %main (p: f32[2]) -> f32[2] {\n" + text + "\n}\n")
  (collective,) = program.collectives
  assert key(collective) == (kind, size, group)


@pytest.mark.parametrize(
  "groups, devices, axes",
  [
    ("{{0,4},{1,5},{2,6},{3,7}}", (0, 4), ("data",)),
    ("[2,4]<=[8]", (0, 1, 2, 3), ("tensor",)),
    ("[4,2]<=[2,4]T(1,0)", (0, 4), ("data",)),
    ("[1,8]<=[8]", tuple(range(8)), ("data", "tensor")),
    ("mesh['a'=2,'b'=4] {'a'}", (0, 4), ("data",)),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3), ("tensor",)),
    ("{}", tuple(range(8)), ("data", "tensor")),
  ],
)
def test_groups_are_axes_of_the_mesh(groups, devices, axes):
  line = f"  %s = f32[4]{{0}} all-reduce(f32[4]{{0}} %a), replica_groups={groups}, to_apply=%add"
  head = "HloModule m, num_partitions=8\n\nENTRY %main (p: f32[2]) -> f32[2] {\n"
  (collective,) = hlo.read(f"{head}{line}\n}}\n").collectives
  assert collective.devices == devices
  assert collective.axes(dict(data=2, fsdp=1, tensor=4)) == axes


def test_a_collective_that_a_tpu_overlaps_with_several_fusions_counts_once():
  """libtpu 0.0.52 writes the gather into each of three fusions, and a reduce-scatter as an
  all-reduce in a computation of that name."""
  part = (
    "  %g{0} = bf16[8,256]{{1,0}} all-gather(%p), channel_id=5, replica_groups={{{{0,1}}}},"
    ' frontend_attributes={{chain_id="0"}}'
  )
  text = "HloModule m, num_partitions=2\n"
  for i in range(3):
    text += f"\n%part.{i} (p: bf16[8,128]) -> bf16[8,256] {{\n{part.format(i)}\n}}\n"
  text += (
    "\n%all-reduce-scatter.1 (p: f32[8]) -> f32[4] {\n"
    "  %r = f32[8]{0} all-reduce(%p), channel_id=6, replica_groups={{0,1}}, to_apply=%add\n}\n"
    "\nENTRY %main (p: bf16[8,128]) -> bf16[8,256] {\n"
  )
  text += "".join(f"  %f{i} = bf16[8,256] fusion(%p), calls=%part.{i}\n" for i in range(3))
  text += "  %f = f32[4] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1\n}\n"
  program = hlo.read(text)
  gather, scatter = program.collectives
  assert key(gather) == ("all-gather", 8 * 256 * 2, 2)
  assert key(scatter) == ("reduce-scatter", 8 * 4, 2)
  assert set(program.collectives.values()) == {1}


def test_memory_traffic_equals_the_count_of_xla():
  """XLA on CPU counts bytes too, but those of a loop's body only once."""

  def layer(x, w):
    y = jax.nn.softmax(jnp.tanh(x @ w) + x, -1)
    return y * y.mean(), None

  x = jax.ShapeDtypeStruct((64, DIM), jnp.float32)
  w = jax.ShapeDtypeStruct((6, DIM, DIM), jnp.float32)
  flat = jax.jit(lambda x, w: layer(layer(x, w[0])[0], w[1])[0]).lower(x, w).compile()
  moved = hlo.read(flat.as_text()).moved
  assert moved == pytest.approx(flat.cost_analysis()["bytes accessed"], rel=0.02)
  assert moved > 10 * x.size * 4
  looped = jax.jit(lambda x, w: jax.lax.scan(layer, x, w)[0]).lower(x, w).compile()
  assert hlo.read(looped.as_text()).moved == pytest.approx(3 * moved, rel=0.1)  # 6 layers, not 2
