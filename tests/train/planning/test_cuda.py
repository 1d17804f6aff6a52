"""Compiles for GPUs that are not installed: `make plan-check`, which installs jax's CUDA build."""

import importlib.metadata

import pytest

pytest.importorskip(
  "jax_cuda12_plugin", reason="jax[cuda12] is not installed; make plan-check installs it"
)

from tests.train.planning import recorded, small


def test_the_cudnn_kernel_is_in_the_train_step():
  model = dict(attention_impl="cudnn", dim=128, num_heads=2, mlp_dim=256, dtype="bfloat16")
  plan, attentions = small.translation("h100:8", **model)
  assert plan.program.kernels >= 2 * attentions  # forward and backward
  assert plan.program.count("all-reduce") > 0


@pytest.mark.slow
@pytest.mark.parametrize("command", recorded.commands("h100"))
def test_steps_are_as_fast_and_as_small_as_recorded(command):
  recorded.check(command, "jax-cuda12-plugin " + importlib.metadata.version("jax-cuda12-plugin"))
