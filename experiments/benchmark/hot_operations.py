"""Reduces a profiler's trace of a compiled program to its costliest operations."""

import collections
import math
import pathlib
import re

import jax

from train.planning import operations, traffic
from train.planning.operations import Operation

COUNT = 20
HEADING = ["operation", "share", "us a step", "times", "GB/s", "TFLOP/s", "origin"]
CONTAINERS = ("while", "conditional", "call")
# The contracted axes of a dot, as HLO and as a GPU's library calls write them.
CONTRACTED = re.compile(r'lhs_contracting_(?:dims=\{|dimensions":\[)([\d,"]*)')
DIMENSIONS = re.compile(r"\[([\d,]*)\]")


def costliest(folder: pathlib.Path, text: str, steps: int) -> list[list[str]]:
  """Returns a table of the COUNT operations with the most time in a trace of `steps` runs of the
  program `text`: share of all time, microseconds and calls a step, and what they move and multiply
  in a second by the program's text, where it says so."""
  spent, times = _spent(folder)
  computations, _ = operations.parse(text)
  places = {name: body for body in computations.values() for name in body}
  for name in [name for name in spent if name in places and places[name][name].kind in CONTAINERS]:
    del spent[name]  # their operations have events of their own
  total, rows = sum(spent.values()), [HEADING]
  for name, nanoseconds in spent.most_common(COUNT):
    row = [name, f"{nanoseconds / total:.1%}", f"{nanoseconds / steps / 1e3:,.0f}"]
    row.append(f"{times[name] / steps:g}")
    if body := places.get(name):
      each, operation = nanoseconds / times[name], body[name]  # bytes / ns are GB/s
      moved = traffic.moved_by(operation, body, computations) / each
      work = multiplied(operation, body, computations) / each / 1e3
      row += [f"{moved:,.0f}", f"{work:,.1f}" if work else "", operation.origin[-80:]]
    rows.append(row + [""] * (len(HEADING) - len(row)))
  return rows


def _spent(folder):
  """Returns the nanoseconds and the number of the events of each operation in a trace."""
  spent, times = collections.Counter(), collections.Counter()
  for file in pathlib.Path(folder).rglob("*.xplane.pb"):
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
      for line in plane.lines:
        for event in line.events:
          if name := _operation(event, line):
            spent[name] += event.duration_ns
            times[name] += 1
  return spent, times


def _operation(event, line) -> str:
  """Returns the operation of an event, "" for an event of something else; a TPU's are on a line of
  their own, with the text of the operation as their names."""
  if line.name == "XLA Ops":
    return event.name.removeprefix("%").partition(" ")[0]
  return next((str(value) for key, value in event.stats if key == "hlo_op"), "")


def multiplied(operation: Operation, body, computations) -> int:
  """Returns the FLOPs of an operation's matrix products, those of a fusion's operations included;
  0 for a kernel, whose text does not say."""
  if operation.kind == "fusion":
    fused = computations.get(operation.called("calls") or "", {})
    return sum(multiplied(each, fused, computations) for each in fused.values())
  axes = CONTRACTED.search(operation.attributes)
  if axes is None or not operation.operands or operation.operands[0] not in body:
    return 0
  shape = _dimensions(body[operation.operands[0]].shape)
  contracted = [shape[int(axis)] for axis in axes[1].replace('"', "").split(",") if axis]
  return 2 * math.prod(_dimensions(operation.shape)) * math.prod(contracted)


def _dimensions(shape: str) -> list[int]:
  """Returns the dimensions of the first array in a shape's text."""
  match = DIMENSIONS.search(shape)
  return [int(size) for size in match[1].split(",") if size] if match else []
