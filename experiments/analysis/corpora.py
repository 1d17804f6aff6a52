"""python -m experiments.analysis.corpora start DATA [DATA ...] --tokenizer FILE [--record FILE]
python -m experiments.analysis.corpora resume DATA [DATA ...] --tokenizer FILE
python -m experiments.analysis.corpora speed DATA [DATA ...] --tokenizer FILE

Measures how runs read large corpora. DATA is what configs/mlm.py takes: a file, folder or glob, or
a prepared corpus. `python -m tests.corpus` writes corpora of any size, and a run on any of them
leaves a tokenizer.json.
  start   seconds from the command to the end of the first step, and the peak memory of a run of
          --steps steps
  resume  seconds from the command to the first new step, 90% into the data, and whether two
          restarts with other numbers of workers have the same losses
  speed   tokens a second of the batches alone, by 2 workers from text and by one process from a
          prepared corpus, beside those of the library's encode_batch on the same cores, in turns
--record FILE writes the table for experiments/RESULTS.md.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from experiments.tools.report import measured
from train import resolve, tasks
from train.common import entry
from train.data import sources, streamed_batches, streams
from train.data.source import as_shards, sample
from train.data.tokenizer import Tokenizer
from train.record import checksums
from train.record.workdir import load_config
from train.record.writer import read_metrics

CONFIG = "configs/mlm.py:small,data={}"
CAUSAL = "configs/causal.py:small,tokenizer=bpe,data={}"  # of measurements of speed
ROWS = 64  # of a batch, as many as streams
PLACE = 0.9  # of the data, at which a run is resumed
BATCHES = 150  # of a measurement of speed: more than the streams have read ahead
TEXT_BYTES = 4_000_000  # that encode_batch reads in one


def overrides(args, length="task.source_len", rows=128, **more) -> list[str]:
  """Returns the changes of a run of a tiny model with batches of ROWS rows of 128 tokens."""
  values = {"steps": 10_000, "log_every": 1, "batch_size": ROWS, "loggers": "()"}
  values |= {"evaluate.every": 10_000, "checkpoint.every": 10_000, "checkpoint.best_metric": "loss"}
  values |= {"model.dim": 16, "model.mlp_dim": 16}
  values |= {
    length: rows,
    "task.tokenizer.name": "file",
    "task.tokenizer.path": args.tokenizer,
  } | more
  return [f"{key}={value}" for key, value in values.items()]


def launch(args, data: str, workdir: str, until: int, **more) -> tuple[float, float, list[float]]:
  """Trains until a step and stops; returns the seconds to the first new step, the peak memory in MB
  and the losses."""
  before = len(read_metrics(workdir, missing_ok=True))
  command = [sys.executable, "-m", "train.main", "--config", CONFIG.format(data)]
  command += ["--workdir", workdir]
  command += [f"--config.{word}" for word in overrides(args, **more)]
  began, first = time.time(), None
  with open(f"{workdir}.log", "a", encoding="utf-8") as log:
    process = subprocess.Popen(command, stdout=log, stderr=log)
    while not (lines := read_metrics(workdir, missing_ok=True)[before:]) or (
      lines[-1]["step"] < until
    ):
      if process.poll() is not None:
        raise SystemExit(pathlib.Path(log.name).read_text(encoding="utf-8")[-3000:])
      if lines and first is None:
        first = lines[0]["time"] - began
      time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
  lines = read_metrics(workdir)[before:]
  first = lines[0]["time"] - began
  return first, usage.ru_maxrss / 1024, [line["loss"] for line in lines if line["step"] <= until]


def start(args):
  """Times the start of a run, with its peak memory."""
  rows = [["corpus", "bytes", "files", "first step, s", "peak memory, MB"]]
  for data in args.data:
    with tempfile.TemporaryDirectory() as folder:
      first, peak, _ = launch(args, data, f"{folder}/run", args.steps)
    rows.append([_name(data), *_size(data), f"{first:.1f}", f"{peak:,.0f}"])
  return rows


def resume(args):
  """Times the restart of a run, 90% into its data."""
  rows = [["corpus", "bytes", "files", "first new step, s", "same losses with 2 workers"]]
  for data in args.data:
    with tempfile.TemporaryDirectory() as folder:
      run = pathlib.Path(folder, "run")
      launch(args, data, str(run), 3)
      _move(run)
      shutil.copytree(run, f"{folder}/again")
      seconds, _, losses = launch(args, data, str(run), 20)
      _, _, again = launch(args, data, f"{folder}/again", 20, workers=2)
    shared = min(len(losses), len(again))
    same = shared >= 10 and losses[:shared] == again[:shared]
    rows.append([_name(data), *_size(data), f"{seconds:.1f}", "yes" if same else "no"])
  return rows


def _move(workdir: pathlib.Path) -> None:
  """Moves the position of a run's checkpoint to PLACE of its shards."""
  cfg = load_config(workdir)
  shards = streams.count_shards(tasks.build(cfg.task, workdir, write=False).items("train"))
  (file,) = workdir.glob("checkpoints/*/data/data.json")
  state = json.loads(file.read_text(encoding="utf-8"))
  for stream in state["states"].values():
    place = dict(shard=int(PLACE * shards) // len(state["states"]), block=-1, item=0)
    stream |= dict(supply=place, pending=[], carried=0)
  file.write_text(json.dumps(state), encoding="utf-8")
  checksums.write(file.parent.parent)


def speed(args):
  """Times the batches alone, beside `encode_batch`."""
  rows = [["corpus", "workers", "tokens/s", "encode_batch, tokens/s", "ratio", "padding"]]
  for data in args.data:
    streamed = {} if _name(data) == "prepared" else {"task.data.stream": True}
    changes = overrides(args, "task.target_len", 512, **streamed)
    cfg = resolve.load(CAUSAL.format(data), changes)
    with tempfile.TemporaryDirectory() as folder:
      task = tasks.build(cfg.task, folder)
    layout = tasks.layout(task, cfg.batch_size)
    source = as_shards(sources.open_split(cfg.task.data.to_dict(), "train"))
    texts, size = [], 0
    for example in sample(source, 0):
      if not isinstance(example["text"], str) or size > TEXT_BYTES:
        break
      texts.append(example["text"])
      size += len(example["text"])
    workers = 2 if texts else 0
    options = dict(seed=0, workers=workers, count=cfg.streams)
    ours, alone = [], []
    with streamed_batches.open_batches(task.items("train"), layout, **options) as batches:
      for _ in range(BATCHES):
        next(batches)
      for _ in range(args.repeats):
        began, before = time.perf_counter(), batches.counts()["tokens"]
        for _ in range(BATCHES):
          next(batches)
        ours.append((batches.counts()["tokens"] - before) / (time.perf_counter() - began))
      padding = batches.counts()["padding"]
    if texts:
      encode = Tokenizer.load(args.tokenizer).copy_inner().encode_batch
      for _ in range(args.repeats):
        began = time.perf_counter()
        count = sum(len(x.ids) for x in encode(texts, add_special_tokens=False))
        alone.append(count / (time.perf_counter() - began))
    mine, other = statistics.median(ours), statistics.median(alone) if alone else None
    compared = [f"{other:,.0f}", f"{mine / other:.2f}"] if other else ["", ""]
    rows.append([_name(data), str(workers), f"{mine:,.0f}", *compared, f"{padding:.1%}"])
  return rows


def _files(data: str) -> list[pathlib.Path]:
  path = pathlib.Path(data)
  files = path.rglob("*") if path.is_dir() else path.parent.glob(path.name)
  return [file for file in files if file.is_file()]


def _size(data: str) -> list[str]:
  files = _files(data)
  return [f"{sum(file.stat().st_size for file in files):,}", str(len(files))]


def _name(data: str) -> str:
  return "prepared" if pathlib.Path(data, "manifest.json").exists() else _files(data)[0].suffix[1:]


PARTS = dict(start=start, resume=resume, speed=speed)


def main(argv):
  parser = entry.make_parser(__doc__)
  parser.add_argument("part", choices=PARTS)
  parser.add_argument("data", nargs="+")
  parser.add_argument("--tokenizer", required=True)
  parser.add_argument("--steps", type=int, default=100)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--record", type=pathlib.Path, metavar="FILE")
  args = parser.parse_args(argv)
  part = PARTS[args.part]
  title = part.__doc__.partition(".")[0].removeprefix("Times the ").capitalize()
  words = [word for word in argv if word not in ("--record", str(args.record))]
  command = shlex.join(["python", "-m", "experiments.analysis.corpora", *words])
  measured.report(part(args), args.record, title=title, section="Corpora", commands=[command])


if __name__ == "__main__":
  entry.run(main)
