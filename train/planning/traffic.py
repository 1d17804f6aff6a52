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
  operations, total = computations[name], 0
  for operation in operations.values():
    if operation.kind in FREE or operation.kind.startswith(("all-", "reduce-scatter", "collect")):
      continue
    sizes = [operations[x].size if x in operations else 0 for x in operation.operands]
    if operation.kind == "fusion" and (fused := operation.called("calls")):
      total += _moved_by_fusion(sizes, computations[fused])
    elif operation.kind in SLICES:
      total += 2 * operation.size
    elif operation.kind == "dynamic-update-slice":
      total += 2 * sizes[1]
    else:
      total += operation.size + sum(sizes)
  return total


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
