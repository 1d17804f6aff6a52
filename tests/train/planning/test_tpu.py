"""Compiled for a TPU that is not here: `make plan-check`, which installs libtpu."""

import dataclasses

import pytest

pytest.importorskip("libtpu", reason="libtpu is not installed; make plan-check installs it")

import jax

from tests.train.planning import small
from tests.train.test_meshes import DECODER, DIM, ENCODER, WORDS, activations, compiled, exchanged
from train import resolve, sharding
from train.planning import chips, estimate

BF16 = dict(dtype="bfloat16")


@pytest.fixture(scope="module")
def devices():
  topology = chips.parse("v5e:2x2")
  with pytest.MonkeyPatch.context() as patch:
    for name, value in chips.QUIET.items():
      patch.setenv(name, value)
    yield chips.devices(topology)


@pytest.fixture(scope="module")
def mesh(devices):
  return sharding.make_mesh(dict(data=1, fsdp=1, tensor=4), devices)


FORWARD, BACKWARD = (2 * ENCODER + 1, 3 * DECODER + 1), (2 * ENCODER + 1, 3 * DECODER)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_tensor_parallel_blocks_sum_as_often_as_megatron(norm_position, mesh):
  """Twice forward and twice backward, three and three with cross-attention (Shoeybi et al. 2019,
  section 3). On top: forward the words looked up, backward the encoder's states, once."""
  forward = exchanged(compiled(mesh, norm_position=norm_position, **BF16), mesh)
  assert forward == {("all-reduce", "tensor"): activations(mesh, *FORWARD, width=2)}
  both = exchanged(compiled(mesh, gradient=True, norm_position=norm_position, **BF16), mesh)
  assert both.keys() == {("all-reduce", "tensor")}
  backward = both["all-reduce", "tensor"] - forward["all-reduce", "tensor"]
  small = 4 * 4096  # of biases and norms
  assert 0 <= backward - activations(mesh, *BACKWARD, width=2) < small


def test_split_sequences_are_scattered_and_gathered(mesh):
  """In place of each sum (Korthikanti et al. 2022, section 4.2.2); words are looked up in a table
  gathered for that."""
  sizes = dict(lengths=(128, 256), dim=256)  # XLA does so where it is worth it
  program = compiled(mesh, sequence=True, norm_position="pre", **sizes, **BF16)
  found = exchanged(program, mesh)
  sums = activations(mesh, 2 * ENCODER, 3 * DECODER, width=2, **sizes)
  assert found["reduce-scatter", "tensor"] == sums
  assert found["all-reduce", "tensor"] < 4096  # of what norms sum up
  assert found["all-gather", "tensor"] < 1.5 * sums


def test_each_weight_of_fsdp_is_gathered_twice(devices):
  mesh = sharding.make_mesh(dict(data=1, fsdp=4, tensor=1), devices)
  program = compiled(mesh, gradient=True, scan_layers=True, remat="full", **BF16)
  found = exchanged(program, mesh)
  blocks = ENCODER * (4 * DIM**2 + 2 * DIM * 128) + DECODER * (8 * DIM**2 + 2 * DIM * 128)
  table = WORDS * DIM
  assert 0 <= found["all-gather", "fsdp"] - 2 * 2 * blocks - 2 * table < 4096
  # its gradient is summed to where it lies, in the dtype it has been computed in; but attention's
  # out kernels and the table are summed whole
  out = (ENCODER + 2 * DECODER) * DIM**2
  assert found["reduce-scatter", "fsdp"] == 2 * (blocks - out)
  assert 0 <= found["all-reduce", "fsdp"] - 2 * out - 4 * table < 4096


def test_the_splash_kernel_is_in_the_train_step():
  model = dict(attention_impl="splash", dim=128, num_heads=2, mlp_dim=256, dropout=0.1)
  plan, attentions = small.translation("v5e:2x2", **model, **BF16)
  assert sum(plan.program.kernels.values()) >= 2 * attentions  # forward and backward
  assert plan.kernel_flops > 0
  assert plan.cycle_seconds


def test_what_does_not_fit_is_told_in_words():
  with pytest.raises(estimate.DoesNotFit, match="GB of the 16 of a chip") as told:
    small.translation("v5e:2x2", vocab_size=4_000_000, dim=1024, num_heads=16)
  assert told.value.needed > 16e9


def test_several_slices_exchange_over_the_network():
  cfg = resolve.load("configs/scan.py:small")
  plan = estimate.make(cfg, chips.parse("v5e:2x2", slices=2))
  assert plan.mesh["data"] == 8
  assert plan.program.between_slices > 0
  one = estimate.make(cfg, chips.parse("v5e:2x4"))
  assert one.program.between_slices == 0
  assert dataclasses.replace(plan, program=one.program).wire_seconds < plan.wire_seconds


def test_an_axis_may_take_half_of_a_torus():
  """8 chips of 4x4 are no whole axes of it; they lie side by side all the same."""
  chip = chips.parse("v6e:4x4")
  mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=8), chips.devices(chip))
  for half in mesh.devices[:, 0]:
    rows = {device.coords[1] for device in half}
    assert len({tuple(device.coords) for device in half}) == 8
    assert max(rows) - min(rows) == 1


def test_there_is_no_tpu():
  """So all of the above was compiled and nothing run."""
  assert {device.platform for device in jax.devices()} == {"cpu"}
