"""python -m train.plan --config configs/wmt14.py --topology v5e:4x4 [--config.KEY=VALUE ...]

Compiles the real train step for chips that are not installed, and reports whether it fits and what
it costs. Nothing runs: times are estimates, printed with their assumptions. No data is needed: the
shapes are the config's. TPUs (v5e, v5p, v6e) need requirements-tpu.txt, h100 needs
requirements-cuda.txt, cpu:8 needs nothing. A compilation takes minutes.

Where the step does not fit, or communication dominates, the command tries settings that may help.
"""

import collections
import json
import pathlib
import sys

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from train import resolve
from train.common import entry
from train.common.errors import UserError
from train.common.files import write_atomically
from train.planning import chips, scaling
from train.planning.estimate import KERNEL_SHARE, DoesNotFit, Plan, make_plan
from train.record import config

MANY_PERMUTES = 100
REPEATED = 8  # times a step, from which a collective should have been delayed and merged
WIRE_SHARE = 0.5  # of computing time, from which communication dominates
LISTED = 8  # collectives
LARGE = 3e9  # parameters, from which programs without scan_layers take too long to compile


def warnings(plan: Plan, cfg: ConfigDict) -> list[str]:
  """Returns notes about patterns of the program that are known to cost time or memory."""
  notes, program = [], plan.program
  if (permutes := program.count("collective-permute")) > MANY_PERMUTES:
    notes.append(
      f"{permutes} collective-permutes: XLA turned gathers of weights into windowed einsums; try"
      " LIBTPU_INIT_ARGS=--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"
    )
  for collective, times in program.collectives.items():
    if times >= REPEATED and collective.bytes > plan.weights / REPEATED:
      notes.append(
        f"{collective.kind} of {collective.bytes / 1e6:.0f} MB {times} times a step"
        f" ({collective.origin}): once a chunk or microbatch, where once would do"
      )
      break
  fsdp_bytes = collections.Counter()
  for collective, times in program.collectives.items():
    if collective.axes(plan.mesh) == ("fsdp",):
      fsdp_bytes[collective.kind] += collective.bytes * times
  if plan.topology.chip.largest and fsdp_bytes["all-reduce"] > fsdp_bytes["all-gather"] / 4 > 0:
    notes.append(
      "gradients are summed whole along fsdp before each chip takes its part: a TPU's compiler does"
      " so for parts of fewer than 8 rows or 128 columns; a smaller mesh.fsdp has larger parts"
    )
  if cfg.model.name == "transformer" and cfg.model.scan_layers and cfg.model.remat == "none":
    notes.append("model.scan_layers without model.remat: activations of all layers are stacked")
  if program.random_bits:
    notes.append(f"the random bit generator runs {program.random_bits} times, at unknown cost")
  if program.endless_loops:
    notes.append(f"{program.endless_loops} loops of unknown length are counted once")
  return notes


def alternatives(cfg: ConfigDict, count: int, parameters: float) -> list[dict]:
  """Returns changes of the config by which the step may fit or communicate less."""
  full, deep, sequence = {}, {}, {}
  if cfg.model.name == "transformer":
    full = {"model.remat": "full"}
    deep = {"model.scan_layers": True} if parameters >= LARGE else {}
    sequence = {"mesh.sequence": True} if cfg.mesh.tensor > 1 else {}
  alone = {"mesh.data": count, "mesh.fsdp": 1, "mesh.tensor": 1}
  split = {"mesh.data": 1, "mesh.fsdp": count, "mesh.tensor": 1}
  microbatches = {"microbatches": 4 * cfg.microbatches}
  data = count // (cfg.mesh.fsdp * cfg.mesh.tensor)  # where mesh.data is -1
  changes, configs = [], [apply(cfg, {}), apply(cfg, {"mesh.data": data})]
  for change in (full | deep, microbatches, alone, split, split | full | deep, sequence):
    if (changed := apply(cfg, change)) not in configs:
      changes.append(change)
      configs.append(changed)
  return changes


def apply(cfg: ConfigDict, change: dict) -> ConfigDict:
  """Returns a copy of the config with the keys of `change`, dotted, set."""
  cfg = ConfigDict(cfg.to_dict())
  cfg.update_from_flattened_dict(change)
  return cfg


def try_alternatives(cfg, topology, parameters, first: Plan | UserError, console: Console) -> None:
  """Compiles each of `alternatives` and prints what it costs, below the `first` result."""
  console.print("Settings that may help, each compiled (Ctrl-C leaves):")
  _print_result({}, first, console)
  for change in alternatives(cfg, topology.count, parameters):
    try:
      _print_result(change, make_plan(apply(cfg, change), topology), console)
    except UserError as error:  # not every mesh divides every config
      _print_result(change, error, console)


def _print_result(change, result, console):
  flags = " ".join(f"--config.{key}={value}" for key, value in change.items()) or "as it is"
  if isinstance(result, Plan):
    fits = "fits" if result.fits else "does not fit"
    result = (
      f"{fits}: {result.memory / 1e9:.1f} GB, {1e3 * result.seconds:.0f} ms,"
      f" of it wire {1e3 * result.wire_seconds:.0f}, MFU {result.mfu:.1%}"
    )
  console.print(f"  {flags}: {result}")


def show(plan: Plan, notes: list[str], console: Console) -> None:
  """Prints the plan as tables."""
  chip, program = plan.topology.chip, plan.program
  mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "1 chip"
  console.print(
    f"{plan.parameters / 1e6:,.1f}M parameters on {plan.topology.name} ({mesh}), compiled in"
    f" {plan.compile_seconds:.0f} s"
  )
  memory = Table("memory of a chip", "GB")
  for name in ("weights", "moments", "batch", "temporaries"):
    memory.add_row(name, f"{getattr(plan, name) / 1e9:.3f}")
  fits = "fits" if plan.fits else "DOES NOT FIT"
  memory.add_row(f"in all, {fits}", f"{plan.memory / 1e9:.3f} of {chip.memory / 1e9:.0f}")
  console.print(memory)
  if program.collectives:
    console.print(collectives_table(plan))
  computed = (plan.step_flops + plan.kernel_flops) / 1e12
  kernels = f"{program.kernels} calls at {KERNEL_SHARE:.0%} of peak"
  speeds = f"rings at {chip.wire / 1e9:.0f} GB/s, no overlap"
  if program.between_slices:
    speeds += f"; {program.between_slices / 1e6:.0f} MB between slices at {chip.network / 1e9:.1f}"
  rates = (
    f"{program.moved / 1e9:.1f} GB; at {chip.flops / 1e12:.0f} TFLOP/s,"
    f" {chip.bandwidth / 1e9:,.0f} GB/s"
  )
  cost = Table("a step on a chip", "", "by")
  cost.add_row("model", f"{plan.model_flops / 1e12:.3f} TFLOP", "3 x forward, nothing masked out")
  cost.add_row("computed", f"{computed:.3f} TFLOP", "matrix products, repeated ones too")
  if plan.kernel_flops:
    cost.add_row("attention kernels", _milliseconds(plan.kernel_seconds), kernels)
  cost.add_row("wire", _milliseconds(plan.wire_seconds), speeds)
  if plan.cycle_seconds:
    clock = f"at {chip.clock / 1e9:.2f} GHz"
    cost.add_row("compiler's cycles", _milliseconds(plan.cycle_seconds), clock)
  else:
    cost.add_row("products, then memory", _milliseconds(plan.serial_seconds), rates)
  best = "cycles, kernels and wire" if plan.cycle_seconds else "these, kernels and wire"
  cost.add_row("estimate", f"{_milliseconds(plan.seconds)}, MFU {plan.mfu:.1%}", best)
  console.print(cost)
  for note in notes:
    console.print(f"note: {note}")


def _milliseconds(seconds):
  return f"{1e3 * seconds:.1f} ms"


def collectives_table(plan: Plan) -> Table:
  """Formats the collectives by kind and axes of the mesh, largest first, with the main origin."""
  counts, origins = collections.Counter(), collections.defaultdict(collections.Counter)
  for collective, times in plan.program.collectives.items():
    key = collective.kind, collective.axes(plan.mesh)
    counts[key] += times
    origins[key][collective.origin.removeprefix("jit(train_step)/")] += collective.bytes * times
  table = Table("collectives of a step", "along", "times", "MB", "most of it from")
  for key in sorted(origins, key=lambda key: -origins[key].total())[:LISTED]:
    (kind, axes), megabytes = key, origins[key].total() / 1e6
    [(origin, _)] = origins[key].most_common(1)
    table.add_row(kind, " ".join(axes), str(counts[key]), f"{megabytes:,.1f}", origin)
  return table


def metrics(plan: Plan, steps: int) -> dict[str, float]:
  """Returns what --json writes: a step's costs on a chip; hours and model EFLOP of all steps."""
  return dict(
    parameters=plan.parameters,
    chips=plan.topology.count,
    fits=int(plan.fits),
    gigabytes=plan.memory / 1e9,
    milliseconds=1e3 * plan.seconds,
    wire_milliseconds=1e3 * plan.wire_seconds,
    mfu=100 * plan.mfu,
    hours=plan.seconds * steps / 3600,
    chip_hours=plan.topology.count * plan.seconds * steps / 3600,
    exaflop=plan.model_flops * plan.topology.count * steps / 1e18,
  )


def main(argv):
  parser = entry.make_parser(__doc__)
  config.add_arguments(parser)
  parser.add_argument("--topology", default="v5e:2x2", help="v5e:4x4, v5p:4x4x4, h100:8, cpu:8")
  parser.add_argument("--slices", type=int, default=1, help="TPU slices, joined by a network")
  parser.add_argument("--mesh", default="", help="data=4,fsdp=2: as --config.mesh.data=4 ...")
  parser.add_argument("--table", action="store_true", help="project weak scaling to 4,096 chips")
  parser.add_argument("--as_it_is", action="store_true", help="try no other settings")
  parser.add_argument("--json", help="a file to write the numbers to")
  texts, overrides, rest = config.split(argv)
  args = parser.parse_args(rest)
  overrides += [f"mesh.{word}" for word in args.mesh.split(",") if word]
  cfg = resolve.load(config.only(texts), overrides)
  if not cfg.steps:
    raise UserError("the steps of epochs are known once a run reads its data: give steps to plan")
  if args.json and not pathlib.Path(args.json).parent.is_dir():
    raise UserError(f"--json {args.json}: there is no folder {pathlib.Path(args.json).parent}")
  topology = chips.parse(args.topology, args.slices)
  chips.prepare(topology)
  console = Console(width=None if sys.stdout.isatty() else 110)
  try:
    plan = make_plan(cfg, topology)
  except DoesNotFit as error:
    console.print(f"DOES NOT FIT on {topology.name}: {error}")
    if args.as_it_is:
      raise
    try_alternatives(cfg, topology, LARGE, error, console)
    return
  show(plan, warnings(plan, cfg), console)
  projections = {}
  if args.table:
    projections = scaling.project(plan, cfg.batch_size)
    console.print(scaling.table(projections))
    console.print(
      f"a step = computed as above + wire; {plan.topology.chip.slice} chips a slice; batches grow"
      " along data"
    )
  if args.json:
    efficiency = {f"efficiency_{n}": each["efficiency"] for n, each in projections.items()}
    write_atomically(args.json, json.dumps(metrics(plan, cfg.steps) | efficiency) + "\n")
  dominated = plan.wire_seconds > WIRE_SHARE * plan.computing_seconds
  if not args.as_it_is and (dominated or not plan.fits):
    try_alternatives(cfg, topology, plan.parameters, plan, console)


if __name__ == "__main__":
  entry.run(main)
