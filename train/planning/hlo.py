"""Counts what one run of a compiled program does, from its text (HLO): the compiler's cycles,
collectives, kernels and memory traffic.

XLA's `cost_analysis` counts a loop's body once, and collectives and Pallas kernels not at all.
Here every computation counts as often as it runs.
"""

import collections
import dataclasses
import math
import re

import numpy as np

from train.planning import traffic
from train.planning.operations import Operation, parse, sizes

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
CALLS = ("call", "custom-call", "async-start", "fusion")
KERNELS = ('custom_call_target="tpu_custom_call"', "__cudnn$fmha")


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation. `bytes` is the size on each device; for all-gather and reduce-scatter,
  that of the whole array."""

  kind: str
  bytes: int
  devices: tuple[int, ...]  # the first group that exchanges, by places in the mesh
  origin: str  # the operation it stems from, as jax names it

  @property
  def group(self) -> int:
    """Returns how many devices exchange with each other."""
    return len(self.devices)

  def axes(self, mesh: dict[str, int]) -> tuple[str, ...]:
    """Returns the axes of the mesh along which the devices of a group differ."""
    places = np.unravel_index(np.array(self.devices), tuple(mesh.values()))
    return tuple(axis for axis, place in zip(mesh, places) if len(set(place.tolist())) > 1)

  @property
  def wire_bytes(self) -> float:
    """Returns the bytes that a device sends, in a ring."""
    return self.bytes_sent(self.group)

  def bytes_sent(self, group: int) -> float:
    """Returns the bytes that a device would send in a ring of `group` devices."""
    share = (group - 1) / group
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
    return factor * self.bytes


@dataclasses.dataclass
class Program:
  """Sums over one run of a program, on one device."""

  cycles: int = 0  # as the compiler estimates each operation
  moved: int = 0  # bytes to and from memory, by train/planning/traffic.py
  kernels: int = 0  # calls of attention kernels
  collectives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  random_bits: int = 0  # calls of the random bit generator
  between_slices: int = 0  # bytes sent
  endless_loops: int = 0  # loops of unknown length, counted once

  def count(self, kind: str) -> int:
    """Returns how many collectives of a kind run."""
    return sum(times for each, times in self.collectives.items() if each.kind == kind)

  @property
  def wire_bytes(self) -> float:
    """Returns the bytes that a device sends."""
    return sum(each.wire_bytes * times for each, times in self.collectives.items())


def read(text: str) -> Program:
  """Reads the text of a compiled program, `compiled.as_text()`."""
  reader = _Reader(text)
  reader.visit(reader.entry, 1)
  return reader.program


class _Reader:
  """Adds up what computations do, from the entry on."""

  def __init__(self, text):
    self.computations, self.entry = parse(text)
    partitions = re.search(r"num_partitions=(\d+)", text)
    self.everyone = tuple(range(int(partitions[1]) if partitions else 2))
    self.program = Program()
    self.chained = set()  # channels of collectives that a TPU splits over several fusions

  def visit(self, name, times, fused=False):
    """Counts the computation `name` `times` times; `fused` operations move nothing themselves."""
    program = self.program
    if not fused:
      program.moved += times * traffic.moved(name, self.computations)
    for operation in self.computations[name].values():
      kind, attributes = operation.kind, operation.attributes
      if cycles := re.search(r'"estimated_cycles":"(\d+)"', attributes):
        program.cycles += times * int(cycles[1])
      if any(target in attributes for target in KERNELS):
        program.kernels += times
      if kind.removesuffix("-start") in KINDS:
        self.count_collective(name, operation, times)
      elif kind == "send" and "xla_megascale_runtime" in attributes:
        program.between_slices += times * sum(sizes(operation.shape.partition(", u32")[0]))
      elif kind == "rng-bit-generator":
        program.random_bits += times
      elif kind == "while":
        trips = _trips(attributes, self.computations[operation.called("condition")])
        program.endless_loops += trips is None
        self.visit(operation.called("body"), times * (trips or 1))
      elif kind == "conditional":  # one branch runs: the first stands for all
        self.visit(operation.called("branch_computations|true_computation"), times)
      elif kind in CALLS and (called := operation.called()):
        self.visit(called, times, fused=kind == "fusion")

  def count_collective(self, name, operation, times):
    # A TPU repeats a collective in each of the fusions that it overlaps with.
    channel = re.search(r'channel_id=(\d+).*chain_id="', operation.attributes)
    if channel is None or channel[1] not in self.chained:
      collective = _collective(operation, self.everyone)
      if name.startswith("all-reduce-scatter"):  # a TPU's text for a reduce-scatter
        collective = dataclasses.replace(collective, kind="reduce-scatter")
      self.program.collectives[collective] += times
    if channel:
      self.chained.add(channel[1])


def _trips(attributes, condition) -> int | None:
  """Returns how often a loop runs, or None where the text has no number."""
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', attributes):
    return int(known[1])
  constants = [x for x in condition.values() if x.kind == "constant"]
  limits = [x.arguments for x in constants if x.shape.startswith(("s32[]", "u32[]"))]
  less = any("direction=LT" in x.attributes for x in condition.values())  # `i < constant`
  return int(limits[0]) if limits and less else None


def _collective(operation: Operation, everyone) -> Collective:
  kind = operation.kind.removesuffix("-start")
  group = _first_group(operation.attributes) or everyone
  size = sum(sizes(operation.shape))
  if kind == operation.kind or kind == "all-reduce":
    if kind == "reduce-scatter":
      size *= len(group)  # the whole, not the part
  elif kind in ("all-gather", "reduce-scatter"):
    size = size * len(group) // (len(group) + 1)  # -start holds wholes and, of each, one part
  else:
    size = max(sizes(operation.shape))
  return Collective(kind, size, group, operation.origin)


def _first_group(attributes) -> tuple[int, ...]:
  """Returns the first group of devices; () stands for all.

  The text has `{{0,1},{2,3}}`, `[2,4]<=[4,2]T(1,0)` or `mesh['a'=2,'b'=2] {'b'}`; a permute has
  pairs, of which the first counts.
  """
  if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", attributes):
    axes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
    within = re.findall(r"'([^']+)'", mesh[2])
    order = [*(axis for axis in axes if axis not in within), *within]
    ids = re.search(r"device_ids=\((.*?)\) \{", attributes)
    places = _device_ids(ids[1]) if ids else np.arange(math.prod(axes.values()))
    places = places.reshape(*axes.values()).transpose([list(axes).index(axis) for axis in order])
    return tuple(places.reshape(-1, math.prod(axes[axis] for axis in within))[0].tolist())
  iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes)
  if iota:
    return tuple(_device_ids(iota[2])[: int(iota[1])].tolist())
  listed = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", attributes)
  return tuple(int(device) for device in listed[1].split(",")) if listed else ()


def _device_ids(text) -> np.ndarray:
  """Parses `[2,4]T(1,0)`, which is range(8) reshaped and transposed, or a list such as `0,2,1`."""
  if not (iota := re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)):
    return np.array([int(number) for number in re.findall(r"\d+", text)])
  dims = [int(size) for size in iota[1].split(",")]
  order = [int(axis) for axis in iota[2].split(",")] if iota[2] else None
  return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(-1)
