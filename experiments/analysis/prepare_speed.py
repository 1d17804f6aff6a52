"""python -m experiments.analysis.prepare_speed --data DIR --tokenizer tokenizer.json --out prepared

Times train.prepare on a folder of texts beside `tokenizers.encode_batch_fast` alone on the same
cores, and reading what was prepared by one core: windows of 1,024 tokens, across documents and
within. A minute for each 100 MB on two cores. Beside other programs, compare the seconds of cores.
`--record FILE` writes the table for experiments/RESULTS.md.

    python -m tests.corpus DIR --megabytes 1000      # writes a corpus
"""

import os
import pathlib
import resource
import shlex
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from experiments.tools.report import measured
from train.common import entry
from train.data import documents, sources, token_corpus, weaving
from train.data.batches import Layout
from train.data.tokenizer import Tokenizer

SAMPLE, CALL = 96 << 20, 4 << 20  # bytes of text that encode_batch gets, in all and in a call
ROWS, LENGTH, BATCHES = 64, 1024, 200
PAGE = os.sysconf("SC_PAGE_SIZE")


class Times(NamedTuple):
  """The time, and the memory, that a measurement took."""

  tokens: int
  seconds: float
  cpu_seconds: float
  megabytes: float = 0.0  # of memory

  def row(self, name: str) -> list[str]:
    """Returns a row of the table."""
    speeds = [f"{self.tokens / x / 1e6:,.2f}" for x in (self.seconds, self.cpu_seconds)]
    return [name, *speeds, f"{self.megabytes:,.0f}" if self.megabytes else ""]


def time_encoding(path: pathlib.Path, tokenizer: Tokenizer) -> Times:
  """Times the library's own encode_batch_fast, in threads, on lines of a file."""
  inner, tokens, seconds, cpu = tokenizer.copy_inner(), 0, 0.0, 0.0
  with open(path, encoding="utf-8") as file:
    for _ in range(SAMPLE // CALL):
      lines = file.readlines(CALL)
      began, used = time.perf_counter(), time.process_time()
      encoded = inner.encode_batch_fast(lines, add_special_tokens=False)
      seconds, cpu = seconds + time.perf_counter() - began, cpu + time.process_time() - used
      tokens += sum(len(encoding.ids) for encoding in encoded)
  return Times(tokens, seconds, cpu)


def time_preparing(data: str, tokenizer: str, out: str) -> Times:
  """Times train.prepare in processes of its own, and the most memory that they have at once."""
  began, used = time.perf_counter(), _children_cpu()
  process = subprocess.Popen(_command(data, tokenizer, out))
  most, ended = [0.0], threading.Event()

  def watch():
    while not ended.wait(0.5):
      most[0] = max(most[0], _memory(process.pid))

  watcher = threading.Thread(target=watch)
  watcher.start()
  status = process.wait()
  ended.set()
  watcher.join()
  if status:
    sys.exit(status)
  totals = token_corpus.read_manifest(out)["splits"]["train"]["totals"]
  seconds, cpu = time.perf_counter() - began, _children_cpu() - used
  return Times(totals["tokens"], seconds, cpu, most[0])


def _command(data: str, tokenizer: str, out: str) -> list[str]:
  changes = {"data.stream": True, "data.unit": "line", "tokenizer.name": "file"}
  changes["tokenizer.path"] = tokenizer
  flags = [f"--config.task.{key}={value}" for key, value in changes.items()]
  config = f"configs/mlm.py:data={data}"
  command = [sys.executable, "-m", "train.prepare", "--config", config, "--out", out]
  return [*command, "--split=train", *flags]


def _children_cpu() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def _memory(root: int) -> float:
  """Returns the resident megabytes of a process and all below it."""
  parents, pages = {}, {}
  for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      rest = (folder / "stat").read_text().rpartition(")")[2].split()
      parents[int(folder.name)], pages[int(folder.name)] = int(rest[1]), int(rest[21])
    except OSError:  # it has ended
      continue
  total = 0
  for number, size in pages.items():
    above = number
    while above and above != root:
      above = parents.get(above, 0)
    total += size if above == root else 0
  return total * PAGE / 1e6


def time_reading(folder: str, tokenizer: Tokenizer, crosses: bool) -> Times:
  """Times batches of windows of a prepared corpus in this thread."""
  source = sources.open_split(dict(name="prepared", folder=folder), "train")
  objective = documents.NextToken(tokenizer.roles)
  items = documents.Windows(documents.Tokens(source, tokenizer), LENGTH, objective, crosses)
  layout, states = Layout(ROWS, 0, LENGTH), dict.fromkeys(range(ROWS), weaving.START)
  rows = weaving.Weaver(items, layout, 0, ROWS).open(states)
  for _ in range(10):  # the streams' first blocks
    rows()
  began, used = time.perf_counter(), time.thread_time()
  tokens = sum(int(rows().arrays["weights"].sum()) for _ in range(BATCHES))
  return Times(tokens, time.perf_counter() - began, time.thread_time() - used)


def tabulate(data: str, tokenizer_file: str, out: str) -> list[list[str]]:
  """Returns the table of encoding, preparing and reading."""
  tokenizer = Tokenizer.load(tokenizer_file)
  alone = time_encoding(min(pathlib.Path(data).iterdir()), tokenizer)
  preparing = time_preparing(data, tokenizer_file, out)
  rows = [["", "million tokens a second", "a second of a core", "MB of memory"]]
  rows += [alone.row("encode_batch_fast alone"), preparing.row("train.prepare")]
  rows.append(time_reading(out, tokenizer, True).row("prepared, across documents"))
  rows.append(time_reading(out, tokenizer, False).row("prepared, within documents"))
  return rows


def main(argv):
  parser = entry.make_parser(__doc__)
  parser.add_argument("--data", required=True, metavar="DIR")
  parser.add_argument("--tokenizer", required=True, metavar="FILE")
  parser.add_argument("--out", required=True, metavar="DIR")
  parser.add_argument("--record", type=pathlib.Path, metavar="FILE")
  args = parser.parse_args(argv)
  rows = tabulate(args.data, args.tokenizer, args.out)
  words = [word for word in argv if word not in ("--record", str(args.record))]
  command = shlex.join(["python", "-m", "experiments.analysis.prepare_speed", *words])
  title = "Preparing and reading a tokenised corpus"
  measured.report(rows, args.record, title=title, section="Corpora", commands=[command])


if __name__ == "__main__":
  entry.run(main)
