"""A plan without data or chips: shapes, sizes and FLOPs counted in two ways."""

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from train import chips, flags, flops, plan
from train.errors import UserError

B, D, H = 4, 8, 16


def test_flops_of_products_and_loops():
  def layers(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()

  x, w = jnp.ones((B, D)), jnp.ones((5, D, D))
  once = 2 * B * D * D
  assert flops.count(jax.make_jaxpr(layers)(x, w)) == 5 * once
  # backward: the gradients of x and of w are a product each
  assert flops.count(jax.make_jaxpr(jax.grad(layers, (0, 1)))(x, w)) == 3 * 5 * once
  again = jax.checkpoint(layers)
  assert flops.count(jax.make_jaxpr(jax.grad(again, (0, 1)))(x, w)) == 4 * 5 * once


def test_flops_of_what_each_device_does():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  P = jax.sharding.PartitionSpec
  mapped = jax.shard_map(
    lambda x, w: x @ w, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
  )
  x, w = jnp.ones((8 * B, D)), jnp.ones((D, H))
  counted = flops.count(jax.make_jaxpr(mapped)(x, w), devices=8)
  assert counted == flops.count(jax.make_jaxpr(jnp.matmul)(x, w)) == 2 * 8 * B * D * H


@pytest.mark.parametrize(
  "text, shape", [("v5e:4x8", (4, 8)), ("v5p:2x2x1", (2, 2, 1)), ("h100:8", (8,)), ("cpu:3", (3,))]
)
def test_a_topology_is_a_kind_and_a_shape(text, shape):
  found = chips.parse(text)
  assert found.shape == shape
  assert found.chip is chips.CHIPS[text.partition(":")[0]]


@pytest.mark.parametrize(
  "text, told",
  [
    ("v5f:2x2", "known: v5e, v5p, v6e, h100, cpu"),
    ("v5e:2x2x2", "v5e:2x2 to v5e:16x16"),
    ("v5e:32x2", "v5e:2x2 to v5e:16x16"),
    ("v5e:0x2", "v5e:2x2 to v5e:16x16"),
    ("v5p:2x2", "v5p:2x2x1 to v5p:16x16x24"),
    ("h100", "h100:1, h100:2"),
    ("cpu:x", "cpu:1, cpu:2"),
  ],
)
def test_topologies_there_are_not(text, told):
  with pytest.raises(UserError, match=told):
    chips.parse(text)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_plan_of_a_pre_training_counts_what_the_config_says(remat):
  """The sizes are written out here from the config; the data it names are not there."""
  changes = ["mesh.fsdp=8", "mesh.data=1", f"model.remat={remat}", "model.dropout=0.0"]
  cfg = flags.load("configs/mlm.py:small,data=/nowhere", changes)
  made = plan.make(cfg, chips.parse("cpu:8"))
  dim, mlp, layers, words = cfg.model.dim, cfg.model.mlp_dim, cfg.model.encoder_layers, 400
  attention, feed_forward = 4 * (dim**2 + dim), 2 * dim * mlp + dim + mlp
  block = attention + feed_forward + 4 * dim
  # beside blocks: table, its norm, the last norm, the head's dense layer and norm, output bias
  rest = words * dim + 2 * dim + 2 * dim + (dim**2 + dim) + 2 * dim + words
  assert made.parameters == layers * block + rest
  # what has no fsdp axis (biases, norms, the head) is whole on each chip
  assert 4 * made.parameters / 8 <= made.weights < 4 * made.parameters / 2
  assert 1.99 < made.moments / made.weights < 2.01
  tokens, length = cfg.batch_size * 128, 128
  hidden = cfg.batch_size * max(1, int(0.15 * 128))
  products = layers * (4 * dim**2 + 2 * dim * mlp + 2 * length * dim) * tokens
  products += hidden * (dim**2 + dim * words)
  assert made.model_flops * 8 == 3 * 2 * products
  assert made.kernel_flops == 0
  assert made.step_flops >= made.model_flops * (1 if remat == "none" else 1.2)
  assert made.program.count("all-gather") > 0
  console = Console(width=110, record=True, quiet=True)
  plan.show(made, plan.warnings(made, cfg), console)


def test_what_does_not_fit_is_said():
  cfg = flags.load("configs/scan.py:small", ["model.scan_layers=True"])
  made = plan.make(cfg, chips.parse("cpu:8"))
  small = made.topology._replace(chip=made.topology.chip._replace(memory=1000))
  assert made.fits
  assert not plan.dataclasses.replace(made, topology=small).fits
  assert any("without model.remat" in note for note in plan.warnings(made, cfg))
