"""Several processes as one run: real processes on loopback, each with a part of eight devices."""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests import corpus
from train.cluster import processes, rendezvous
from train.cluster.rendezvous import GONE, Rendezvous
from train.common import entry, paths
from train.common.errors import UserError
from train.record import checksums
from train.record.writer import read_metrics

DEVICES = 8
RUN = (
  "--config=configs/scan.py:small",
  "--config.steps=12",
  "--config.log_every=1",
  "--config.evaluate.decode_every=0",
  "--config.evaluate.every=12",
  "--config.checkpoint.every=2",
  "--config.checkpoint.best_metric=loss",
  "--config.checkpoint.best_mode=min",
  "--config.model.dropout=0.3",
  "--config.model.vocab_size=24",  # of 23 words: two devices can share it
  "--config.loggers=()",
)


def free_port():
  """Two ports in a row that nobody has."""
  for port in range(20000 + os.getpid() % 20000, 60000, 2):
    with socket.socket() as one, socket.socket() as two:
      try:
        one.bind(("127.0.0.1", port))
        two.bind(("127.0.0.1", port + 1))
      except OSError:
        continue
      return port
  raise AssertionError("no free port")


class Processes:
  """`count` processes of one run with a part of the devices each, their output in files."""

  def __init__(self, folder, count, *, odd=(), devices=DEVICES, run=RUN, workdir=None):
    """odd: more arguments of the last. workdir: another than one in the folder."""
    self.folder, port = folder, free_port()
    self.workdir = workdir or folder / "run"
    folder.mkdir(exist_ok=True)
    flags = os.environ["SCRIPTORIUM_TEST_XLA_FLAGS"]
    environment = dict(os.environ, JAX_NUM_CPU_DEVICES=str(devices // count), XLA_FLAGS=flags)
    self.running = {}
    for index in range(count):
      command = [*(sys.executable, "-m", "train.main"), f"--workdir={self.workdir}", *run]
      if count > 1:
        command += [f"--coordinator=127.0.0.1:{port}", f"--process_count={count}"]
        command += [f"--process_index={index}", "--start_timeout=200"]
      if index == count - 1:
        command += odd
      with open(folder / f"{index}.txt", "w", encoding="utf-8") as file:
        self.running[index] = subprocess.Popen(command, stdout=file, stderr=file, env=environment)

  def text(self, index):
    return (self.folder / f"{index}.txt").read_text(encoding="utf-8")

  def wait(self):
    """The exit statuses, in order."""
    return [process.wait(300) for process in self.running.values()]

  def until(self, text):
    """Returns when process 0 has said so."""
    while text not in self.text(0):
      assert self.running[0].poll() is None, self.text(0)
      time.sleep(0.05)

  def losses(self):
    lines = (self.workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {(line["step"], line["split"]): line["loss"] for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The losses of one process with all devices."""
  run = Processes(tmp_path_factory.mktemp("alone"), 1)
  assert run.wait() == [0], run.text(0)
  return run.losses()


def test_a_killed_process_stops_the_others_and_two_started_again_are_one_alone(alone, tmp_path):
  first = Processes(tmp_path, 2)
  first.until("step  4/12")
  first.running[1].kill()
  assert first.wait() == [GONE, -signal.SIGKILL]  # by jax alone: SIGABRT, after 100 s
  assert "error: process 1 of 2 on " in first.text(0)
  assert "Traceback" not in first.text(0)
  again = Processes(tmp_path, 2)
  assert again.wait() == [0, 0], again.text(0) + again.text(1)
  assert "going on after step" in again.text(0)
  assert again.losses() == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_two_in_a_bucket_that_are_killed_go_on_as_two(alone, tmp_path, google):
  workdir = paths.of(f"{google.prefix}/processes")
  first = Processes(tmp_path, 2, workdir=workdir)
  first.until("step  8/12")
  for process in first.running.values():
    process.kill()
  first.wait()
  assert checksums.steps(workdir / "checkpoints")
  again = Processes(tmp_path, 2, workdir=workdir)
  assert again.wait() == [0, 0], again.text(0)
  assert "going on after step" in again.text(0)
  assert again.losses() == pytest.approx(alone, rel=1e-5)
  assert not checksums.problems(workdir / "checkpoints" / "12")


@pytest.mark.slow
def test_ctrl_c_saves_the_same_step_in_both_and_one_process_goes_on(alone, tmp_path):
  first = Processes(tmp_path, 2)
  first.until("step  2/12")
  first.running[1].send_signal(signal.SIGINT)
  assert first.wait() == [entry.INTERRUPTED] * 2, first.text(0) + first.text(1)
  lines = {first.text(i).splitlines()[-1] for i in range(2)}
  assert len(lines) == 1
  assert "is saved in" in lines.pop()
  again = Processes(tmp_path, 1)
  assert again.wait() == [0], again.text(0)
  assert "going on after step" in again.text(0)
  assert again.losses() == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices_otherwise_used(alone, tmp_path):
  """Tensor and data parallel over 8, then fully sharded over 2 in microbatches, then one."""
  ways = (
    (8, ["--config.mesh.tensor=2", "--config.model.remat=full"]),
    (2, ["--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.microbatches=2"]),
    (1, ["--config.parallelism=pmap"]),
  )
  for number, (devices, words) in enumerate(ways, 1):
    run = Processes(tmp_path, 1, devices=devices, odd=words)
    if number == len(ways):
      assert run.wait() == [0], run.text(0)
    else:
      run.until(f"step  {4 * number}/12")
      run.running[0].send_signal(signal.SIGINT)
      assert run.wait() == [entry.INTERRUPTED], run.text(0)
  assert "1 devices, going on after step" in run.text(0)
  assert run.losses() == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_a_streamed_run_goes_on_in_any_number_of_processes(tmp_path):
  """Each process reads its own streams; the run is that of one process."""
  corpus.write(tmp_path / "corpus", 2_000_000, files=3)
  streamed = (
    f"--config=configs/causal.py:small,data={tmp_path}/corpus/*.txt",
    *("--config.steps=30", "--config.log_every=1", "--config.evaluate.every=30"),
    *("--config.checkpoint.every=5", "--config.loggers=()", "--config.model.dropout=0.3"),
    *("--config.task.data.stream=True", "--config.batch_size=16"),
  )
  alone = Processes(tmp_path / "alone", 1, run=streamed)
  assert alone.wait() == [0], alone.text(0)
  for count, step in ((1, 3), (2, 11), (4, 19), (1, None)):
    run = Processes(tmp_path / "several", count, run=streamed)
    if step:
      run.until(f"step {step:>2}/30")
      run.running[count - 1].send_signal(signal.SIGINT)
      assert run.wait() == [entry.INTERRUPTED] * count, run.text(0)
    else:
      assert run.wait() == [0], run.text(0)
  assert "going on after step" in run.text(0)
  assert run.losses() == pytest.approx(alone.losses(), rel=1e-5)
  rates = [
    [
      (line["padding_share"], line["epoch"])
      for line in read_metrics(x.folder / "run")
      if "epoch" in line
    ]
    for x in (run, alone)
  ]
  assert rates[0] == rates[1]


@pytest.mark.slow
def test_processes_find_each_other_in_the_environment_of_slurm(tmp_path):
  """As `srun --ntasks=2` sets it; a real SLURM was not there to try."""
  job = dict(SLURM_JOB_ID=str(os.getpid()), SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2")
  command = [sys.executable, "-m", "train.main", f"--workdir={tmp_path / 'run'}", *RUN]
  command += ["--coordinator=auto", "--start_timeout=200"]
  running = []
  for index in map(str, range(2)):
    own = dict(SLURM_PROCID=index, SLURM_LOCALID=index, JAX_NUM_CPU_DEVICES="2")
    own |= dict(XLA_FLAGS=os.environ["SCRIPTORIUM_TEST_XLA_FLAGS"])
    with open(tmp_path / f"{index}.txt", "w", encoding="utf-8") as file:
      running.append(
        subprocess.Popen(command, stdout=file, stderr=file, env=dict(os.environ, **job, **own))
      )
  statuses = [process.wait(300) for process in running]
  texts = [(tmp_path / f"{index}.txt").read_text(encoding="utf-8") for index in range(2)]
  assert statuses == [0, 0], texts
  assert "4 devices, starting before step 0 of 12" in texts[0]


def test_one_that_fails_ends_at_once_and_so_does_the_other(tmp_path):
  """Its own error is the last thing it says; jax would wait for the others first."""
  run = Processes(tmp_path, 2, odd=["--workdir=/dev/null/none"])  # where it can write nothing
  assert run.wait() == [GONE, 1], run.text(0) + run.text(1)
  assert run.text(1).splitlines()[-1].startswith("NotADirectoryError")


def test_another_config_is_told_by_both_with_what_differs(tmp_path):
  run = Processes(tmp_path, 2, odd=["--config.model.dim=24"])
  assert run.wait() == [2, 2]
  for index in range(2):
    last = run.text(index).splitlines()[-1]
    assert last.startswith("error: ")
    assert last.endswith("process 1 has another config: model.dim is 32 in process 0 and 24 there")


@pytest.mark.parametrize(
  "here, told",
  [(0, "process 1 of 2 did not connect to 127.0.0.1:"), (1, "process 0 at 127.0.0.1:")],
)
def test_a_process_that_does_not_come_is_named(here, told, monkeypatch):
  monkeypatch.setattr(processes.wait_for_all, "seconds", 1)  # which `together` sets for good
  parser = argparse.ArgumentParser()
  processes.add_arguments(parser)
  words = [f"--coordinator=127.0.0.1:{free_port()}", "--process_count=2", "--start_timeout=1"]
  args = parser.parse_args([*words, f"--process_index={here}"])
  with (
    pytest.raises(UserError, match=rf"{told}.* within 1 s \(--start_timeout\)"),
    processes.together(args, "{}"),
  ):
    pass


@pytest.mark.parametrize(
  "words, told",
  [
    (["--process_count=2"], "need --coordinator=HOST:PORT"),
    (["--coordinator=here"], "HOST:PORT of process 0, or auto"),
    (["--coordinator=here:x"], "HOST:PORT of process 0, or auto"),
    (["--coordinator=here:1"], "needs --process_count and --process_index"),
    (["--coordinator=a:1", "--process_count=2", "--process_index=2"], "from 0 to 1"),
  ],
)
def test_arguments_that_say_too_little(words, told):
  parser = argparse.ArgumentParser()
  processes.add_arguments(parser)
  with pytest.raises(UserError, match=told), processes.together(parser.parse_args(words), "{}"):
    pass


def test_a_stranger_at_the_port_is_sent_away(tmp_path):
  """Who says nothing sensible, or comes twice, or counts otherwise, stops nobody."""
  port = free_port()
  here = Rendezvous("127.0.0.1", port, 2, 0)
  said = dict(index=1, count=2, host="other", config="{}")
  lines = []

  def come(message):
    line = Rendezvous("127.0.0.1", port, 2, 1)._connect(time.monotonic() + 20)
    line.sendall(message)
    lines.append(line)

  def others():
    come(b"GET / HTTP/1.1\n")
    come(json.dumps(said | dict(count=3)).encode() + b"\n")
    come(b"[1]\n")
    come(json.dumps(said).encode() + b"\n")

  thread = threading.Thread(target=others)
  thread.start()
  with here:
    here.gather("{}", timeout=20)
    assert here.names[1] == "other"
    thread.join()
    assert json.loads(lines[1].recv(1000)) == dict(error="process 0 has --process_count=2")
    assert json.loads(lines[3].recv(1000))["names"] == {"0": socket.gethostname(), "1": "other"}
  for line in lines:
    line.close()


PEER = """
import sys, time
from train.cluster import rendezvous
index, rendezvous.LOST_SECONDS = int(sys.argv[2]), float(sys.argv[3])
peers = rendezvous.Rendezvous("127.0.0.1", int(sys.argv[1]), 3, index)
peers.gather("{}", 60)
peers.watch(quiet_seconds=1.5)
print("joined", flush=True)
time.sleep(120)
"""


@pytest.fixture
def peers(tmp_path):
  """Starts three processes that do nothing but watch each other; returns them and their output."""
  started = []

  def start(lost_seconds):
    port = free_port()
    files = [tmp_path / f"{index}.txt" for index in range(3)]
    for index, path in enumerate(files):
      command = [sys.executable, "-c", PEER, str(port), str(index), str(lost_seconds)]
      with open(path, "w", encoding="utf-8") as file:
        started.append(subprocess.Popen(command, stdout=file, stderr=file))
    read_until(files, "joined")
    return started, files

  yield start
  for process in started:
    process.kill()
    process.wait()


def read_until(files, text):
  deadline = time.monotonic() + 60
  while not all(text in file.read_text(encoding="utf-8") for file in files):
    assert time.monotonic() < deadline, [file.read_text(encoding="utf-8") for file in files]
    time.sleep(0.05)


@pytest.mark.parametrize("hanging", [0, 2])
def test_a_process_that_hangs_is_named_by_all_others_and_may_go_on(hanging, peers):
  running, files = peers(lost_seconds=60)
  running[hanging].send_signal(signal.SIGSTOP)
  others = [file for index, file in enumerate(files) if index != hanging]
  read_until(others, f"process {hanging} of 3 on {socket.gethostname()} has sent no sign of life")
  running[hanging].send_signal(signal.SIGCONT)
  time.sleep(2)
  assert [process.poll() for process in running] == [None] * 3


@pytest.mark.parametrize("hanging", [0, 2])
def test_a_process_that_hangs_too_long_is_gone(hanging, peers):
  running, files = peers(lost_seconds=3)
  running[hanging].send_signal(signal.SIGSTOP)
  for index in {0, 1, 2} - {hanging}:
    assert running[index].wait(60) == GONE
    text = files[index].read_text(encoding="utf-8")
    assert f"error: process {hanging} of 3 on " in text
    assert " has sent no sign of life for" in text.splitlines()[-1]


SLOW_TO_COMPILE = """
import sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from train.cluster import processes
jax.config.update("jax_cpu_collectives_implementation", "gloo")
index = int(sys.argv[2])
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, index)
mesh = Mesh(np.asarray(jax.devices()), "x")
x = jax.make_array_from_callback((16,), NamedSharding(mesh, P("x")), lambda i: np.ones(16)[i])

def total(x):
  time.sleep(40 * index)  # while it is traced
  return x.sum()

print(processes.compiled_by_all(jax.jit(total, out_shardings=NamedSharding(mesh, P())))(x))
"""


@pytest.mark.slow
def test_who_compiles_longer_than_gloo_waits_is_waited_for(tmp_path):
  """Without `compiled_by_all` process 0 fails: "Gloo ... timed out" after 30 s."""
  port, running = free_port(), []
  for index in range(2):
    command = [sys.executable, "-c", SLOW_TO_COMPILE, str(port), str(index)]
    with open(tmp_path / f"{index}.txt", "w", encoding="utf-8") as file:
      running.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT))
  assert [process.wait(200) for process in running] == [0, 0]
  for index in range(2):
    assert (tmp_path / f"{index}.txt").read_text(encoding="utf-8").splitlines()[-1] == "16.0"


def test_who_drips_bytes_holds_process_0_no_longer_than_a_message_may_take(monkeypatch):
  """The limit holds for a whole message: each byte of it comes in time."""
  monkeypatch.setattr(rendezvous, "HELLO_SECONDS", 0.5)
  port, over = free_port(), threading.Event()

  def drip():
    connection = Rendezvous("127.0.0.1", port, 2, 1)._connect(time.monotonic() + 20)
    with connection, contextlib.suppress(OSError):  # process 0 has closed it
      while not over.wait(0.05):
        connection.sendall(b"[")

  threads = [threading.Thread(target=drip) for _ in range(2)]
  for thread in threads:
    thread.start()
  began = time.monotonic()
  with (
    Rendezvous("127.0.0.1", port, 2, 0) as here,
    pytest.raises(UserError, match="did not connect"),
  ):
    here.gather("{}", timeout=2)
  assert 1.5 < time.monotonic() - began < 60
  over.set()
  for thread in threads:
    thread.join(20)
    assert not thread.is_alive()
