"""Projects one compiled step to more chips, each with the same work (weak scaling)."""

from rich.table import Table

from train.common.errors import UserError
from train.planning.estimate import Plan

CHIPS = (1, 4, 16, 64, 256, 512, 1024, 4096)  # 512: Shoeybi et al. 2019


def project(plan: Plan, rows: int) -> dict[int, dict[str, float]]:
  """Returns the rows, wire and seconds of a step by number of chips, up to 4,096.

  "efficiency" and, with perfect overlap, "best" are percent of the smallest number of chips that
  the mesh divides. Raises UserError for a plan without collectives along the mesh's axis data.
  """
  if plan.mesh["data"] < 2 or plan.program.between_slices:
    raise UserError("--table needs a mesh of one slice with mesh.data of 2 or more")
  by_chips = {chips: _project_to(plan, rows, chips) for chips in CHIPS}
  by_chips = {chips: projection for chips, projection in by_chips.items() if projection}
  first = next(iter(by_chips.values()))["seconds"]
  for projection in by_chips.values():
    projection["efficiency"] = 100 * first / projection["seconds"]
    projection["best"] = 100 * min(1.0, first / projection["overlapped"])
  return by_chips


def _project_to(plan: Plan, rows: int, chips: int) -> dict[str, float] | None:
  """Returns a step's projection to so many chips, or None if the mesh cannot divide them.

  The mesh grows along data alone: collectives along data run in longer rings, and between slices at
  the network's speed.
  """
  chip = plan.topology.chip
  data, rest = divmod(chips, plan.mesh["fsdp"] * plan.mesh["tensor"])
  if rest:
    return None
  slices = max(1, chips // chip.slice)
  inside = between = 0.0
  for collective, times in plan.program.collectives.items():
    if "data" not in collective.axes(plan.mesh):
      inside += times * collective.wire_bytes
      continue
    group = collective.group // plan.mesh["data"] * data // slices
    inside += times * collective.bytes_sent(group)
    between += times * 2 * (slices - 1) / slices * collective.bytes / group
  wire = inside / chip.wire + between / chip.network
  return dict(
    rows=rows // plan.mesh["data"] * data,
    wire=wire,
    seconds=plan.computing_seconds + wire,
    overlapped=max(plan.computing_seconds, wire),
  )


def table(by_chips: dict[int, dict[str, float]]) -> Table:
  """Formats the projections of `project`."""
  table = Table("chips", "rows a step", "wire, ms", "a step, ms", "efficiency", "if all overlaps")
  for chips, projection in by_chips.items():
    times = (f"{1e3 * projection[key]:.1f}" for key in ("wire", "seconds"))
    shares = (f"{projection[key]:.1f}%" for key in ("efficiency", "best"))
    table.add_row(f"{chips:,}", f"{projection['rows']:,}", *times, *shares)
  return table
