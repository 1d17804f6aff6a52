"""Parses a compiled program's text (HLO) into computations and their operations."""

import dataclasses
import functools
import math
import re

WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
WIDTHS |= {"s64": 8, "u64": 8, "f64": 8}  # others: 4

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Operation:
  """A line of a computation: `%name = shape kind(arguments), attributes`."""

  name: str
  shape: str
  kind: str
  arguments: str
  attributes: str

  @functools.cached_property
  def operands(self) -> list[str]:
    """Returns the names of the operations whose results are read."""
    return re.findall(r"%([\w.\-]+)", self.arguments)

  @functools.cached_property
  def size(self) -> int:
    """Returns the bytes of the result, without a library call's workspace, which caches hold."""
    workspace = r"\bs8\[\d+\]" if "custom_call_target" in self.attributes else r"$^"
    return sum(sizes(re.sub(workspace, "", self.shape)))

  @property
  def origin(self) -> str:
    """Returns the name that jax gave to the operation, or "" where there is none."""
    match = re.search(r'op_name="([^"]*)"', self.attributes)
    return match[1] if match else ""

  def called(self, role: str = "to_apply|calls|called_computations") -> str | None:
    """Returns the first computation that the attribute `role` names, or None."""
    match = re.search(rf"\b(?:{role})=\{{?%?([\w.\-]+)", self.attributes)
    return match[1] if match else None


def parse(text: str) -> tuple[dict[str, dict[str, Operation]], str]:
  """Returns the operations of each computation, both by name, and the entry computation's name."""
  lines, name, entry = {}, None, None
  for line in text.splitlines():
    if name is None:
      if head := _HEAD.match(line):
        name = head[2]
        lines[name] = []
        entry = name if head[1] else entry
    elif line == "}":
      name = None
    elif line.startswith("  "):
      lines[name].append(line)
    elif lines[name]:  # a kernel's attributes may have lines of their own
      lines[name][-1] += line
  computations = {}
  for name, body in lines.items():
    operations = [Operation(*match.groups()) for match in map(_OPERATION.match, body) if match]
    computations[name] = {operation.name: operation for operation in operations}
  return computations, entry


def sizes(shape: str) -> list[int]:
  """Returns the bytes of each array in a shape's text, `(bf16[8,64]{1,0}, f32[])` for example."""
  return [
    math.prod(int(size or 1) for size in dims.split(",")) * WIDTHS.get(dtype, 4)
    for dtype, dims in _ARRAY.findall(shape)
  ]
