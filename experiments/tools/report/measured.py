"""Writes and reads records of measured tables, such as speed, which RESULTS.md shows.

A record is a JSON file in experiments/results/measured: a table, the commands that made it, and
where and when they ran. `--record FILE` of the measuring commands writes one.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import re
from collections.abc import Sequence

from experiments.tools.report import blocks, tables
from train.common import json_files
from train.common.errors import as_user_error
from train.common.files import write_atomically
from train.record import provenance

FOLDER = "measured"  # beside the results of experiments


@dataclasses.dataclass(frozen=True)
class Record:
  """A measured table."""

  title: str
  section: str  # its heading in RESULTS.md
  commands: Sequence[str]
  machine: str
  date: str  # of the measurement
  commit: str
  jax: str
  table: Sequence[Sequence[str]]  # the first row is the heading
  note: str = ""  # Markdown

  def blocks(self) -> list[str]:
    """Returns the record as blocks of Markdown."""
    origin = f"Measured {self.date}; {self.machine}; jax {self.jax}; commit {self.commit[:12]}."
    table, commands = tables.markdown(self.table), blocks.code(self.commands)
    return [f"### {self.title}", table, self.note, commands, origin]


def report(rows: Sequence[Sequence[str]], file: pathlib.Path | None, **fields) -> None:
  """Prints a table and, if `file` is given, writes a Record of it with the other `fields`."""
  print(tables.markdown(rows))
  if file:
    commit = (provenance.git() or {}).get("commit", "unknown")
    origin = dict(machine=machine(), date=str(datetime.date.today()), commit=commit)
    record = Record(**fields, **origin, jax=provenance.versions()["jax"], table=rows)
    write_atomically(file, json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def machine() -> str:
  """Returns the number of cores that this process may use and the processor's name."""
  cores = len(os.sched_getaffinity(0))
  names = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
  return f"{cores} cores of {names[0]}" if names else f"{cores} cores"


def read(folder: pathlib.Path) -> list[Record]:
  """Returns the records in a folder of results, sorted by section and file name."""
  records = []
  for file in sorted((folder / FOLDER).glob("*.json")):
    with as_user_error(f"{file}: is no record of a measured table"):
      records.append(Record(**json_files.read(file)))
  return sorted(records, key=lambda record: record.section)
