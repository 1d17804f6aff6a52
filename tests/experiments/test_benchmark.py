"""The benchmark: its quick form gives numbers, its counts are right, what is missing is named."""

import argparse
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import accelerator, hot_operations
from experiments.benchmark.comparison import Row, table
from experiments.benchmark.sides import Side, Times, in_turns, run_command
from train.common import flops
from train.common.errors import UserError
from train.planning import operations

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """Processes have one device, as on a person's machine: a batch of 7 rows has no 8 parts."""
  monkeypatch.setenv("XLA_FLAGS", os.environ["SCRIPTORIUM_TEST_XLA_FLAGS"])


@pytest.mark.parametrize(
  "part, count",
  [
    ("decode", 5),
    ("train", 2),
    pytest.param("data", 1, marks=slow),
    pytest.param("smaller", 6, marks=slow),
    pytest.param("finetune", 6, marks=slow),
    pytest.param("start", 2, marks=slow),
    pytest.param("accelerator", 3, marks=slow),
  ],
)
def test_quick_numbers_are_numbers(part, count, capsys, tmp_path):
  benchmark.main([part, "--quick", "--record", str(tmp_path)])
  lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
  values = [float(x.replace(",", "")) for line in lines for x in re.findall(r"\| ([\d,.]+)", line)]
  assert len(values) >= count
  assert all(math.isfinite(value) for value in values)
  assert sum(value > 0 for value in values) >= count - 1  # a first call may not take longer
  assert (tmp_path / f"benchmark_{part}.json").exists()


def test_sides_take_turns():
  calls = []
  functions = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
  assert in_turns(2, functions) == {"a": [1, 3], "b": [2, 4]}


def test_ratios_are_of_medians_in_both_kinds_of_seconds():
  ours = [Times(8.0, 3.0), Times(2.0, 1.0), Times(4.0, 2.0)]
  row = Row("x", "s", ours, "peer", [Times(8.0, 8.0)], 0.6)
  heading, cells = table([row])
  assert dict(zip(heading, cells)) == {
    "": "x",
    "ours": "4 s (2 to 8)",
    "peer": "peer",
    "peer's": "8 s",
    "ours / peer": "0.50",
    "of cores' seconds": "0.25",
    "to reach": "<= 0.6",
  }


def test_a_command_is_timed_to_a_line_of_its_output_or_to_its_end():
  code = "import time; print('step  1/9', flush=True); time.sleep(60)"
  assert run_command([sys.executable, "-c", code], r"step +1/").seconds < 60
  with pytest.raises(UserError, match="status 0"):
    run_command([sys.executable, "-c", "print('step 2/9')"], r"step +1/")
  with pytest.raises(UserError, match=r"no such module|No module"):
    run_command([sys.executable, "-m", "no_such_module"])


def test_a_side_that_cannot_start_is_named(tmp_path):
  with pytest.raises(UserError, match=r"benchmark.decode .* ended with status"):
    Side(sys.executable, "decode", tmp_path)


def test_peers_without_their_environment_are_named(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="make bench"):
    benchmark.main(["decode", "--quick", "--peers", str(tmp_path / "python")])
  monkeypatch.setattr(benchmark, "PACKAGES", ("numpy", "no_such_package"))
  with pytest.raises(UserError, match=r"lacks no_such_package: .make bench"):
    benchmark.main(["decode", "--quick", "--peers", sys.executable])


def test_missing_data_are_named():
  with pytest.raises(UserError, match="--data DIR"):
    benchmark.main(["decode"])
  with pytest.raises(UserError, match=r"--minilm.*make data"):
    benchmark.main(["start", "--data", "x", "--minilm", "no_such_folder"])


def test_a_busy_machine_is_reported(monkeypatch, caplog):
  monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0, 0))
  assert "99.0" in benchmark.load()
  assert "99.0" in caplog.text


def options(**changes):
  return argparse.Namespace(**dict(quick=False, minutes=0.0) | changes)


def test_without_an_accelerator_its_part_is_an_error():
  with pytest.raises(UserError, match="no accelerator"):
    accelerator.tables(options())


@pytest.mark.parametrize("others", ["", "5,000 MB, 90% busy"])
def test_steps_are_left_out_where_time_or_memory_is_not_there(others, monkeypatch):
  monkeypatch.setattr(accelerator, "_device", lambda: ["gpu", "NVIDIA H200"])
  monkeypatch.setattr(accelerator, "busy", lambda: others)
  steps, tests = accelerator.tables(options()).values()
  assert [row[0] for row in steps[1:]] == list(accelerator.STEPS)
  assert all((others or "minutes are over") in row[-1] for row in steps[1:])
  assert tests[1][0] == "not run"


def test_a_step_that_takes_too_long_is_left_out():
  result, why = accelerator._in_process(next(iter(accelerator.STEPS)), True, 0.01)
  assert not result
  assert "not ready" in why


def test_failing_tests_are_listed_with_their_difference(tmp_path):
  (tmp_path / "tests").mkdir()
  text = "import numpy as np\n\ndef test_b(): np.testing.assert_allclose(1.25, 1)\n\n"
  (tmp_path / "tests/test_a.py").write_text(
    text + "def test_c(): assert False\n\ndef test_d(): 1\n"
  )
  command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "tests"]
  output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
  rows = accelerator.failures(output)
  assert [name for name, _ in rows] == ["tests/test_a.py::test_b", "tests/test_a.py::test_c"]
  assert float(rows[0][1]) == 0.25
  assert rows[1][1] == ""


@pytest.fixture(scope="module")
def product():
  """Returns a compiled product of matrices in a loop beside another, and its argument."""

  def compute(x):
    looped = jax.lax.fori_loop(0, 3, lambda i, y: jnp.tanh(y @ x), x)
    return looped, jnp.einsum("ij,kj->ik", x[:64], x)

  x = jnp.ones((256, 256))
  return jax.jit(compute), x


def test_flops_of_operations_are_those_of_the_traced_function(product):
  function, x = product
  computations, _ = operations.parse(function.lower(x).compile().as_text())
  total = sum(
    hot_operations.multiplied(operation, body, computations)
    for body in computations.values()
    for operation in body.values()
    if operation.kind != "fusion"  # its own operations are a computation
  )
  looped = 2 * 256**3
  assert total == flops.count(jax.make_jaxpr(function)(x)) - 2 * looped  # the text has it once


def test_a_trace_names_the_costliest_operations(product, tmp_path):
  function, x = product
  compiled = function.lower(x).compile()
  jax.block_until_ready(compiled(x))
  with jax.profiler.trace(tmp_path):
    for _ in range(2):
      jax.block_until_ready(compiled(x))
  heading, *rows = hot_operations.costliest(tmp_path, compiled.as_text(), 2)
  rows = [dict(zip(heading, row)) for row in rows]
  times = sorted(float(row["times"]) for row in rows if "dot_general" in row["origin"])
  assert times[0] == 1
  assert times[-1] == 3
  assert 0.9 < sum(float(row["share"].rstrip("%")) for row in rows) / 100 <= 1.01


def test_blank_batches_are_filled():
  names = ("inputs", "segments", "positions", "weights")
  batch = {name: np.zeros((2, 8), np.int32) for name in names}
  cfg = argparse.Namespace(model=argparse.Namespace(vocab_size=50))
  filled = accelerator.full(batch, cfg)
  assert (filled["segments"] == 1).all()
  assert (filled["weights"] == 1).all()
  assert (filled["positions"] == np.arange(8)).all()
  assert len(np.unique(filled["inputs"])) > 4
  assert filled["inputs"].max() < 50
