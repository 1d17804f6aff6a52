"""Bytes that operations read and write in memory, of a program's text, where a compiler tells none.

An operation that is run by itself, a fusion too, reads its operands and writes its result; of what
it only slices or updates in part that part counts. Caches are not thought of.
"""

import re

# They move nothing, or what is in them is counted by itself.
FREE = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
  *("while", "conditional", "call", "async-start", "async-done", "copy-done", "partition-id"),
}
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)")


class Operation:
  """A line of a computation: `%name = shape kind(operands), more`."""

  def __init__(self, found, size):
    self.name, shape, self.kind, operands, self.more = found.groups()
    self.operands = re.findall(r"%([\w.\-]+)", operands)
    if "custom_call_target" in self.more:  # a library's workspace stays in its cache
      shape = re.sub(r"\bs8\[\d+\]", "", shape)
    self.size = size(shape)
    self.number = int(operands) if self.kind == "parameter" else None


class Traffic:
  """Of the computations `bodies` (name -> lines); `size` tells the bytes of a shape."""

  def __init__(self, bodies, size):
    self.bodies, self.bytes_of, self.read = bodies, size, {}

  def of(self, name: str) -> float:
    """What the computation `name` reads and writes in one run, but for those that it calls."""
    within = self._operations(name)
    return sum(self._moved(one, within) for one in within.values())

  def _moved(self, one, within):
    if one.kind in FREE or one.kind.startswith(("all-", "reduce-scatter", "collect")):
      return 0
    if one.kind == "fusion" and (called := re.search(r"calls=%?([\w.\-]+)", one.more)):
      return self._fusion(one, within, self._operations(called[1]))
    return self._part(one, within)

  def _operations(self, name):
    if name not in self.read:
      lines = filter(None, map(_LINE.match, self.bodies[name]))
      operations = (Operation(found, self.bytes_of) for found in lines)
      self.read[name] = {one.name: one for one in operations}
    return self.read[name]

  def _part(self, one, within):
    sizes = [within[name].size if name in within else 0 for name in one.operands]
    if one.kind in ("dynamic-slice", "slice", "gather"):
      return 2 * one.size
    if one.kind == "dynamic-update-slice":
      return 2 * sizes[1]
    return one.size + sum(sizes)

  def _fusion(self, one, within, inner):
    parameters = {it.number: it.name for it in inner.values() if it.kind == "parameter"}
    total = 0
    for number, name in enumerate(one.operands):
      users = [it for it in inner.values() if parameters.get(number) in it.operands]
      whole = within[name].size if name in within else 0
      total += min(whole, sum(self._read_of(it, parameters[number], whole) for it in users))
    root = list(inner.values())[-1]
    results = [inner[name] for name in root.operands] if root.kind == "tuple" else [root]
    return total + sum(
      inner[it.operands[1]].size if it.kind == "dynamic-update-slice" else it.size for it in results
    )

  def _read_of(self, user, name, whole):
    if user.kind in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
      return user.size
    if user.kind == "dynamic-update-slice" and user.operands[0] == name:
      return 0  # in place
    return whole
