"""Compiles for TPUs that are not installed: `make plan-check`, which installs libtpu."""

import dataclasses
import importlib.metadata

import pytest

pytest.importorskip("libtpu", reason="libtpu is not installed; make plan-check installs it")

import jax

from tests.train.helpers import (
  DECODER,
  DIM,
  ENCODER,
  WORDS,
  activation_bytes,
  compile_states,
  exchanged_bytes,
)
from tests.train.planning import recorded, small
from train import resolve, sharding
from train.planning import chips, estimate

BF16 = dict(dtype="bfloat16")


@pytest.fixture(scope="module", autouse=True)
def devices():
  topology = chips.parse("v5e:2x2")
  with pytest.MonkeyPatch.context() as patch:
    for name, value in chips.LIBTPU_ENV.items():
      patch.setenv(name, value)
    yield chips.devices(topology)


@pytest.fixture(scope="module")
def mesh(devices):
  return sharding.make_mesh(dict(data=1, fsdp=1, tensor=4), devices)


# Sums of source and target activations: two in a block, three in one with cross-attention (Shoeybi
# et al. 2019, section 3); on top, forward the embeddings, backward the encoder's states once.
FORWARD, BACKWARD = (2 * ENCODER + 1, 3 * DECODER + 1), (2 * ENCODER + 1, 3 * DECODER)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_tensor_parallel_blocks_sum_as_often_as_megatron(norm_position, mesh):
  forward = exchanged_bytes(compile_states(mesh, norm_position=norm_position, **BF16), mesh)
  assert forward == {("all-reduce", "tensor"): activation_bytes(mesh, *FORWARD, width=2)}
  program = compile_states(mesh, gradient=True, norm_position=norm_position, **BF16)
  both = exchanged_bytes(program, mesh)
  assert both.keys() == {("all-reduce", "tensor")}
  backward = both["all-reduce", "tensor"] - forward["all-reduce", "tensor"]
  small = 4 * 4096  # of biases and norms
  assert 0 <= backward - activation_bytes(mesh, *BACKWARD, width=2) < small


def test_split_sequences_are_scattered_and_gathered(mesh):
  """Each sum becomes a reduce-scatter and an all-gather (Korthikanti et al. 2022, section 4.2.2).
  The embedding table is gathered too."""
  sizes = dict(lengths=(128, 256), dim=256)  # XLA sums smaller activations whole
  program = compile_states(mesh, sequence=True, norm_position="pre", **sizes, **BF16)
  sent = exchanged_bytes(program, mesh)
  sums = activation_bytes(mesh, 2 * ENCODER, 3 * DECODER, width=2, **sizes)
  assert sent["reduce-scatter", "tensor"] == sums
  assert sent["all-reduce", "tensor"] < 4096  # of the norms' sums
  assert sent["all-gather", "tensor"] < 1.5 * sums


def test_each_weight_of_fsdp_is_gathered_twice(devices):
  mesh = sharding.make_mesh(dict(data=1, fsdp=4, tensor=1), devices)
  program = compile_states(mesh, gradient=True, scan_layers=True, remat="full", **BF16)
  sent = exchanged_bytes(program, mesh)
  blocks = ENCODER * (4 * DIM**2 + 2 * DIM * 128) + DECODER * (8 * DIM**2 + 2 * DIM * 128)
  table = WORDS * DIM
  assert 0 <= sent["all-gather", "fsdp"] - 2 * 2 * blocks - 2 * table < 4096
  # Gradients are scattered in bfloat16, but those of attention's out kernels and the table are
  # summed whole.
  out = (ENCODER + 2 * DECODER) * DIM**2
  assert sent["reduce-scatter", "fsdp"] == 2 * (blocks - out)
  small = sent["all-reduce", "fsdp"] - 2 * out - 4 * table  # gradients of biases and norms
  assert 0 <= small < 2 * DIM**2  # less than one more kernel


@pytest.mark.slow
@pytest.mark.parametrize("command", recorded.commands("v5e"))
def test_steps_are_as_fast_and_as_small_as_recorded(command):
  recorded.check(command, "libtpu " + importlib.metadata.version("libtpu"))


def test_the_splash_kernel_is_in_the_train_step():
  model = dict(attention_impl="splash", dim=128, num_heads=2, mlp_dim=256, dropout=0.1)
  plan, attentions = small.translation("v5e:2x2", **model, **BF16)
  assert plan.program.kernels >= 2 * attentions  # forward and backward
  assert plan.kernel_flops > 0
  assert plan.cycle_seconds


def test_a_step_that_does_not_fit_is_refused_with_the_memory_it_needs():
  with pytest.raises(estimate.DoesNotFit, match=r"needs \d+\.\d .* 16 GB") as caught:
    small.translation("v5e:2x2", vocab_size=4_000_000, dim=1024, num_heads=16)
  assert caught.value.needed > 16e9


def test_several_slices_communicate_over_the_network():
  cfg = resolve.load("configs/scan.py:small")
  slices = estimate.make_plan(cfg, chips.parse("v5e:2x2", slices=2))
  assert slices.mesh["data"] == 8
  assert slices.program.between_slices > 0
  single = estimate.make_plan(cfg, chips.parse("v5e:2x4"))
  assert single.program.between_slices == 0
  assert dataclasses.replace(slices, program=single.program).wire_seconds < slices.wire_seconds


def test_a_mesh_axis_may_take_half_of_a_torus():
  """8 chips of 4x4 are no whole axes of the torus, but are neighbours."""
  topology = chips.parse("v6e:4x4")
  mesh = sharding.make_mesh(dict(data=-1, fsdp=1, tensor=8), chips.devices(topology))
  for half in mesh.devices[:, 0]:
    rows = {device.coords[1] for device in half}
    assert len({tuple(device.coords) for device in half}) == 8
    assert max(rows) - min(rows) == 1


def test_there_is_no_tpu():
  """Without one, all of the above compiled and nothing ran."""
  assert {device.platform for device in jax.devices()} == {"cpu"}
