"""Weak scaling on paper: more chips, each with the same work, from one compiled step."""

from rich.table import Table

from train.common.errors import UserError
from train.planning.estimate import Plan

CHIPS = (1, 4, 16, 64, 256, 512, 1024, 4096)


def scaled(plan: Plan, rows: int, chips_in_all: int) -> dict[str, float] | None:
  """The same work on each of so many chips, on paper; None where the mesh does not divide them.

  The axis data grows, the others stay; what goes along it is sent in longer rings, and between
  slices at the network's speed. UserError for a plan that shows no such exchange.
  """
  if plan.mesh["data"] < 2 or plan.program.between_slices:
    raise UserError("--table wants a mesh of one slice with mesh.data of 2 or more")
  chip = plan.topology.chip
  others = plan.mesh["fsdp"] * plan.mesh["tensor"]
  if chips_in_all % others:
    return None
  data = chips_in_all // others
  slices = max(1, chips_in_all // chip.slice)
  inside = between = 0.0
  for one, times in plan.program.collectives.items():
    if "data" not in one.axes(plan.mesh):
      inside += times * one.wire_bytes
      continue
    group = one.group // plan.mesh["data"] * data // slices
    inside += times * one.sent_among(group)
    between += times * 2 * (slices - 1) / slices * one.bytes / group
  wire = inside / chip.wire + between / chip.network
  return dict(
    rows=rows // plan.mesh["data"] * data,
    wire=wire,
    seconds=plan.computing_seconds + wire,
    overlapped=max(plan.computing_seconds, wire),
  )


def weak(plan: Plan, rows: int) -> dict[int, dict[str, float]]:
  """`scaled` for 1 to 4,096 chips, and the 512 of Shoeybi et al. 2019; with the efficiency, which
  is of the smallest number that the mesh divides."""
  found = {chips: scaled(plan, rows, chips) for chips in CHIPS}
  found = {chips: one for chips, one in found.items() if one}
  first = next(iter(found.values()))["seconds"]
  for one in found.values():
    one["efficiency"] = 100 * first / one["seconds"]
    one["best"] = 100 * min(1.0, first / one["overlapped"])
  return found


def table(found: dict[int, dict[str, float]]) -> Table:
  shown = Table("chips", "rows a step", "wire, ms", "a step, ms", "efficiency", "if all overlaps")
  for chips_in_all, one in found.items():
    shown.add_row(
      f"{chips_in_all:,}",
      f"{one['rows']:,}",
      f"{1e3 * one['wire']:.1f}",
      f"{1e3 * one['seconds']:.1f}",
      f"{one['efficiency']:.1f}%",
      f"{one['best']:.1f}%",
    )
  return shown
