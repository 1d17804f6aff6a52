"""python -m train.plan --config configs/wmt14.py --topology v5e:4x4 [--config.KEY=VALUE ...]

Will it fit, and what will it cost? Compiles the real train step for chips that are not here and
reads what the compiler made. Nothing runs: times are estimates, their assumptions are printed. No
data is needed: the shapes are the config's. TPUs (v5e, v5p, v6e) need requirements-tpu.txt, h100
needs requirements-cuda.txt, cpu:8 needs nothing. A compilation takes minutes.

Where it does not fit, or chips exchange more than they compute, settings that may help are tried.
"""

import argparse
import collections
import json
import sys

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from train import resolve
from train.common.errors import UserError
from train.common.files import write_atomically
from train.planning import chips, scaling
from train.planning.estimate import KERNEL_SHARE, DoesNotFit, Plan, make
from train.record import config

MANY_PERMUTES = 100
REPEATED = 8  # times a step, from which a collective is one that should have waited
WIRE_SHARE = 0.5  # of the time that is computed; beyond, the wire dominates
LISTED = 8  # collectives
LARGE = 3e9  # parameters, from which programs of all layers take too long to compile


def warnings(plan: Plan, cfg) -> list[str]:
  """What is known to hurt."""
  found, program = [], plan.program
  if (permutes := program.count("collective-permute")) > MANY_PERMUTES:
    found.append(
      f"{permutes} collective-permutes: XLA turned gathers of weights into windowed einsums; try"
      " LIBTPU_INIT_ARGS=--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"
    )
  repeated = [one for one, times in program.collectives.items() if times >= REPEATED]
  if big := [one for one in repeated if one.bytes > plan.weights / REPEATED]:
    found.append(
      f"{big[0].kind} of {big[0].bytes / 1e6:.0f} MB {program.collectives[big[0]]} times a step"
      f" ({big[0].origin}): once a chunk or microbatch, where once would do"
    )
  along = {"all-reduce": 0.0, "all-gather": 0.0}
  for one, times in program.collectives.items():
    if one.kind in along and one.axes(plan.mesh) == ("fsdp",):
      along[one.kind] += one.bytes * times
  if plan.topology.chip.largest and along["all-reduce"] > along["all-gather"] / 4 > 0:
    found.append(
      "gradients are summed whole along fsdp before each chip takes its part: a TPU's compiler does"
      " so for parts of fewer than 8 rows or 128 columns; a smaller mesh.fsdp has larger parts"
    )
  if cfg.model.name == "transformer" and cfg.model.scan_layers and cfg.model.remat == "none":
    found.append("model.scan_layers without model.remat: activations of all layers are stacked")
  if program.random_bits:
    found.append(f"random bits are drawn by a generator, {sum(program.random_bits.values())} times")
  if program.endless:
    found.append(f"{len(program.endless)} loops of unknown length are counted once")
  return found


def knobs(cfg: ConfigDict, count: int, parameters: float) -> list[dict]:
  """Changes of the config that may make it fit or exchange less, each one to be tried."""
  full, deep, sequence = {}, {}, {}
  if cfg.model.name == "transformer":
    full = {} if cfg.model.remat == "full" else {"model.remat": "full"}
    deep = {} if parameters < LARGE or cfg.model.scan_layers else {"model.scan_layers": True}
    sequence = {"mesh.sequence": True} if cfg.mesh.tensor > 1 and not cfg.mesh.sequence else {}
  split = {"mesh.data": 1, "mesh.fsdp": count, "mesh.tensor": 1}
  alone = {"mesh.data": count, "mesh.fsdp": 1, "mesh.tensor": 1}
  found = [full | deep, {"microbatches": 4 * cfg.microbatches}, alone, split, split | full | deep]
  found.append(sequence)
  found = [change for i, change in enumerate(found) if change not in found[:i]]
  return [change for change in found if change and changed(cfg, change) != cfg]


def changed(cfg: ConfigDict, change: dict) -> ConfigDict:
  cfg = ConfigDict(cfg.to_dict())
  cfg.update_from_flattened_dict(change)
  return cfg


def told(change: dict) -> str:
  return " ".join(f"--config.{key}={value}" for key, value in change.items()) or "as it is"


def try_knobs(cfg, topology, parameters, first, console):
  """What each of `knobs` comes to, told as soon as it is known; `first` is a plan, or an error."""
  console.print("Settings that may help, each compiled (Ctrl-C leaves):")

  def tell(change, result):
    if isinstance(result, Exception):
      found = str(result)
    else:
      fits = "fits" if result.fits else "does not fit"
      found = (
        f"{fits}: {result.memory / 1e9:.1f} GB, {1e3 * result.seconds:.0f} ms,"
        f" of it wire {1e3 * result.wire_seconds:.0f}, MFU {result.mfu:.1%}"
      )
    console.print(f"  {told(change)}: {found}")

  tell({}, first)
  for change in knobs(cfg, topology.count, parameters):
    try:
      tell(change, make(changed(cfg, change), topology))
    except UserError as error:  # not every mesh divides every config
      tell(change, error)


def show(plan: Plan, notes: list[str], console: Console) -> None:
  """The plan as tables."""
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
    console.print(exchanged(plan))
  cost = Table("a step on a chip", "", "by")
  cost.add_row("model", f"{plan.model_flops / 1e12:.3f} TFLOP", "3 x forward, nothing masked out")
  computed = (plan.step_flops + plan.kernel_flops) / 1e12
  cost.add_row("computed", f"{computed:.3f} TFLOP", "matrix products, repeated ones too")
  if plan.kernel_flops:
    cost.add_row(
      "attention kernels",
      f"{1e3 * plan.kernel_seconds:.1f} ms",
      f"{sum(program.kernels.values())} calls at {KERNEL_SHARE:.0%} of peak",
    )
  speeds = f"rings at {chip.wire / 1e9:.0f} GB/s, no overlap"
  if program.between_slices:
    speeds += f"; {program.between_slices / 1e6:.0f} MB between slices at {chip.network / 1e9:.1f}"
  cost.add_row("wire", f"{1e3 * plan.wire_seconds:.1f} ms", speeds)
  if plan.cycle_seconds:
    cost.add_row(
      "compiler's cycles", f"{1e3 * plan.cycle_seconds:.1f} ms", f"at {chip.clock / 1e9:.2f} GHz"
    )
  else:
    cost.add_row(
      "products, then memory",
      f"{1e3 * plan.serial_seconds:.1f} ms",
      f"{program.moved / 1e9:.1f} GB; at {chip.flops / 1e12:.0f} TFLOP/s,"
      f" {chip.bandwidth / 1e9:,.0f} GB/s",
    )
  best = "cycles, kernels and wire" if plan.cycle_seconds else "these, kernels and wire"
  cost.add_row("estimate", f"{1e3 * plan.seconds:.1f} ms, MFU {plan.mfu:.1%}", best)
  console.print(cost)
  for note in notes:
    console.print(f"note: {note}")


def exchanged(plan: Plan) -> Table:
  """What chips exchange: how, along which axes of the mesh, and where it comes from."""
  groups = collections.defaultdict(list)
  for one, times in plan.program.collectives.items():
    groups[one.kind, one.axes(plan.mesh)].append((one.bytes * times, times, one.origin))
  table = Table("collectives of a step", "along", "times", "MB", "most of it from")
  ordered = sorted(groups.items(), key=lambda item: -sum(size for size, *_ in item[1]))
  for (kind, axes), found in ordered[:LISTED]:
    size, times = sum(size for size, *_ in found), sum(times for _, times, _ in found)
    by_origin = collections.Counter()
    for part, _, origin in found:
      by_origin[origin.removeprefix("jit(train_step)/")] += part
    (origin, _), *_ = by_origin.most_common(1)
    table.add_row(kind, " ".join(axes), str(times), f"{size / 1e6:,.1f}", origin)
  return table


def numbers(plan: Plan, steps: int) -> dict[str, float]:
  """What --json writes: of a step on a chip; and hours, model EFLOP of all chips, of all steps."""
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
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  config.add_arguments(parser)
  parser.add_argument("--topology", default="v5e:2x2", help="v5e:4x4, v5p:4x4x4, h100:8, cpu:8")
  parser.add_argument("--slices", type=int, default=1, help="of a TPU, joined by a network")
  parser.add_argument("--mesh", default="", help="short for --config.mesh: data=4,fsdp=2,tensor=2")
  parser.add_argument("--table", action="store_true", help="weak scaling to 4,096 chips, on paper")
  parser.add_argument("--as_it_is", action="store_true", help="try no other settings")
  parser.add_argument("--json", help="a file to write the numbers to")
  texts, overrides, rest = config.split(argv)
  args = parser.parse_args(rest)
  overrides += [f"mesh.{word}" for word in args.mesh.split(",") if word]
  cfg = resolve.load(config.only(texts), overrides)
  topology = chips.parse(args.topology, args.slices)
  chips.prepare(topology)
  console = Console(width=None if sys.stdout.isatty() else 110)
  try:
    plan = make(cfg, topology)
  except DoesNotFit as error:
    console.print(f"on {topology.name} it DOES NOT FIT: {error}")
    if args.as_it_is:
      raise
    try_knobs(cfg, topology, LARGE, error, console)
    return
  show(plan, warnings(plan, cfg), console)
  scaled = {}
  if args.table:
    scaled = scaling.weak(plan, cfg.batch_size)
    console.print(scaling.table(scaled))
    within = f"{plan.topology.chip.slice} chips a slice"
    console.print(f"a step = computed as above + wire; {within}; batches grow along data")
  if args.json:
    efficiency = {f"efficiency_{chips}": one["efficiency"] for chips, one in scaled.items()}
    write_atomically(args.json, json.dumps(numbers(plan, cfg.steps) | efficiency) + "\n")
  dominated = plan.wire_seconds > WIRE_SHARE * plan.computing_seconds
  if not args.as_it_is and (dominated or not plan.fits):
    try_knobs(cfg, topology, plan.parameters, plan, console)


if __name__ == "__main__":
  from train.common.entry import run

  run(main)
