"""A plan without data or chips: shapes, sizes and FLOPs counted in two ways."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from train import plan, resolve
from train.common.errors import UserError
from train.planning import chips, estimate, flops, hlo, scaling

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
  cfg = resolve.load("configs/mlm.py:small,data=/nowhere", changes)
  made = estimate.make(cfg, chips.parse("cpu:8"))
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
  cfg = resolve.load("configs/scan.py:small", ["model.scan_layers=True"])
  made = estimate.make(cfg, chips.parse("cpu:8"))
  small = made.topology._replace(chip=made.topology.chip._replace(memory=1000))
  assert made.fits
  assert not dataclasses.replace(made, topology=small).fits
  assert any("without model.remat" in note for note in plan.warnings(made, cfg))


def test_a_program_that_its_compiler_cannot_write_is_told_in_words(monkeypatch):
  """As libtpu does for some meshes of v5p; the real message (its compilation takes minutes)."""

  def as_text(self):
    del self
    raise jax.errors.JaxRuntimeError(
      "INTERNAL: RET_CHECK failure (hlo_instruction.cc:390) async-update\nand a page more"
    )

  monkeypatch.setattr(jax.stages.Compiled, "as_text", as_text)
  with pytest.raises(UserError, match=r"cannot write the program.*async-update.*another") as told:
    estimate.make(resolve.load("configs/scan.py:small", []), chips.parse("cpu:8"))
  assert "a page more" not in str(told.value)


# What may help


def test_an_lstm_is_planned_and_has_knobs_of_its_own():
  cfg = resolve.load("configs/scan.py:small,model=lstm", ["mesh.data=4", "mesh.tensor=2"])
  made = estimate.make(cfg, chips.parse("cpu:8"))
  assert made.fits
  assert made.step_flops >= 0.9 * made.model_flops > 0
  found = plan.knobs(cfg, 8, 1e10)
  assert [sorted(change) for change in found] == [
    ["microbatches"],
    *[["mesh.data", "mesh.fsdp", "mesh.tensor"]] * 2,
  ]
  assert not any("remat" in note for note in plan.warnings(made, cfg))


def test_knobs_change_something_and_keep_the_batch():
  cfg = resolve.load("configs/wmt14.py:data_dir=/nowhere", ["mesh.tensor=2"])
  found = plan.knobs(cfg, 8, 1e8)
  assert {"mesh.sequence": True} in found
  assert {"model.remat": "full"} in found
  assert {"microbatches": 4} in found
  for change in found:
    other = plan.changed(cfg, change)
    assert other != cfg
    assert (other.batch_size, other.model.dim) == (cfg.batch_size, cfg.model.dim)
  done = resolve.load("configs/wmt14.py:data_dir=/nowhere", ["model.remat=full", "mesh.fsdp=8"])
  done = plan.changed(done, {"mesh.data": 1})
  assert {"mesh.data": 1, "mesh.fsdp": 8, "mesh.tensor": 1} not in plan.knobs(done, 8, 1e8)


def test_settings_that_may_help_are_tried_and_told(monkeypatch):
  """One that cannot be run is told too, and does not end the list."""
  cfg = resolve.load("configs/scan.py:small")
  topology = chips.parse("cpu:8")
  first = estimate.DoesNotFit(topology, 30e9)

  def make(cfg, topology):
    if cfg.microbatches > 1:
      raise UserError("no such batch")
    return made

  made = estimate.make(cfg, topology)
  monkeypatch.setattr(plan, "make", make)
  console = Console(width=200, file=io.StringIO())
  plan.try_knobs(cfg, topology, made.parameters, first, console)
  told = console.file.getvalue()
  assert "as it is: needs 30.0 GB of the 24 of a chip" in told
  assert "--config.microbatches=4: no such batch" in told
  assert f"--config.model.remat=full: fits: {made.memory / 1e9:.1f} GB" in told


# Weak scaling


def exchanging(*collectives, data=2, fsdp=1, tensor=1):
  """A plan of a millisecond's computing that exchanges these."""
  topology = chips.parse(f"v5e:2x{data * fsdp * tensor // 2}")
  program = hlo.Program(cycles=int(1e-3 * topology.chip.clock))
  for one in collectives:
    program.collectives[one] += 1
  numbers = dict.fromkeys(
    ("parameters", "weights", "moments", "batch", "temporaries", "model_flops", "step_flops"), 0
  )
  return estimate.Plan(
    topology=topology,
    mesh=dict(data=data, fsdp=fsdp, tensor=tensor),
    kernel_flops=0,
    program=program,
    compile_seconds=0.0,
    **numbers,
  )


def cells(table):
  return [[str(cell) for cell in column.cells] for column in table.columns]


def test_weak_scaling_lengthens_the_rings_of_the_axis_data_alone():
  """By hand: a ring of n sends 2 (n - 1) / n of what it sums."""
  gradients = hlo.Collective("all-reduce", int(90e6), (0, 2), "gradients")  # along data
  states = hlo.Collective("all-reduce", int(45e6), (0, 1), "states")  # along tensor
  found = scaling.weak(exchanging(gradients, states, data=2, tensor=2), rows=8)
  chips_in_all, rows, wire, step, efficiency, _ = cells(scaling.table(found))
  assert chips_in_all == ["4", "16", "64", "256", "512", "1,024", "4,096"]
  assert rows == ["8", "32", "128", "512", "1,024", "2,048", "8,192"]
  at_90_gb_s = [0.5 + 2 * (n - 1) / n for n in (2, 8, 32, 128)]
  assert wire[:4] == [f"{ms:.1f}" for ms in at_90_gb_s]
  assert step[0] == f"{1 + at_90_gb_s[0]:.1f}"
  assert efficiency[3] == f"{(1 + at_90_gb_s[0]) / (1 + at_90_gb_s[3]):.1%}"
  # four slices: each chip of a slice hands its 128th of the sum over, 2 x 3/4 times, at 3.125 GB/s
  between = 2 * 3 / 4 * 90e6 / 128 / 3.125e9
  assert wire[5] == f"{at_90_gb_s[3] + 1e3 * between:.1f}"


def test_weak_scaling_wants_an_axis_that_can_grow():
  with pytest.raises(UserError, match=r"mesh\.data of 2 or more"):
    scaling.weak(exchanging(data=1, fsdp=2), rows=8)


def test_slices_are_of_tpus():
  assert chips.parse("v5e:4x4", 3).count == 48
  with pytest.raises(UserError, match="--slices 2"):
    chips.parse("h100:8", 2)
