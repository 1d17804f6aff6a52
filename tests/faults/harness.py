"""A run that is hurt and started again by the same command, and what it has to be afterwards.

The run packs, mixes two parts, passes its data several times, adds up microbatches, keeps a moving
average of its weights and has another number of data workers at each start. Its cache is its own,
so that the first starts write the data's cache and train the tokenizer.
"""

import collections
import dataclasses
import gzip
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np

from train.common import paths

ROOT = pathlib.Path(__file__).parents[2]
STEPS, EVERY, EVALUATE, DECODE = 40, 3, 10, 20
TIMED = {"time", "tokens_per_second", "stall_share", "padding_share", "compiles", "seconds"}
TIMED |= {"step_ms", "mfu", "recompiles", "host_memory_gb", "device_memory_gb"}
DAY = 86_400
STREAMED = 1000  # pairs, above which a run's data are streamed
CLOCK = f"import time\n_time = time.time\ntime.time = lambda: _time() - {DAY}\n"


def corpus(folder: pathlib.Path, count: int = 120) -> pathlib.Path:
  """Files as configs/multi30k.py wants them, so few that an epoch is some steps."""
  rng = random.Random(0)
  words = ["a", "man", "woman", "dog", "red", "runs", "jumps", "sees", "ball", "on", "two"]
  folder.mkdir(parents=True)
  for name in ("train", "val", "test_2016_flickr"):
    lines = [" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(count)]
    for language, change in (("en", str), ("de", str.upper)):
      text = "".join(change(line) + "\n" for line in lines)
      if count > STREAMED:  # a packed file would be one shard
        (folder / f"{name}.{language}").write_text(text)
      else:
        (folder / f"{name}.{language}.gz").write_bytes(gzip.compress(text.encode()))
  return folder


def on_a_disk_of_its_own(folder: pathlib.Path) -> bool:
  """Mounts 24 MB at `folder`; False where that is not allowed."""
  folder.mkdir(parents=True, exist_ok=True)
  words = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
  try:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
  except FileNotFoundError:
    return False


@dataclasses.dataclass
class Run:
  """A run, and what is done to it. Each way of hurting it starts it, hurts it at a random moment
  and returns whether it could: a run may be done before that."""

  folder: pathlib.Path  # its workdir is in there, and its cache
  data: pathlib.Path
  rng: random.Random
  bucket: object = None  # a server (tests/buckets.py): the workdir is in its bucket
  mounted: bool = False
  lost: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
  where: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  resumed: list = dataclasses.field(default_factory=list)  # seconds from a start to a new step
  saved: list = dataclasses.field(default_factory=list)  # seconds from SIGTERM to the end

  @property
  def workdir(self) -> paths.Path:
    if self.bucket:
      return paths.of(f"{self.bucket.prefix}/{self.folder.name}/run")
    return self.folder / "run"

  @property
  def log(self) -> pathlib.Path:
    return self.folder / "log.txt"

  def start(self, workers=None, clock=None, log=None) -> subprocess.Popen:
    """The same command as ever; `clock`: a folder whose sitecustomize sets the clock back."""
    changes = dict(
      steps=STEPS,
      workers=self.rng.choice([0, 1, 2]) if workers is None else workers,
      microbatches=2,
      ema=0.9,
      log_every=1,
      loggers=(),
      **{"checkpoint.every": EVERY, "evaluate.every": EVALUATE, "evaluate.decode_every": DECODE},
    )
    command = [sys.executable, "-m", "train.main", "--workdir", str(self.workdir)]
    command += [f"--config=configs/mixture.py:small,data={self.data}"]
    if not (self.data / "train.en.gz").exists():
      parts = ("translation", "denoising")
      changes |= {f"task.parts.{part}.data.stream": True for part in parts} | dict(streams=4)
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    environment = os.environ | dict(
      XLA_FLAGS=os.environ.get("SCRIPTORIUM_TEST_XLA_FLAGS", ""),
      JAX_PLATFORMS="cpu",
      JAX_COMPILATION_CACHE_DIR=str(self.data.parent / "compiled"),
      SCRIPTORIUM_CACHE=str(self.folder / "cache"),
    )
    if self.bucket:
      environment |= self.bucket.environment
    if clock:
      environment["PYTHONPATH"] = str(clock)
    with open(log or self.log, "a", encoding="utf-8") as file:
      return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
      )

  def finish(self) -> float:
    """Starts it and lets it be; the seconds until it is done."""
    began, before = time.monotonic(), self.step()
    process = self.start()
    self._reach(process, before + 1)
    self.resumed.append(time.monotonic() - began)
    assert process.wait(600) == 0, self.said()
    return time.monotonic() - began

  def kill(self, within: float, clock=None) -> bool:
    """SIGKILL, at any moment from the first: before training, in a step, a save, an evaluation."""
    process = self.start(clock=clock)
    try:
      assert process.wait(self.rng.uniform(0.3, within)) == 0, self.said()
      return False
    except subprocess.TimeoutExpired:
      before = self.step()
    os.killpg(process.pid, signal.SIGKILL)  # with its workers, as a power cut would
    process.wait()
    self._note("SIGKILL" if clock is None else "clock set back, SIGKILL", before)
    if any(self.workdir.glob("checkpoints/*tmp*")) or (self.bucket and self._unmarked()):
      self.where["in a save"] += 1
    elif before:
      self.where["between saves"] += 1
    else:
      cached = any((self.folder / "cache").rglob("*"))
      self.where["as data was cached or the tokenizer trained" if cached else "before that"] += 1
    return True

  def kill_evaluating(self) -> bool:
    """SIGKILL after the line of a step that is evaluated, before the line of the evaluation."""
    return self._kill_between("evaluating", EVALUATE, self._is_evaluating)

  def kill_decoding(self) -> bool:
    """The same, after a step whose evaluation decodes too."""
    return self._kill_between("evaluating and decoding", DECODE, self._is_evaluating)

  def kill_sealing(self) -> bool:
    """SIGKILL when Orbax has finished a checkpoint and its record is not written yet."""
    return self._kill_between("sealing", EVERY, lambda step: self._unrecorded())

  def flip(self) -> bool:
    """SIGKILL, then another bit in a file of the last checkpoint, which may have no record."""
    process = self.start()
    if not self._reach(process, self._soon()):
      return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    saved = sorted(
      self.workdir.glob("checkpoints/*/commit_success.txt"), key=lambda x: int(x.parent.name)
    )
    if saved:
      sizes = paths.contents(saved[-1].parent, digests=False)
      file = saved[-1].parent / self.rng.choice([name for name in sizes if sizes[name][0]])
      content = bytearray(file.read_bytes())
      content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
      file.write_bytes(content)
    return self._note("SIGKILL, a bit flipped", self.step())

  def _kill_between(self, what, every, is_there) -> bool:
    """Kills a random moment after `is_there(step)` of the next step that is a multiple of `every`;
    counts whether it still held then."""
    process, step = self.start(), (self.step() // every + 1) * every
    if step > STEPS or not self._reach(process, step):
      return self._stop(process) and False
    while not (before := is_there(step)) and self.step() <= step and process.poll() is None:
      time.sleep(0.0005)
    time.sleep(self.rng.choice([0, 0, 0.01, 0.1, 0.3]) if before and what != "sealing" else 0)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    self.where[what if is_there(step) else f"after {what}"] += 1
    return self._note(f"SIGKILL, {what}", self.step())

  def _is_evaluating(self, step) -> bool:
    splits = {line["split"] for line in self.lines() if line["step"] == step}
    return splits == {"train"} and self.step() == step

  def _unrecorded(self) -> bool:
    finished = {file.parent.name for file in self.workdir.glob("checkpoints/*/commit_success.txt")}
    return bool(finished - {file.stem for file in self.workdir.glob("checksums/*.json")})

  def _unmarked(self) -> bool:
    """Whether a checkpoint in a bucket is being saved or removed."""
    names = {file.name for file in self.workdir.glob("checkpoints/*")}
    marked = {file.parent.name for file in self.workdir.glob("checkpoints/*/commit_success.txt")}
    return bool(names - marked)

  def lose_network(self) -> bool:
    """The bucket cannot be reached for some seconds, and the run goes on."""
    process = self.start()
    if not self._reach(process, self._soon()):
      return False
    self.bucket.broken = True
    time.sleep(self.rng.uniform(1, 6))
    self.bucket.broken = False
    before = self.step()
    if not self._reach(process, before + 1):
      return False
    return self._stop(process) and self._note("network lost", self.step())

  def clock_back(self, within: float) -> bool:
    """A start a day before the one before, killed."""
    folder = self.folder / "clock"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(CLOCK, encoding="utf-8")
    return self.kill(within, clock=folder)

  def terminate(self, number=signal.SIGTERM) -> bool:
    """SIGTERM or Ctrl-C after a step: saved, and told by the exit status."""
    process = self.start()
    if not self._reach(process, self._soon()):
      return False
    began = time.monotonic()
    if not self._stop(process, number):
      return False
    self.saved.append(time.monotonic() - began)
    return self._note(number.name, self.step())

  def interrupt(self) -> bool:
    return self.terminate(signal.SIGINT)

  def kill_worker(self) -> bool:
    """A data worker is killed, as the kernel does if memory is short: another takes its place."""
    process = self.start(workers=2)
    if not self._reach(process, self._soon()):
      return False
    told = self.log.read_text(encoding="utf-8").count("a data worker process died")
    for child in children(process.pid):
      if "spawn_main" in child.command:
        os.kill(child.pid, signal.SIGKILL)
        break
    before = self.step()
    if not self._reach(process, before + 8):  # what had been made is used up
      return False
    if self.log.read_text(encoding="utf-8").count("a data worker process died") == told:
      return self._stop(process) and False  # it had no more work
    return self._stop(process) and self._note("data worker killed", before)

  def fill_disk(self) -> bool:
    """No space is left as it saves; then there is again."""
    process = self.start()
    if not self._reach(process, self._soon()):
      return False
    filler = self.workdir / "filler"
    try:
      with open(filler, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
          pass
    except OSError:
      pass
    code = process.wait(120)
    filler.unlink()
    if code == 0:
      return False
    return self._failed(code, "No space left", "disk full")

  def make_read_only(self) -> bool:
    """A start where the workdir can't be written to; then it can."""
    self._remount("ro")
    code = self.start().wait(120)
    self._remount("rw")
    return self._failed(code, "Read-only file system", "workdir read-only")

  def start_twice(self) -> bool:
    """A second start beside the first is refused, and the first goes on unhurt."""
    process = self.start()
    if not self._reach(process, self._soon()):
      return False
    other = self.folder / "other.txt"
    assert self.start(log=other).wait(120) == 2, other.read_text(encoding="utf-8")
    assert "in use by process" in other.read_text(encoding="utf-8")
    return self._stop(process) and self._note("two starts at once", self.step())

  def said(self) -> str:
    return self.log.read_text(encoding="utf-8")[-3000:]

  def step(self) -> int:
    """The last step that metrics.jsonl tells of."""
    return max((line["step"] for line in self.lines()), default=0)

  def lines(self) -> list[dict]:
    file, found = self.workdir / "metrics.jsonl", []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
      try:
        found.append(json.loads(text))
      except ValueError:  # cut off by the kill
        continue
    return found

  def told(self) -> list[dict]:
    """Every number of metrics.jsonl that is not of time or machine."""
    return [{k: v for k, v in line.items() if k not in TIMED} for line in self.lines()]

  def weights(self) -> dict:
    """The weights trained, their average, the moments: all that is in the last checkpoint."""
    from train.checkpoint import Checkpoints
    from train.common.trees import flatten

    with Checkpoints(self.workdir, keep_latest=99) as checkpoints:
      parts = dict(params=None, optimizer=None)
      saved = checkpoints.load(checkpoints.latest, parts)
    return {name: np.asarray(x) for name, x in flatten(saved).items()}

  def _soon(self) -> int:
    return self.step() + self.rng.randint(1, 6)

  def _reach(self, process, step) -> bool:
    """Waits until the run tells of `step`; False if it ends before."""
    while self.step() < step:
      if process.poll() is not None:
        assert process.returncode == 0, self.said()
        return False
      time.sleep(0.05)
    return True

  def _stop(self, process, number=signal.SIGTERM) -> bool:
    """Sends a signal and waits; False if the run was done before."""
    process.send_signal(number)
    code = process.wait(120)
    done = (self.workdir / f"checksums/{STEPS}.json").exists()
    if code == 0 or (code == -number and done):  # as Python was leaving
      return False
    # Before the first step there is nothing to save, and the signal ends the process itself.
    assert code in (128 + number, -number), (code, self.said())
    return True

  def _failed(self, code, told, kind) -> bool:
    assert code == 2, (code, self.said())
    last = self.said().splitlines()[-1]  # Orbax's threads say things of their own before it
    assert last.startswith("error: "), self.said()
    assert told in last, last
    return self._note(kind, self.step())

  def _note(self, kind, before) -> bool:
    done = [int(file.stem) for file in self.workdir.glob("checksums/*.json")]
    self.lost[kind].append(max(0, before - max(done, default=0)))
    return True

  def _remount(self, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(self.workdir)], check=True)


@dataclasses.dataclass
class Child:
  pid: int
  command: str


def children(pid: int) -> list[Child]:
  """The living processes that `pid` started."""
  found = []
  for entry in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
      command = (entry / "cmdline").read_text().replace("\0", " ")
    except OSError:  # it has just ended
      continue
    if parent == pid:
      found.append(Child(int(entry.name), command))
  return found


def assert_same(hurt: Run, whole: Run) -> None:
  """Losses and scores, each line once; weights, average and moments bit for bit."""
  assert hurt.told() == whole.told()
  a, b = hurt.weights(), whole.weights()
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
