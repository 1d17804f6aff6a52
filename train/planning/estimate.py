"""Compiles a train step for chips that are not installed, and estimates its memory and time.

Nothing runs: sizes and cycles are the compiler's. No data is read: the config gives the shapes.
"""

import dataclasses
import math
import re
import tempfile
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from train import optimizer, pretrained, sharding, teaching
from train.build import without_kernels
from train.common import flops, trees
from train.common.errors import UserError
from train.data import batches
from train.planning import chips, hlo
from train.state import blueprint, make_graph
from train.step import make_eval_step, make_train_step, settings

KERNEL_SHARE = 0.5  # of peak FLOPs, assumed for fused attention kernels


class DoesNotFit(UserError):
  """The compiler cannot fit the step into a chip's memory; it would take `needed` bytes."""

  def __init__(self, topology: chips.Topology, needed: float):
    super().__init__(f"needs {needed / 1e9:.1f} of a chip's {topology.chip.memory / 1e9:.0f} GB")
    self.needed = needed


@dataclasses.dataclass(frozen=True)
class Plan:
  """The memory, work and estimated time of a compiled train step, on each chip."""

  topology: chips.Topology
  mesh: dict[str, int]
  parameters: int  # of all chips
  weights: int  # bytes
  moments: int  # bytes
  batch: int  # bytes
  temporaries: int  # bytes: activations, gradients, workspace
  model_flops: float  # three times the forward pass
  step_flops: float  # of matrix products outside of kernels, recomputed ones included
  kernel_flops: float  # of attention kernels
  program: hlo.Program
  compile_seconds: float

  @property
  def memory(self) -> int:
    """Returns the bytes of a chip's memory that the step takes."""
    return self.weights + self.moments + self.batch + self.temporaries

  @property
  def fits(self) -> bool:
    """Returns whether a chip has that much memory."""
    return self.memory <= self.topology.chip.memory

  @property
  def wire_seconds(self) -> float:
    """Returns the seconds of communication, within a slice and between slices."""
    chip = self.topology.chip
    return self.program.wire_bytes / chip.wire + self.program.between_slices / chip.network

  @property
  def kernel_seconds(self) -> float:
    """Returns the seconds in attention kernels, of which compilers estimate no time."""
    return self.kernel_flops / (KERNEL_SHARE * self.topology.chip.flops)

  @property
  def cycle_seconds(self) -> float | None:
    """Returns the seconds of the compiler's cycle estimates, without kernels and communication;
    None if the compiler estimates none."""
    clock = self.topology.chip.clock
    return self.program.cycles / clock if clock and self.program.cycles else None

  @property
  def serial_seconds(self) -> float:
    """Returns the seconds of all products at peak FLOPs plus all memory traffic at peak bandwidth:
    a GPU's kernels do not overlap, and few are bound by both."""
    chip = self.topology.chip
    return self.step_flops / chip.flops + self.program.moved / chip.bandwidth

  @property
  def computing_seconds(self) -> float:
    """Returns the seconds of everything but communication."""
    return (self.cycle_seconds or self.serial_seconds) + self.kernel_seconds

  @property
  def seconds(self) -> float:
    """Returns the seconds of a step if computation and communication do not overlap."""
    return self.computing_seconds + self.wire_seconds

  @property
  def mfu(self) -> float:
    """Returns model FLOPs over the chip's peak in that time (Chowdhery et al. 2022, PaLM)."""
    return self.model_flops / self.topology.chip.flops / self.seconds


def make_plan(cfg: ConfigDict, topology: chips.Topology) -> Plan:
  """Compiles the train step of `cfg` for the topology.

  Raises UserError for a config that cannot run on the topology, and DoesNotFit where the compiler
  runs out of memory. A plan without such an error may still have `fits` False.
  """
  cfg = without_data(cfg)
  if cfg.parallelism != "jit":
    raise UserError(
      f"parallelism={cfg.parallelism} compiles only for installed devices: plan parallelism=jit"
    )
  if cfg.distill.cache:
    raise UserError("distill.cache: a plan is of a teacher that is asked: set it to ''")
  mesh = sharding.make_mesh(cfg.mesh, chips.devices(topology))
  with tempfile.TemporaryDirectory() as folder:
    task = pretrained.build_task(cfg.task, folder)
    tx, _ = optimizer.build(cfg.optimizer, cfg.schedule, cfg.steps)
    plan, lesson = blueprint(cfg, task, tx, mesh), teaching.lesson(cfg, task, mesh)
    graph, state = plan.graph, plan.shapes
    params = trees.join(plan.base, state["params"])
    batch = blank_batch(task, cfg.batch_size)
    batch = sharding.abstract(batch, sharding.by_rows(batch, mesh))
  step = make_train_step(lesson.objective, graph, tx, **settings(cfg, mesh))
  began = time.monotonic()
  with sharding.activation_sharding(mesh, cfg.mesh.sequence):
    traced = step.trace(state, batch, lesson.shapes | ({"base": plan.base} if plan.base else {}))
    compiled, text = _compile(traced.lower(), topology)
  seconds = time.monotonic() - began
  outside_kernels = whole = forward_flops(cfg, task, mesh, params, batch)
  counted = without_kernels(cfg)
  if counted is not cfg:
    whole = forward_flops(counted, task, mesh, params, batch)
  return Plan(
    topology=topology,
    mesh=dict(mesh.shape),
    parameters=sum(x.size for x in jax.tree.leaves(params)),
    weights=local_bytes([state["params"], plan.base, lesson.shapes]),
    moments=local_bytes([state[key] for key in state.keys() & {"opt_state", "ema"}]),
    batch=local_bytes(batch),
    temporaries=compiled.memory_analysis().temp_size_in_bytes,
    model_flops=3 * whole / mesh.size,
    step_flops=flops.count(traced.jaxpr, mesh.size) / mesh.size,
    kernel_flops=3 * (whole - outside_kernels) / mesh.size,
    program=hlo.read(text),
    compile_seconds=seconds,
  )


def _compile(lowered, topology):
  """Returns the compiled program and its text, with the compiler's known failures as UserErrors."""
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise DoesNotFit(topology, _bytes_needed(str(error))) from error
  try:
    return compiled, compiled.as_text()
  except jax.errors.JaxRuntimeError as error:  # libtpu 0.0.52: some programs for v5p, async-update
    line, *_ = str(error).splitlines()
    raise UserError(
      f"compiled for {topology.name}, but its compiler cannot write the program's text, which a"
      f" plan is read from ({line}): plan for another topology or mesh"
    ) from error


def _bytes_needed(text) -> float:
  """Returns the bytes that a step needs by XLA's error message, or NaN if it contains none."""
  # libtpu 0.0.52 writes either, after different passes.
  match = re.search(r"Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds available", text)
  if not match:
    return math.nan
  size, unit = filter(None, match.groups())
  return float(size) * 1024 ** (1 + "KMGT".index(unit))


def without_data(cfg: ConfigDict) -> ConfigDict:
  """Returns the config with blank data of the same shapes, and with a vocabulary size, unless it is
  that of a tokenizer in a file."""
  cfg = ConfigDict(cfg.to_dict())
  for section in (cfg.task, *cfg.task.get("parts", {}).values()):
    if "data" in section:
      section.data = ConfigDict(dict(name="blank"))
  if cfg.task.tokenizer.name != "file":
    cfg.model.vocab_size = cfg.model.vocab_size or cfg.task.tokenizer.get("vocab_size", 256)
  return cfg


def blank_batch(task, rows: int) -> dict[str, np.ndarray]:
  """Returns a batch of `rows` empty rows."""
  build = batches.BatchBuilder(task.items("train"), task.source_len, task.target_len)
  return build([[]] * rows)


def local_bytes(tree) -> int:
  """Returns the bytes of `tree` that one device holds."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def forward_flops(cfg, task, mesh, params, batch) -> int:
  """Returns the FLOPs of the forward pass on all devices together."""
  step = make_eval_step(task, make_graph(cfg, task, mesh))
  with sharding.activation_sharding(mesh, cfg.mesh.sequence):
    return flops.count(step.trace(params, batch).jaxpr, mesh.size)
