"""Times steps on a GPU or TPU, each in a process of its own, within a number of minutes: their
milliseconds, MFU, memory and costliest operations, and the tests of model/ that fail there."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from absl import logging

from experiments.benchmark.hot_operations import costliest
from experiments.benchmark.sides import ROOT
from experiments.tools import initial
from train import resolve, sharding
from train.common import entry, flops
from train.common.errors import UserError
from train.planning import estimate
from train.step import make_predict_step, make_train_step, settings

TITLE = "Steps on an accelerator"
# Step -> config, rows of a batch (of sentences to decode), the MFU to reach.
STEPS = {
  "base, 64 x (256 + 256)": ("wmt14.py:size=base", 64, 0.4),
  "BERT-large, 32 x 512": ("mlm.py:size=large", 32, 0.5),
  "T5-base, 32 x (512 + 128)": ("span.py:size=base", 32, 0.4),
  "big, 64 x (256 + 256)": ("wmt14.py:size=big", 64, None),
  "BERT-base, 64 x 512": ("mlm.py:size=base", 64, None),
  "decoding base, 64 sentences of 64, beam 4": ("wmt14.py:size=base", 64, None),
}
REPEATS, TRACED = 10, 3  # steps
LEAST_SECONDS = 45  # a row is not begun with fewer left
BUSY = "memory.used", "utilization.gpu"
FAILED = re.compile(r"^(tests/\S+) FAILED", re.MULTILINE)
DIFFERENCES = re.compile(r"^E\s+Max (?:absolute|relative) difference[^:]*: (\S+)", re.MULTILINE)


def is_there() -> bool:
  """Returns whether jax has an accelerator, asked in a process of its own: this one must not hold
  the memory that the steps need."""
  return _device()[0] != "cpu"


def _device() -> list[str]:
  code = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='\\n')"
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  return run.stdout.splitlines()[-2:]


def busy() -> str:
  """Returns what others use of the GPU, or "" where nobody does or there is none."""
  if not shutil.which("nvidia-smi"):
    return ""
  command = ["nvidia-smi", f"--query-gpu={','.join(BUSY)}", "--format=csv,noheader,nounits"]
  lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
  used = [[int(x) for x in line.split(",") if x.strip().isdigit()] for line in lines]
  if any(len(x) == 2 and (x[0] > 1000 or x[1] > 10) for x in used):
    return "; ".join(f"{memory:,} MB, {share}% busy" for memory, share in used)
  return ""


def tables(options) -> dict[str, list[list[str]]]:
  """Returns the tables of the steps, of each one's costliest operations, and of failing tests.

  Raises UserError without an accelerator, unless options.quick tries the code on the CPU.
  """
  platform, kind = _device()
  if platform == "cpu" and not options.quick:
    raise UserError("there is no accelerator: jax has the CPU alone (--quick tries the code on it)")
  deadline = time.monotonic() + 60 * options.minutes
  title = f"{TITLE}: {kind}"
  rows = [["step", "ms", "MFU", "MFU to reach", "GB of memory", "s to compile", "left out"]]
  results, others = {title: rows}, busy()
  for name, (_, _, goal) in list(STEPS.items())[:: 5 if options.quick else 1]:
    left = deadline - time.monotonic()
    if others:
      row, why = {}, f"others use the GPU: {others}"
    elif left < LEAST_SECONDS and not options.quick:
      row, why = {}, f"{options.minutes:g} minutes are over"
    else:
      row, why = _in_process(name, options.quick, left)
    logging.info("%s: %s", name, why or f"{row['ms']:.1f} ms")
    cells = [f"{row[key]:.3g}" if row.get(key) else "" for key in ("ms", "mfu", "gb", "compiling")]
    rows.append([name, *cells[:2], f">= {goal}" if goal else "", *cells[2:], why])
    if row:
      results[f"{name}: the costliest operations"] = row["operations"]
  results["Tests of model/ that fail there"] = _tests(platform, options.quick, deadline)
  return results


def _in_process(name: str, quick: bool, seconds: float) -> tuple[dict, str]:
  """Returns what a process measures of a step, or nothing and the reason."""
  command = [sys.executable, "-m", "experiments.benchmark.accelerator", name, str(int(quick))]
  try:
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds)
  except subprocess.TimeoutExpired:
    return {}, f"not ready after {seconds:.0f} s"
  if run.returncode == 0:
    return json.loads(run.stdout.splitlines()[-1]), ""
  if "RESOURCE_EXHAUSTED" in run.stderr:
    return {}, "does not fit in the memory"
  return {}, (run.stderr.strip().splitlines() or ["no output"])[-1][:200]


def measure(name: str, quick: bool) -> dict:
  """Returns the milliseconds, MFU, memory and costliest operations of a step, compiled here."""
  text, rows, _ = STEPS[name]
  # With dropout of its weights, no kernel computes attention.
  kernels = ["model.attention_dropout=0.0", "model.attention_impl=auto"]
  changes = [] if quick else [f"batch_size={rows}", *kernels]
  text = f"{text.partition(':')[0]}:small" if quick else text
  cfg = estimate.without_data(resolve.load(f"configs/{text}", changes))
  mesh, task, tx, graph, state = initial.build(cfg)
  began = time.monotonic()
  if name.startswith("decoding"):
    length = 8 if quick else 64
    names = ("source", "source_segments", "source_positions")
    blank = np.zeros((cfg.batch_size, length), np.int32)
    batch = full(dict.fromkeys(names, blank), cfg) | dict(row=np.arange(len(blank))[:, None])
    batch = sharding.put_whole(batch, mesh)
    search, work = task.settings(beam=4, max_len_ratio=0.0, max_len_extra=length), 0
    step, params = make_predict_step(task, graph), state["params"]
    with sharding.activation_sharding(mesh):
      compiled = step.lower(params, batch, search).compile()

    def run():
      return compiled(params, batch)
  else:
    batch = sharding.put(full(estimate.blank_batch(task, cfg.batch_size), cfg), mesh)
    step = make_train_step(task, graph, tx, **settings(cfg, mesh))
    counted = estimate.without_kernels(cfg)
    work = 3 * estimate.forward_flops(counted, task, mesh, state, batch)
    with sharding.activation_sharding(mesh):
      compiled = step.lower(state, batch).compile()

    def run():
      nonlocal state
      state, sums = compiled(state, batch)
      return sums

  compiling = time.monotonic() - began
  seconds = timed(run, REPEATS)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      timed(run, TRACED)
    operations = costliest(folder, compiled.as_text(), TRACED + 1)
  sizes, device = compiled.memory_analysis(), jax.devices()[0]
  memory = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes
  memory += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  peak = flops.peak_of(device.device_kind)
  mfu = work / mesh.size / peak / seconds if peak else 0.0
  result = dict(ms=1000 * seconds, mfu=mfu, gb=memory / 1e9, compiling=compiling)
  return result | dict(operations=operations)


def timed(run, repeats: int) -> float:
  """Returns the seconds of a call, over `repeats` of them behind a first one."""
  jax.block_until_ready(run())
  began = time.perf_counter()
  for _ in range(repeats):
    result = run()
  jax.block_until_ready(result)
  return (time.perf_counter() - began) / repeats


def full(batch, cfg) -> dict[str, np.ndarray]:
  """Returns a blank batch with random ids in whole rows of one segment each."""
  rng, filled = np.random.default_rng(0), {}
  for name, x in batch.items():
    if name.endswith("segments") or name == "weights":
      filled[name] = np.ones_like(x)
    elif name.endswith("positions"):
      filled[name] = np.broadcast_to(np.arange(x.shape[-1], dtype=x.dtype), x.shape)
    else:
      filled[name] = rng.integers(3, cfg.model.vocab_size, x.shape).astype(x.dtype)
  return filled


def _tests(platform: str, quick: bool, deadline: float) -> list[list[str]]:
  """Returns the tests of model/ that fail on the platform, with the largest difference of each."""
  rows, left = [["test", "difference"]], deadline - time.monotonic()
  if importlib.util.find_spec("pytest") is None or left < LEAST_SECONDS:
    return [*rows, ["not run", "pytest is not installed, or the minutes are over"]]
  names = {"gpu": "cuda,cpu", "tpu": "tpu,cpu"}
  folder = "tests/model/test_layers.py" if quick else "tests/model"
  command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=short", folder]
  with tempfile.TemporaryFile("w+") as log:
    env = os.environ | dict(JAX_PLATFORMS=names.get(platform, platform))
    ended = "the tests are over"
    try:
      subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, env=env, timeout=left)
    except subprocess.TimeoutExpired:
      ended = "the minutes are over, the tests are not"
    log.seek(0)
    text = log.read()
  return [*rows, *failures(text), [ended, (text.strip().splitlines() or [""])[-1].strip("= ")]]


def failures(text: str) -> list[list[str]]:
  """Returns the failed tests in pytest's verbose output, each with its first difference, if any."""
  parts = re.split(r"^_{3,} (\S+) _{3,}$", text, flags=re.MULTILINE)
  reasons = dict(zip(parts[1::2], parts[2::2]))
  rows = []
  for name in FAILED.findall(text):
    difference = DIFFERENCES.search(reasons.get(name.rpartition("::")[2], ""))
    rows.append([name, difference[1] if difference else ""])
  return rows


if __name__ == "__main__":
  entry.set_logging()
  entry.set_compile_cache()
  print(json.dumps(measure(sys.argv[1], sys.argv[2] == "1")))
