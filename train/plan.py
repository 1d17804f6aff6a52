"""python -m train.plan --config configs/wmt14.py --topology v5e:4x4 [--config.KEY=VALUE ...]

Will it fit, and what will it cost? Compiles the real train step for chips that are not here and
reads what the compiler made. Nothing runs: times are estimates, their assumptions are printed. No
data is needed: the shapes are the config's. TPUs (v5e, v5p, v6e) need requirements-tpu.txt, h100
needs requirements-cuda.txt, cpu:8 needs nothing.
"""

import argparse
import dataclasses
import math
import sys
import tempfile
import time

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from train import chips, flags, flops, hlo, loop, optimizer, sharding, tasks
from train.data import packing
from train.step import make_eval_step, make_train_step

MANY_PERMUTES = 100
REPEATED = 8  # times a step, from which a collective is one that should have waited
KERNEL_SHARE = 0.5  # of peak, that a fused attention kernel reaches


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a compiled train step takes, on each chip unless it says otherwise."""

  topology: chips.Topology
  mesh: dict[str, int]
  parameters: int  # in all
  weights: int  # bytes
  moments: int  # bytes
  batch: int  # bytes
  temporaries: int  # bytes: activations, gradients, workspace
  model_flops: int  # three times the forward pass
  step_flops: int  # of matrix products outside of kernels, with what is computed twice
  kernel_flops: int  # of attention kernels
  moved: float  # bytes to and from memory, as XLA counts: loops once
  program: hlo.Program
  compile_seconds: float

  @property
  def memory(self) -> int:
    return self.weights + self.moments + self.batch + self.temporaries

  @property
  def fits(self) -> bool:
    return self.memory <= self.topology.chip.memory

  @property
  def wire_seconds(self) -> float:
    return self.program.wire_bytes / self.topology.chip.wire

  @property
  def kernel_seconds(self) -> float:
    return self.kernel_flops / (KERNEL_SHARE * self.topology.chip.flops)

  @property
  def cycle_seconds(self) -> float | None:
    """By the compiler's cycles, kernels and wire added; None where it tells none."""
    if not self.program.cycles:
      return None
    own = self.program.cycles / self.topology.chip.clock
    return own + self.kernel_seconds + self.wire_seconds

  @property
  def roofline_seconds(self) -> float:
    chip = self.topology.chip
    computing = max(self.step_flops / chip.flops, self.moved / chip.bandwidth)
    return computing + self.kernel_seconds + self.wire_seconds

  @property
  def seconds(self) -> float:
    return self.cycle_seconds or self.roofline_seconds

  @property
  def mfu(self) -> float:
    """Model FLOPs over what the chip could do in that time (Chowdhery et al. 2022, PaLM)."""
    return self.model_flops / self.topology.chip.flops / self.seconds


def make(cfg: ConfigDict, topology: chips.Topology) -> Plan:
  """Compiles the train step of `cfg` for the topology. UserError where the config cannot be run on
  it; what does not fit into the memory of a chip is no error."""
  devices = chips.devices(topology)
  mesh = sharding.make_mesh(cfg.mesh, devices)
  cfg = without_data(cfg)
  with tempfile.TemporaryDirectory() as folder:
    task = tasks.build(cfg.task, folder)
    tx, _ = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
    graph, build, place = loop.blueprint(cfg, task, tx, mesh)
    state = sharding.placed(jax.eval_shape(build), place)
    batch = batch_of(task, cfg.batch_size)
    batch = sharding.placed(batch, sharding.by_rows(batch, mesh))
  step = make_train_step(task, graph, tx, microbatches=cfg.microbatches, seed=cfg.seed)
  began = time.monotonic()
  with sharding.kernels_over(mesh):
    traced = step.trace(state, batch)
    program = traced.lower().compile()
  seconds = time.monotonic() - began
  own = whole = forward_flops(cfg, task, tx, mesh, state, batch)
  if cfg.model.attention_impl != "einsum":  # what kernels hide is seen without them
    cfg.model.attention_impl = "einsum"
    whole = forward_flops(cfg, task, tx, mesh, state, batch)
  memory = program.memory_analysis()
  costs = program.cost_analysis() or {}
  share = 1 / mesh.size
  return Plan(
    topology=topology,
    mesh=dict(mesh.shape),
    parameters=sum(x.size for x in jax.tree.leaves(state["params"])),
    weights=local_bytes(state["params"]),
    moments=local_bytes(state["opt_state"]),
    batch=local_bytes(batch),
    temporaries=memory.temp_size_in_bytes,
    model_flops=3 * whole * share,
    step_flops=flops.count(traced.jaxpr, mesh.size) * share,
    kernel_flops=3 * (whole - own) * share,
    moved=costs.get("bytes accessed", 0.0),
    program=hlo.read(program.as_text()),
    compile_seconds=seconds,
  )


def without_data(cfg: ConfigDict) -> ConfigDict:
  """The same shapes from a stand-in for the data, and for the vocabulary made of them."""
  cfg = ConfigDict(cfg.to_dict())
  for section in (cfg.task, *cfg.task.get("parts", {}).values()):
    if "data" in section:
      section.data = ConfigDict(dict(name="blank"))
  cfg.model.vocab_size = cfg.model.vocab_size or cfg.task.tokenizer.get("vocab_size", 256)
  return cfg


def batch_of(task, rows: int) -> dict[str, np.ndarray]:
  """A batch of empty rows."""
  items = task.items("train")
  start = {"start": items.start} if task.target_len else {}
  sizes = dict(source_len=task.source_len, target_len=task.target_len)
  return packing.fill([[]] * rows, {}, extras=items.extras, **sizes, **start)


def local_bytes(tree) -> int:
  """What a device holds of it."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def forward_flops(cfg, task, tx, mesh, state, batch) -> int:
  """FLOPs of the forward pass, all devices together."""
  step = make_eval_step(task, loop.blueprint(cfg, task, tx, mesh)[0])
  with sharding.kernels_over(mesh):
    return flops.count(step.trace(state["params"], batch).jaxpr, mesh.size)


def warnings(plan: Plan, cfg) -> list[str]:
  """What is known to hurt."""
  found, program = [], plan.program
  if (permutes := program.count("collective-permute")) > MANY_PERMUTES:
    found.append(
      f"{permutes} collective-permutes: XLA turned gathers of weights into windowed einsums; try"
      " LIBTPU_INIT_ARGS=--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"
    )
  repeated = [one for one, times in program.collectives.items() if times >= REPEATED]
  if big := [one for one in repeated if one.bytes > plan.weights / REPEATED]:
    found.append(
      f"{big[0].kind} of {big[0].bytes / 1e6:.0f} MB {program.collectives[big[0]]} times a step"
      f" ({big[0].origin}): once a chunk or microbatch, where once would do"
    )
  if cfg.model.scan_layers and cfg.model.remat == "none":
    found.append("model.scan_layers without model.remat: activations of all layers are stacked")
  if program.random_bits:
    found.append(f"random bits are drawn by a generator, {sum(program.random_bits.values())} times")
  if program.endless:
    found.append(f"{len(program.endless)} loops of unknown length are counted once")
  return found


def show(plan: Plan, notes: list[str], console: Console) -> None:
  """The plan as tables."""
  chip, program = plan.topology.chip, plan.program
  mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "1 chip"
  console.print(
    f"{plan.parameters / 1e6:,.1f}M parameters on {plan.topology.name} ({mesh}), compiled in"
    f" {plan.compile_seconds:.0f} s"
  )
  memory = Table("memory of a chip", "GB", title_justify="left")
  for name in ("weights", "moments", "batch", "temporaries"):
    memory.add_row(name, f"{getattr(plan, name) / 1e9:.3f}")
  told = "fits" if plan.fits else "DOES NOT FIT"
  memory.add_row(f"in all, {told}", f"{plan.memory / 1e9:.3f} of {chip.memory / 1e9:.0f}")
  console.print(memory)
  wire = Table("collectives of a step", "times", "MB", "the largest stems from")
  for kind in hlo.KINDS:
    if times := program.count(kind):
      largest = max((one for one in program.collectives if one.kind == kind), key=lambda x: x.bytes)
      wire.add_row(kind, str(times), f"{program.bytes(kind) / 1e6:,.1f}", largest.origin)
  console.print(wire)
  cost = Table("a step on a chip", "", "by")
  cost.add_row("model", f"{plan.model_flops / 1e12:.3f} TFLOP", "3 x forward, nothing masked out")
  computed = (plan.step_flops + plan.kernel_flops) / 1e12
  cost.add_row("computed", f"{computed:.3f} TFLOP", "matrix products, repeated ones too")
  if plan.kernel_flops:
    cost.add_row(
      "attention kernels",
      f"{1e3 * plan.kernel_seconds:.1f} ms",
      f"{sum(program.kernels.values())} calls at {KERNEL_SHARE:.0%} of peak",
    )
  cost.add_row(
    "wire", f"{1e3 * plan.wire_seconds:.1f} ms", f"rings at {chip.wire / 1e9:.0f} GB/s, no overlap"
  )
  if plan.cycle_seconds:
    own = 1e3 * program.cycles / chip.clock
    cost.add_row("compiler's cycles", f"{own:.1f} ms", f"at {chip.clock / 1e9:.2f} GHz")
  cost.add_row(
    "roofline",
    f"{1e3 * plan.roofline_seconds:.1f} ms",
    f"{chip.flops / 1e12:.0f} TFLOP/s, {chip.bandwidth / 1e9:,.0f} GB/s, wire and kernels added",
  )
  best = "cycles, kernels and wire" if plan.cycle_seconds else "the roofline"
  cost.add_row("estimate", f"{1e3 * plan.seconds:.1f} ms, MFU {plan.mfu:.1%}", best)
  console.print(cost)
  for note in notes:
    console.print(f"note: {note}")


def main(argv):
  cfg, rest = flags.parse(argv)
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--topology", default="v5e:2x2")
  args = parser.parse_args(rest)
  topology = chips.parse(args.topology)
  console = Console(width=None if sys.stdout.isatty() else 110)
  plan = make(cfg, topology)
  show(plan, warnings(plan, cfg), console)


if __name__ == "__main__":
  from train.cli import run

  run(main)
