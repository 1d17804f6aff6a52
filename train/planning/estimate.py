"""What a train step takes on chips that are not here: compiled for them, and read.

Nothing runs: the sizes are the compiler's, the times are estimates. No data is needed either: the
shapes are the config's.
"""

import dataclasses
import math
import re
import tempfile
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from train import optimizer, pretrained, sharding
from train.common.errors import UserError
from train.data import packing
from train.planning import chips, flops, hlo
from train.state import blueprint
from train.step import make_eval_step, make_train_step, settings

KERNEL_SHARE = 0.5  # of peak, that a fused attention kernel reaches


class DoesNotFit(UserError):
  """The compiler found no way to lay out the step in a chip's memory; `needed` are bytes."""

  def __init__(self, topology: chips.Topology, needed: float):
    super().__init__(
      f"needs {needed / 1e9:.1f} GB of the {topology.chip.memory / 1e9:.0f} of a chip"
    )
    self.needed = needed


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
    """Within a slice and between slices."""
    chip = self.topology.chip
    return self.program.wire_bytes / chip.wire + self.program.between_slices / chip.network

  @property
  def kernel_seconds(self) -> float:
    return self.kernel_flops / (KERNEL_SHARE * self.topology.chip.flops)

  @property
  def cycle_seconds(self) -> float | None:
    """Of the compiler's cycles, without kernels and wire; None where it tells none."""
    clock = self.topology.chip.clock
    return self.program.cycles / clock if clock and self.program.cycles else None

  @property
  def serial_seconds(self) -> float:
    """Of computing and of moving bytes to and from memory, one after the other, both at the chip's
    best: a GPU's kernels do not overlap, and few of them do much of both."""
    chip = self.topology.chip
    return self.step_flops / chip.flops + self.program.moved / chip.bandwidth

  @property
  def computing_seconds(self) -> float:
    """All but the wire."""
    return (self.cycle_seconds or self.serial_seconds) + self.kernel_seconds

  @property
  def seconds(self) -> float:
    return self.computing_seconds + self.wire_seconds

  @property
  def mfu(self) -> float:
    """Model FLOPs over what the chip could do in that time (Chowdhery et al. 2022, PaLM)."""
    return self.model_flops / self.topology.chip.flops / self.seconds


def make(cfg: ConfigDict, topology: chips.Topology) -> Plan:
  """Compiles the train step of `cfg` for the topology.

  UserError where the config cannot be run on it, and DoesNotFit where the compiler gives up for
  want of memory. (Where it does not, the plan may say that it does not fit.)
  """
  cfg = without_data(cfg)
  if cfg.parallelism != "jit":
    raise UserError(
      f"parallelism={cfg.parallelism} is compiled by jax for devices that are here: plan"
      " parallelism=jit"
    )
  mesh = sharding.make_mesh(cfg.mesh, chips.devices(topology))
  with tempfile.TemporaryDirectory() as folder:
    task = pretrained.build_task(cfg.task, folder)
    tx, _ = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
    graph, build, place = blueprint(cfg, task, tx, mesh)
    state = sharding.placed(jax.eval_shape(build), place)
    batch = batch_of(task, cfg.batch_size)
    batch = sharding.placed(batch, sharding.by_rows(batch, mesh))
  step = make_train_step(task, graph, tx, **settings(cfg))
  began = time.monotonic()
  with sharding.laid_over(mesh, cfg.mesh.sequence):
    traced = step.trace(state, batch)
    program = compiled(traced.lower(), topology)
  seconds = time.monotonic() - began
  own = whole = forward_flops(cfg, task, tx, mesh, state, batch)
  # what kernels hide is seen without them
  if cfg.model.name == "transformer" and cfg.model.attention_impl != "einsum":
    cfg.model.attention_impl = "einsum"
    whole = forward_flops(cfg, task, tx, mesh, state, batch)
  share = 1 / mesh.size
  return Plan(
    topology=topology,
    mesh=dict(mesh.shape),
    parameters=sum(x.size for x in jax.tree.leaves(state["params"])),
    weights=local_bytes(state["params"]),
    moments=local_bytes([state[key] for key in state.keys() & {"opt_state", "ema"}]),
    batch=local_bytes(batch),
    temporaries=program.memory_analysis().temp_size_in_bytes,
    model_flops=3 * whole * share,
    step_flops=flops.count(traced.jaxpr, mesh.size) * share,
    kernel_flops=3 * (whole - own) * share,
    program=hlo.read(text_of(program, topology)),
    compile_seconds=seconds,
  )


def compiled(lowered, topology):
  """The compiled program; DoesNotFit in place of XLA's own page of text."""
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise DoesNotFit(topology, needed(str(error))) from error


def text_of(program, topology) -> str:
  """The compiled program's text; UserError where the compiler cannot write what it made."""
  try:
    return program.as_text()
  except jax.errors.JaxRuntimeError as error:  # libtpu 0.0.52: some programs for v5p, async-update
    line, *_ = str(error).splitlines()
    raise UserError(
      f"compiled for {topology.name}, but its compiler cannot write the program that a plan is read"
      f" from ({line}): plan for another topology or mesh"
    ) from error


def needed(text: str) -> float:
  """Bytes that XLA says it would have needed; NaN if it does not."""
  units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
  # libtpu 0.0.52 says either, after different passes
  for told in (r"Used ([\d.]+)([KMGT]) of", r"\(([\d.]+)([KMGT])\) exceeds available"):
    if found := re.search(told, text):
      return float(found[1]) * units[found[2]]
  return math.nan


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
  step = make_eval_step(task, blueprint(cfg, task, tx, mesh)[0])
  with sharding.laid_over(mesh, cfg.mesh.sequence):
    return flops.count(step.trace(state["params"], batch).jaxpr, mesh.size)
