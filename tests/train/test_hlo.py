"""What is read of a program = what was written into it."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from train import hlo, sharding

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


def test_a_sum_over_a_split_axis_is_an_all_reduce_of_its_size(mesh):
  program = compiled(lambda x, w: x @ w, mesh, P("data", "tensor"), P("tensor", None))
  (one,) = program.collectives
  assert (one.kind, one.bytes, one.group) == ("all-reduce", DIM // 2 * DIM * 4, 4)
  assert program.collectives[one] == 1
  assert "dot_general" in one.origin
  assert program.wire_bytes == pytest.approx(2 * 3 / 4 * one.bytes)


def test_a_weight_that_is_split_along_rows_is_gathered_whole(mesh):
  split = NamedSharding(mesh, P())
  program = compiled(lambda x: jax.lax.with_sharding_constraint(x, split), mesh, P("tensor"))
  (one,) = program.collectives
  assert (one.kind, one.bytes, one.group) == ("all-gather", DIM * DIM * 4, 4)
  assert one.wire_bytes == pytest.approx(3 / 4 * DIM * DIM * 4)


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
  assert not program.endless


def test_a_loop_that_does_not_say_how_long_it_runs_is_told(mesh):
  def until(x):
    return jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: x * 1.5, x)

  assert compiled(until, mesh, P()).endless


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
      "  %s = (f32[4]{0}, bf16[6]{0}) all-reduce(f32[4]{0} %a, bf16[6]{0} %b),"
      " replica_groups=[1,8]<=[8]",
      *("all-reduce", 4 * 4 + 6 * 2, 8),
    ),
  ],
)
def test_sizes_of_what_begins_and_of_parts(text, kind, size, group):
  program = hlo.read("ENTRY %main (p: f32[2]) -> f32[2] {\n" + text + "\n}\n")
  (one,) = program.collectives
  assert (one.kind, one.bytes, one.group) == (kind, size, group)
