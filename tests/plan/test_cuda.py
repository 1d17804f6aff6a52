"""Compiled for GPUs that are not here: `make plan-check`, which installs jax's CUDA build."""

import pytest

pytest.importorskip(
  "jax_cuda12_plugin", reason="jax[cuda12] is not installed; make plan-check installs it"
)

from train import chips, estimate, flags


def test_the_cudnn_kernel_is_in_the_train_step():
  changes = dict(attention_impl="cudnn", dim=128, num_heads=2, mlp_dim=256, dtype="bfloat16")
  cfg = flags.load(
    "configs/wmt14.py:small,data_dir=/nowhere",
    [f"model.{name}={value}" for name, value in changes.items()],
  )
  plan = estimate.make(cfg, chips.parse("h100:8"))
  attentions = cfg.model.encoder_layers + 2 * cfg.model.decoder_layers
  assert sum(plan.program.kernels.values()) >= 2 * attentions  # forward and backward
  assert plan.program.count("all-reduce") > 0
