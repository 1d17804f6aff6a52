"""python -m tests.fuzz --examples 1000 --seed 1 [--only "hf weights"] [--keep DIR]

Tries many changed files on every parser and prints how many each refused and accepted, and what
crashed it; exits 1 if anything did. Where atheris is installed, --atheris TARGET goes on without
end from what it finds by coverage.
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

if "--atheris" in sys.argv:  # it sees the way through code that it has read itself
  import atheris

  watched = atheris.instrument_imports(include=["train"])
else:
  watched = contextlib.nullcontext()
with watched:
  from tests.fuzz import trying
  from tests.fuzz.targets import TARGETS

BATCH = 250  # inputs of one seed; the time is looked at in between
MEMORY = 4 << 30  # bytes that an input may take: a claimed 10 GB are a crash


def run(name: str, examples: int, seed: int, seconds: float, keep):
  """Counts of the outcomes, and the crashes: place -> an input."""
  counts, crashes, until = collections.Counter(), {}, time.monotonic() + seconds

  def one(drawn):
    if keep:
      (keep / "last").write_text(repr((name, *drawn)), encoding="utf-8")
    try:
      counts[trying.attempt(name, *drawn).partition(":")[0]] += 1
    except KeyboardInterrupt:
      raise
    except BaseException as error:  # a panic of Rust's is no Exception
      counts["crashed"] += 1
      crashes.setdefault(trying.place(error), drawn)

  for first in range(0, examples, BATCH):
    many = hypothesis.settings(
      max_examples=min(BATCH, examples - first),
      deadline=None,
      database=None,
      phases=[hypothesis.Phase.generate],
      suppress_health_check=list(hypothesis.HealthCheck),
    )
    if time.monotonic() < until:
      hypothesis.seed(seed + first)(many(hypothesis.given(trying.inputs(name))(one)))()
  return counts, crashes


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--examples", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--seconds", type=float, default=1e9, help="the most for each parser")
  parser.add_argument("--only", choices=TARGETS)
  parser.add_argument("--keep", type=pathlib.Path, help="where the last input is written")
  parser.add_argument("--atheris", choices=TARGETS)
  args = parser.parse_args()
  if args.atheris:
    return with_atheris(args.atheris)
  faulthandler.enable()
  total, found = collections.Counter(), {}
  print("| parser | inputs tried | refused | accepted | crashes |\n|---|---|---|---|---|")
  for name in [args.only] if args.only else TARGETS:
    trying.attempt(name, 0, trying.seeds(name)[0][0][trying.seeds(name)[0][1]])  # imports
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, -1))
    counts, crashes = run(name, args.examples, args.seed, args.seconds, args.keep)
    total += counts
    found |= {f"{name}: {place}": drawn for place, drawn in crashes.items()}
    row(name, counts)
  row("all", total)
  for place, drawn in found.items():
    print(f"{place}\n  {drawn[0]} {drawn[1][:300]!r}", file=sys.stderr)
  return int(bool(found))


def row(name, counts):
  told = (counts[key] for key in ("refused", "accepted", "crashed"))
  print(f"| {name} | {counts.total()} | {' | '.join(map(str, told))} |", flush=True)


def with_atheris(name: str) -> None:
  """Until a crash or Ctrl-C; the first byte says which of the valid folders is changed."""
  found = trying.seeds(name)
  with tempfile.TemporaryDirectory() as corpus:
    for number, (files, changed) in enumerate(found):
      pathlib.Path(corpus, str(number)).write_bytes(bytes([number]) + files[changed])

    def one(data):
      if data:
        trying.attempt(name, data[0] % len(found), data[1:])

    atheris.Setup([*sys.argv[:1], corpus, "-max_len=1000000"], one)
    atheris.Fuzz()


if __name__ == "__main__":
  sys.exit(main())
