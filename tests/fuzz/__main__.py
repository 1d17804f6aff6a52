"""python -m tests.fuzz --examples 1000 --seed 1 [--only "hf weights"] [--keep DIR]

Tries many mutated files on every parser, and prints the numbers of refused and accepted files and
the crashes; exits 1 after a crash. If atheris is installed, --atheris TARGET searches without end,
guided by coverage.
"""

import argparse
import collections
import contextlib
import faulthandler
import os
import pathlib
import resource
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis

if "--atheris" in sys.argv:  # coverage needs the code to be instrumented when it is imported
  import atheris

  instrumented = atheris.instrument_imports(include=["train"])
else:
  instrumented = contextlib.nullcontext()
with instrumented:
  from tests.fuzz import trying
  from tests.fuzz.targets import TARGETS

BATCH = 250  # inputs of one seed; the time limit is checked between batches
MEMORY = 4 << 30  # bytes that an input may take; a file that claims 10 GB is a crash


def run(name: str, examples: int, seed: int, seconds: float, keep):
  """Returns the counts of the outcomes, and the crashes: place -> an input."""
  counts, crashes, deadline = collections.Counter(), {}, time.monotonic() + seconds

  def try_input(drawn):
    if keep:
      (keep / "last").write_text(repr((name, *drawn)), encoding="utf-8")
    try:
      counts[trying.attempt(name, *drawn).partition(":")[0]] += 1
    except KeyboardInterrupt:
      raise
    except BaseException as error:  # a panic in Rust is no Exception
      counts["crashed"] += 1
      crashes.setdefault(trying.place(error), drawn)

  for first in range(0, examples, BATCH):
    settings = hypothesis.settings(
      max_examples=min(BATCH, examples - first),
      deadline=None,
      database=None,
      phases=[hypothesis.Phase.generate],
      suppress_health_check=list(hypothesis.HealthCheck),
    )
    if time.monotonic() < deadline:
      test = settings(hypothesis.given(trying.inputs(name))(try_input))
      hypothesis.seed(seed + first)(test)()
  return counts, crashes


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--examples", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--seconds", type=float, default=1e9, help="at most, for each parser")
  parser.add_argument("--only", choices=TARGETS)
  parser.add_argument("--keep", type=pathlib.Path, help="folder for the last input")
  parser.add_argument("--atheris", choices=TARGETS)
  args = parser.parse_args()
  if args.atheris:
    return run_atheris(args.atheris)
  faulthandler.enable()
  total, all_crashes = collections.Counter(), {}
  print("| parser | inputs tried | refused | accepted | crashes |\n|---|---|---|---|---|")
  for name in [args.only] if args.only else TARGETS:
    files, changed = trying.seeds(name)[0]
    trying.attempt(name, 0, files[changed])  # imports everything before the memory is limited
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, -1))
    counts, crashes = run(name, args.examples, args.seed, args.seconds, args.keep)
    total += counts
    all_crashes |= {f"{name}: {place}": drawn for place, drawn in crashes.items()}
    print_row(name, counts)
  print_row("all", total)
  for place, drawn in all_crashes.items():
    print(f"{place}\n  {drawn[0]} {drawn[1][:300]!r}", file=sys.stderr)
  return int(bool(all_crashes))


def print_row(name, counts):
  cells = (counts[key] for key in ("refused", "accepted", "crashed"))
  print(f"| {name} | {counts.total()} | {' | '.join(map(str, cells))} |", flush=True)


def run_atheris(name: str) -> None:
  """Fuzzes until a crash or Ctrl-C; an input's first byte is the number of the valid folder."""
  folders = trying.seeds(name)
  with tempfile.TemporaryDirectory() as corpus:
    for number, (files, changed) in enumerate(folders):
      pathlib.Path(corpus, str(number)).write_bytes(bytes([number]) + files[changed])

    def try_bytes(data):
      if data:
        trying.attempt(name, data[0] % len(folders), data[1:])

    atheris.Setup([*sys.argv[:1], corpus, "-max_len=1000000"], try_bytes)
    atheris.Fuzz()


if __name__ == "__main__":
  sys.exit(main())
