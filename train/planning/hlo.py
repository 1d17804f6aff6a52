"""What a compiled program does in one run, read from its text (HLO): cycles, collectives, kernels.

XLA's own `cost_analysis` counts the body of a loop once, collectives and Pallas kernels not at all.
Here loops are multiplied out: every computation is visited as often as it runs.
"""

import collections
import dataclasses
import math
import re

import numpy as np

from train.planning.traffic import Traffic

WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
WIDTHS |= {"s64": 8, "u64": 8, "f64": 8}  # others: 4
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\((.*)")
_CALLS = re.compile(r"\b(?:to_apply|calls|called_computations)=\{?%?([\w.\-]+)")
_WHILE = re.compile(r"\bwhile\(.*condition=%?([\w.\-]+).*body=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
  """An exchange of `bytes` on each device (of the whole, where it is gathered)."""

  kind: str
  bytes: int
  devices: tuple[int, ...]  # the first group of those that exchange, by their place in the mesh
  origin: str  # the operation it stems from, as jax names it

  @property
  def group(self) -> int:
    """How many devices exchange with each other."""
    return len(self.devices)

  def axes(self, mesh: dict[str, int]) -> tuple[str, ...]:
    """Of a mesh, those along which it goes."""
    places = np.unravel_index(np.array(self.devices), tuple(mesh.values()))
    return tuple(axis for axis, place in zip(mesh, places) if len(set(place.tolist())) > 1)

  @property
  def wire_bytes(self) -> float:
    """What a device sends, in a ring."""
    return self.sent_among(self.group)

  def sent_among(self, group: int) -> float:
    """What it would send in a ring of so many."""
    share = (group - 1) / group
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
    return factor * self.bytes


@dataclasses.dataclass
class Program:
  """How often things happen in one run of a program."""

  partitions: int = 2  # devices, where a collective does not say which
  cycles: int = 0  # as the compiler estimates each operation
  moved: float = 0.0  # bytes to and from memory, as train/planning/traffic.py counts
  kernels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  collectives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  random_bits: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  chained: set = dataclasses.field(default_factory=set)  # channels of those done beside others
  between_slices: float = 0.0  # bytes sent by a chip
  endless: list[str] = dataclasses.field(default_factory=list)  # loops counted once

  def count(self, kind: str) -> int:
    return sum(times for one, times in self.collectives.items() if one.kind == kind)

  def bytes(self, kind: str) -> int:
    return sum(one.bytes * n for one, n in self.collectives.items() if one.kind == kind)

  @property
  def wire_bytes(self) -> float:
    """What a device sends in all."""
    return sum(one.wire_bytes * times for one, times in self.collectives.items())


def read(text: str) -> Program:
  """The program of `compiled.as_text()`."""
  bodies, root = computations(text)
  found = re.search(r"num_partitions=(\d+)", text)
  program = Program(partitions=int(found[1]) if found else 2)
  _visit(program, bodies, Traffic(bodies, _bytes), root, 1)
  return program


def computations(text: str) -> tuple[dict[str, list[str]], str]:
  """The lines of each computation by name, and the name of the one that is run."""
  bodies, name, root = {}, None, None
  for line in text.splitlines():
    if name is None:
      if head := _HEAD.match(line):
        name = head[2]
        bodies[name] = []
        root = name if head[1] else root
    elif line == "}":
      name = None
    elif line.startswith("  "):
      bodies[name].append(line)
    elif bodies[name]:  # a kernel's attributes may have lines of their own
      bodies[name][-1] += line
  return bodies, root


def _visit(program, bodies, traffic, name, times):
  """`traffic` is None within a fusion, whose operations move nothing by themselves."""
  if traffic:
    program.moved += times * traffic.of(name)
  for line in bodies[name]:
    if found := re.search(r'"estimated_cycles":"(\d+)"', line):
      program.cycles += times * int(found[1])
    if found := _COLLECTIVE.search(line):
      shape, kind, start, rest = found.groups()
      # A TPU repeats what it does beside others in each of those it does it beside.
      channel = re.search(r'channel_id=(\d+).*chain_id="', rest)
      if channel is None or channel[1] not in program.chained:
        one = _collective(shape, kind, start, rest, tuple(range(program.partitions)))
        if name.startswith("all-reduce-scatter"):  # how a TPU writes one
          one = dataclasses.replace(one, kind="reduce-scatter")
        program.collectives[one] += times
      if channel:
        program.chained.add(channel[1])
    if "xla_megascale_runtime" in line and (found := re.search(r"= \((.*?), u32.* send\(", line)):
      program.between_slices += times * _bytes(found[1])
    if 'custom_call_target="tpu_custom_call"' in line or "__cudnn$fmha" in line:
      program.kernels[_origin(line)] += times
    if found := re.search(r"= (.*?) rng-bit-generator\(", line):
      program.random_bits[_bytes(found[1])] += times
    if found := _WHILE.search(line):
      condition, body = found.groups()
      trips = _trips(line, bodies[condition])
      if trips is None:
        program.endless.append(body)
      _visit(program, bodies, traffic, body, times * (trips or 1))
    elif found := _BRANCHES.search(line):  # one of them runs: the first stands for all
      _visit(program, bodies, traffic, found[1].split(",")[0].strip().lstrip("%"), times)
    elif re.search(r"\b(call|async-start|fusion)\(", line) and (found := _CALLS.search(line)):
      _visit(program, bodies, None if " fusion(" in line else traffic, found[1], times)


def _trips(line, condition) -> int | None:
  """How often a loop runs; None if its text does not say."""
  if found := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line):
    return int(found[1])
  text = "\n".join(condition)  # `i < constant`
  found = re.search(r"[su]32\[\]\S* constant\((\d+)\)", text)
  return int(found[1]) if found and "direction=LT" in text else None


def _collective(shape, kind, start, rest, everyone) -> Collective:
  shapes = [_bytes(f"{one[0]}[{one[1]}]") for one in _SHAPE.findall(shape)]
  group = _group(rest) or everyone
  if not start or kind == "all-reduce":
    size = sum(shapes) * (len(group) if kind == "reduce-scatter" else 1)  # the whole, not the part
  elif kind in ("all-gather", "reduce-scatter"):  # what has begun holds its operands too:
    size = sum(shapes) * len(group) // (len(group) + 1)  # wholes, and of each one part
  else:
    size = max(shapes)
  return Collective(kind, size, group, _origin(rest))


def _group(rest) -> tuple[int, ...]:
  """The first group: of `{{0,1},{2,3}}`, `[2,4]<=[4,2]T(1,0)`, `mesh['a'=2,'b'=2] {'b'}`, or
  the first pair of a permute; empty where there is none of these: all."""
  if found := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", rest):
    sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
    within = re.findall(r"'([^']+)'", found[2])
    order = [*(axis for axis in sizes if axis not in within), *within]
    ids = re.search(r"device_ids=\((.*?)\) \{", rest)
    places = _ids(ids[1]) if ids else np.arange(math.prod(sizes.values()))
    places = places.reshape(*sizes.values())
    places = places.transpose([list(sizes).index(axis) for axis in order])
    return tuple(places.reshape(-1, math.prod(sizes[axis] for axis in within))[0].tolist())
  if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", rest):
    return tuple(_ids(found[3]).reshape(int(found[1]), int(found[2]))[0].tolist())
  if found := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", rest):
    return tuple(int(device) for device in found[1].split(","))
  return ()


def _ids(text) -> np.ndarray:
  """Of `[2,4]T(1,0)`, the numbers from 0 on, so shaped and transposed; of `0,2,1,3`, these."""
  if not (found := re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)):
    return np.array([int(one) for one in re.findall(r"\d+", text)])
  dims = [int(size) for size in found[1].split(",")]
  order = [int(axis) for axis in found[2].split(",")] if found[2] else range(len(dims))
  return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(-1)


def _bytes(shape) -> int:
  size = 0
  for kind, dims in _SHAPE.findall(shape):
    size += math.prod(int(dim or 1) for dim in dims.split(",")) * WIDTHS.get(kind, 4)
  return size


def _origin(text) -> str:
  found = re.search(r'op_name="([^"]*)"', text)
  return found[1] if found else ""
