"""Plans without data or chips: shapes, sizes and FLOPs equal those counted by hand."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from train import plan, resolve
from train.common import flops
from train.common.errors import UserError
from train.planning import chips, estimate, hlo, scaling

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


def test_flops_of_a_shard_map_count_every_device():
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
  topology = chips.parse(text)
  assert topology.shape == shape
  assert topology.chip is chips.CHIPS[text.partition(":")[0]]


@pytest.mark.parametrize(
  "text, known",
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
def test_an_unknown_topology_is_refused_with_the_known_ones(text, known):
  with pytest.raises(UserError, match=known):
    chips.parse(text)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_plan_of_a_pre_training_equals_sizes_and_flops_by_hand(remat):
  """The sizes follow from the config alone: its data do not exist."""
  changes = ["mesh.fsdp=8", "mesh.data=1", f"model.remat={remat}", "model.dropout=0.0"]
  cfg = resolve.load("configs/mlm.py:small,data=/nowhere", changes)
  result = estimate.make_plan(cfg, chips.parse("cpu:8"))
  dim, mlp, layers, words = cfg.model.dim, cfg.model.mlp_dim, cfg.model.encoder_layers, 400
  attention, feed_forward = 4 * (dim**2 + dim), 2 * dim * mlp + dim + mlp
  block = attention + feed_forward + 4 * dim
  # beside blocks: table, its norm, the last norm, the head's dense layer and norm, output bias
  rest = words * dim + 2 * dim + 2 * dim + (dim**2 + dim) + 2 * dim + words
  assert result.parameters == layers * block + rest
  # weights without an fsdp axis (biases, norms, the head) are whole on each chip
  assert 4 * result.parameters / 8 <= result.weights < 4 * result.parameters / 2
  assert 1.99 < result.moments / result.weights < 2.01
  tokens, length = cfg.batch_size * 128, 128
  hidden = cfg.batch_size * max(1, int(0.15 * 128))
  products = layers * (4 * dim**2 + 2 * dim * mlp + 2 * length * dim) * tokens
  products += hidden * (dim**2 + dim * words)
  assert result.model_flops * 8 == 3 * 2 * products
  assert result.kernel_flops == 0
  assert result.step_flops >= result.model_flops * (1 if remat == "none" else 1.2)
  assert result.program.count("all-gather") > 0


def test_a_small_chip_does_not_fit_and_scanning_without_remat_is_noted():
  cfg = resolve.load("configs/scan.py:small", ["model.scan_layers=True"])
  result = estimate.make_plan(cfg, chips.parse("cpu:8"))
  small = result.topology._replace(chip=result.topology.chip._replace(memory=1000))
  assert result.fits
  assert not dataclasses.replace(result, topology=small).fits
  assert any("without model.remat" in note for note in plan.warnings(result, cfg))


def test_the_tables_show_the_numbers_of_the_plan():
  """Every number is chosen, so that the cells can be worked out by hand."""
  gathers = [hlo.Collective("all-gather", int(6e6), (0, 2), f"jit(train_step)/{x}") for x in "ab"]
  program = hlo.Program(cycles=int(30e-3 * 1.5e9), kernels=18)
  program.collectives.update({gathers[0]: 3, gathers[1]: 1})
  program.collectives[hlo.Collective("all-reduce", int(45e6), (0, 1), "sums")] = 2
  result = estimate.Plan(
    topology=chips.parse("v5e:2x2"),
    mesh=dict(data=1, fsdp=2, tensor=2),
    parameters=61_500_000,
    weights=int(1.5e9),
    moments=int(3e9),
    batch=int(1e6),
    temporaries=int(7.25e9),
    model_flops=int(3.94e12),  # 20 ms at the 197 TFLOP/s of a v5e
    step_flops=int(4.5e12),
    kernel_flops=int(0.985e12),  # 10 ms at half of that
    program=program,
    compile_seconds=12.0,
  )
  lines = shown(result)
  assert lines[0].split()[:5] == ["61.5M", "parameters", "on", "v5e:2x2", "(fsdp"]
  rows = {cells[0]: cells[1:] for line in lines if len(cells := line_cells(line)) > 1}
  assert rows["weights"] == ["1.500"]
  assert rows["moments"] == ["3.000"]
  assert rows["temporaries"] == ["7.250"]
  assert rows["in all, fits"] == ["11.751 of 16"]
  assert rows["all-reduce"] == ["tensor", "2", "90.0", "sums"]
  assert rows["all-gather"] == ["fsdp", "4", "24.0", "a"]
  assert rows["model"][0] == "3.940 TFLOP"
  assert rows["computed"][0] == "5.485 TFLOP"
  assert rows["attention kernels"] == ["10.0 ms", "18 calls at 50% of peak"]
  assert rows["compiler's cycles"] == ["30.0 ms", "at 1.50 GHz"]
  # in rings of two: a sum is sent once, half of a gather; 90 GB/s
  wire = (90e6 + 24e6 / 2) / 90e9
  assert rows["wire"][0] == f"{1e3 * wire:.1f} ms"
  assert rows["estimate"][0] == f"{40 + 1e3 * wire:.1f} ms, MFU {20 / (40 + 1e3 * wire):.1%}"
  assert lines[-1] == "note: a note"
  # a GPU: no cycles, so the products at 989 TFLOP/s, then the traffic at 3,350 GB/s
  program = dataclasses.replace(program, cycles=0, moved=67_000_000_000)
  gpu = dataclasses.replace(result, topology=chips.parse("h100:4"), program=program)
  rows = {cells[0]: cells[1:] for line in shown(gpu) if len(cells := line_cells(line)) > 1}
  assert "compiler's cycles" not in rows
  assert rows["products, then memory"][0] == f"{4500 / 989 + 20:.1f} ms"
  assert rows["products, then memory"][1].startswith("67.0 GB;")


def shown(result):
  console = Console(width=110, file=io.StringIO())
  plan.show(result, ["a note"], console)
  return console.file.getvalue().splitlines()


def line_cells(line):
  """Returns the cells of a table's row, or one cell for any other line."""
  return [cell.strip() for cell in line.strip("│┃ ").split("│")]


def test_a_program_that_its_compiler_cannot_write_is_a_user_error(monkeypatch):
  """The message is libtpu's for some meshes of v5p, whose compilation takes minutes."""

  def as_text(self):
    del self
    raise jax.errors.JaxRuntimeError(
      "INTERNAL: RET_CHECK failure (hlo_instruction.cc:390) async-update\nand a page more"
    )

  monkeypatch.setattr(jax.stages.Compiled, "as_text", as_text)
  with pytest.raises(UserError, match=r"cannot write the program.*async-update.*another") as caught:
    estimate.make_plan(resolve.load("configs/scan.py:small", []), chips.parse("cpu:8"))
  assert "a page more" not in str(caught.value)


# Alternatives


def test_an_lstm_is_planned_and_has_alternatives_of_its_own():
  cfg = resolve.load("configs/scan.py:small,model=lstm", ["mesh.data=4", "mesh.tensor=2"])
  result = estimate.make_plan(cfg, chips.parse("cpu:8"))
  assert result.fits
  assert result.step_flops >= 0.9 * result.model_flops > 0
  assert [sorted(change) for change in plan.alternatives(cfg, 8, 1e10)] == [
    ["microbatches"],
    *[["mesh.data", "mesh.fsdp", "mesh.tensor"]] * 2,
  ]
  assert not any("remat" in note for note in plan.warnings(result, cfg))


def test_alternatives_change_something_and_keep_the_batch():
  cfg = resolve.load("configs/wmt14.py:data_dir=/nowhere", ["mesh.tensor=2"])
  changes = plan.alternatives(cfg, 8, 1e8)
  assert {"mesh.data": 8, "mesh.fsdp": 1, "mesh.tensor": 1} in changes
  assert {"mesh.sequence": True} in changes
  assert {"model.remat": "full"} in changes
  assert {"microbatches": 4} in changes
  for change in changes:
    other = plan.apply(cfg, change)
    assert other != cfg
    assert (other.batch_size, other.model.dim) == (cfg.batch_size, cfg.model.dim)
  done = resolve.load("configs/wmt14.py:data_dir=/nowhere", ["model.remat=full", "mesh.fsdp=8"])
  done = plan.apply(done, {"mesh.data": 1})
  changes = plan.alternatives(done, 8, 1e8)
  assert not any(change.get("mesh.fsdp") == 8 or "model.remat" in change for change in changes)
  as_default = resolve.load("configs/wmt14.py:data_dir=/nowhere")
  assert not any(change.get("mesh.data") == 8 for change in plan.alternatives(as_default, 8, 1e8))


def test_alternatives_are_compiled_and_printed(monkeypatch):
  """One that cannot run is printed too, and does not end the list."""
  cfg = resolve.load("configs/scan.py:small")
  topology = chips.parse("cpu:8")
  first = estimate.DoesNotFit(topology, 30e9)

  def make_plan(cfg, topology):
    if cfg.microbatches > 1:
      raise UserError("no such batch")
    return result

  result = estimate.make_plan(cfg, topology)
  monkeypatch.setattr(plan, "make_plan", make_plan)
  console = Console(width=200, file=io.StringIO())
  plan.try_alternatives(cfg, topology, result.parameters, first, console)
  text = console.file.getvalue()
  assert "as it is: needs 30.0 of a chip's 24 GB" in text
  assert "--config.microbatches=4: no such batch" in text
  assert f"--config.model.remat=full: fits: {result.memory / 1e9:.1f} GB" in text


# Weak scaling


def exchanging(*collectives, data=2, fsdp=1, tensor=1):
  """Returns a plan of a millisecond of computing with these collectives."""
  topology = chips.parse(f"v5e:2x{data * fsdp * tensor // 2}")
  program = hlo.Program(cycles=int(1e-3 * topology.chip.clock))
  program.collectives.update(collectives)
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
  """A device in a ring of n sends 2 (n - 1) / n of the bytes that the ring sums."""
  gradients = hlo.Collective("all-reduce", int(90e6), (0, 2), "gradients")  # along data
  states = hlo.Collective("all-reduce", int(45e6), (0, 1), "states")  # along tensor
  projections = scaling.project(exchanging(gradients, states, data=2, tensor=2), rows=8)
  chips_in_all, rows, wire, step, efficiency, _ = cells(scaling.table(projections))
  assert chips_in_all == ["4", "16", "64", "256", "512", "1,024", "4,096"]
  assert rows == ["8", "32", "128", "512", "1,024", "2,048", "8,192"]
  at_90_gb_s = [0.5 + 2 * (n - 1) / n for n in (2, 8, 32, 128)]
  assert wire[:4] == [f"{ms:.1f}" for ms in at_90_gb_s]
  assert step[0] == f"{1 + at_90_gb_s[0]:.1f}"
  assert efficiency[3] == f"{(1 + at_90_gb_s[0]) / (1 + at_90_gb_s[3]):.1%}"
  # four slices: each chip of a slice sends its 128th of the sum 2 x 3/4 times, at 3.125 GB/s
  between = 2 * 3 / 4 * 90e6 / 128 / 3.125e9
  assert wire[5] == f"{at_90_gb_s[3] + 1e3 * between:.1f}"


def test_weak_scaling_needs_collectives_along_data():
  with pytest.raises(UserError, match=r"mesh\.data of 2 or more"):
    scaling.project(exchanging(data=1, fsdp=2), rows=8)


def test_slices_are_of_tpus():
  assert chips.parse("v5e:4x4", 3).count == 48
  with pytest.raises(UserError, match="--slices 2"):
    chips.parse("h100:8", 2)


def test_a_tokenizer_in_a_file_gives_the_vocabulary():
  words = ["task.tokenizer.name=file", "task.tokenizer.path=tokenizer.json"]
  assert estimate.without_data(resolve.load("configs/mlm.py", words)).model.vocab_size is None
  assert estimate.without_data(resolve.load("configs/mlm.py")).model.vocab_size == 8000
