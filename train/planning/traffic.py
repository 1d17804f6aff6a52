"""Estimates the bytes that a program's operations move to and from memory, from its text.

Each operation, a fusion included, reads its operands and writes its result; where it slices or
updates only a part, that part counts. Caches are ignored.
"""

from train.planning.operations import Operation

# These operations move nothing, or call computations that are counted by themselves.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
FREE |= {"while", "conditional", "call", "async-start", "async-done", "copy-done", "partition-id"}
SLICES = ("dynamic-slice", "slice", "gather")


def moved(name: str, computations: dict[str, dict[str, Operation]]) -> int:
  """Returns the bytes that one run of the computation `name` moves, without those it calls."""
  operations = computations[name]
  return sum(moved_by(operation, operations, computations) for operation in operations.values())


def moved_by(
  operation: Operation,
  operations: dict[str, Operation],
  computations: dict[str, dict[str, Operation]],
) -> int:
  """Returns the bytes that one of the `operations` of a computation moves, without what it calls
  unless it is a fusion."""
  if operation.kind in FREE or operation.kind.startswith(("all-", "reduce-scatter", "collect")):
    return 0
  sizes = [operations[x].size if x in operations else 0 for x in operation.operands]
  if operation.kind == "fusion" and (fused := operation.called("calls")):
    return _moved_by_fusion(sizes, computations[fused])
  if operation.kind in SLICES:
    return 2 * operation.size
  if operation.kind == "dynamic-update-slice":
    return 2 * sizes[1]
  return operation.size + sum(sizes)


def _moved_by_fusion(sizes, fused):
  """Returns the bytes moved by the operations `fused`, whose parameters have these `sizes`."""
  total, *_, root = 0, *fused.values()
  for parameter in fused.values():
    if parameter.kind == "parameter":
      size = sizes[int(parameter.arguments)]
      users = [user for user in fused.values() if parameter.name in user.operands]
      total += min(size, sum(_read(user, parameter, size) for user in users))
  results = [fused[name] for name in root.operands] if root.kind == "tuple" else [root]
  for result in results:
    in_place = result.kind == "dynamic-update-slice"
    total += fused[result.operands[1]].size if in_place else result.size
  return total


def _read(user, parameter, size):
  """Returns how many bytes of the parameter its `user` reads."""
  if user.operands[0] != parameter.name:
    return size
  if user.kind in SLICES:
    return user.size
  return 0 if user.kind == "dynamic-update-slice" else size
