"""Writes the files of records of a prepared split, each independently of the others."""

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Mapping

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from train.common import paths
from train.common.files import write_atomically
from train.data import token_records
from train.data.array_records import find_records
from train.data.bad_records import FEW
from train.data.source import PickledByFields, Shards
from train.data.token_corpus import TOKENIZER, sidecar
from train.data.tokenizer import Tokenizer
from train.preparing import duplicates
from train.preparing.parts import new_file, shard_range

# Raw text of a file, of which the ids take half. So much work is lost to a kill, for each core.
FILE_BYTES = 512 << 20
FEWEST = 64  # files of a small corpus, so that all cores have work
SECONDS = 5  # between two notes of a file's progress
PROGRESS = ".progress"
OPTIONS = "group_size:1,uncompressed"  # zstd takes a third less space and 7 times the time


def count_files(shards: Shards) -> int:
  """Returns the number of files of a corpus, which depends on nothing else."""
  return max(min(max(-(-shards.num_bytes // FILE_BYTES), FEWEST), shards.num_shards), 1)


@dataclasses.dataclass(frozen=True)
class Job(PickledByFields):
  """The files of a split, each of consecutive shards of the raw corpus."""

  folder: str
  split: str
  shards: Shards
  fields: Mapping[str, str]  # see token_records.py
  tokenizer: str  # its fingerprint
  count: int  # files
  drop_duplicates: bool = False

  def name(self, number: int) -> str:
    """Returns the name of a file in the folder."""
    return f"{self.split}/part-{number:05d}-of-{self.count:05d}.array_record"

  def path(self, number: int) -> paths.Path:
    """Returns the path of the .json beside a file, which exists if the file is whole."""
    return paths.of(self.folder) / sidecar(self.name(number))

  @property
  def hashes(self) -> duplicates.Hashes:
    """Returns the hashes of all documents, which are made first where duplicates are dropped."""
    return duplicates.Hashes(self.folder, self.split, self.shards, self.count)

  @functools.cached_property
  def _tokenizer(self) -> Tokenizer:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the threads
    return Tokenizer.load(paths.of(self.folder) / TOKENIZER)

  def write(self, number: int) -> None:
    """Writes a file and then the .json beside it, which says what the file holds."""
    target = paths.of(self.folder) / self.name(number)
    tag = token_records.make_tag(self.tokenizer, self.fields)
    dropped = self.hashes.duplicates_of(number) if self.drop_duplicates else np.zeros(0, int)
    note, first = _Note(self, number), 0  # first: number of a block's first document
    with new_file(target) as path:
      with contextlib.closing(ArrayRecordWriter(str(path), OPTIONS)) as writer:
        for shard in shard_range(self.shards.num_shards, self.count, number):
          records = 0
          for records, block in enumerate(self.shards.blocks(shard), 1):
            examples = block.examples
            start, stop = np.searchsorted(dropped, (first, first + len(examples))).tolist()
            out = set((dropped[start:stop] - first).tolist())
            first += len(examples)
            kept = [x for i, x in enumerate(examples) if i not in out] if out else examples
            values = token_records.list_values(self._tokenizer, self.fields, kept)
            record, lengths = token_records.pack(values, self.fields, tag, shard, records - 1)
            writer.write(record)
            note.add_record(len(kept), len(out), lengths, block)
          note.end_shard(records)
      size, places = os.path.getsize(path), find_records(path)
    content = dict(name=self.name(number), bytes=size) | note.content | dict(places=places)
    write_atomically(self.path(number), json.dumps(content) + "\n")
    with contextlib.suppress(OSError):
      note.progress.unlink()


class _Note:
  """Collects what the .json beside a file has, and notes how far the file is."""

  def __init__(self, job: Job, number: int):
    path = job.path(number)
    self.progress, self._noted = path.with_name(path.stem + PROGRESS), time.monotonic()
    self._lengths = {field: np.zeros(token_records.BINS, np.int64) for field in job.fields}
    self._counts = dict.fromkeys(("documents", "tokens", "duplicates", "bad", "dropped"), 0)
    self._shard_records, self._record_documents, self._notes = [], [], []

  def add_record(self, kept: int, duplicates: int, lengths: Mapping, block) -> None:
    """Counts a record of so many documents, which has left out others."""
    tokens = 0
    for field, values in lengths.items():
      tokens += int(values.sum())
      self._lengths[field] += token_records.count_bins(values)
    more = dict(documents=kept, tokens=tokens, duplicates=duplicates)
    more |= dict(bad=len(block.bad), dropped=block.dropped)
    self._counts = {name: count + more[name] for name, count in self._counts.items()}
    self._record_documents.append(kept)
    self._notes += block.bad[: max(FEW - len(self._notes), 0)]

  def end_shard(self, records: int) -> None:
    """Counts a shard of so many records."""
    self._shard_records.append(records)
    if time.monotonic() - self._noted > SECONDS:
      self._noted = time.monotonic()
      counts = dict(shards=len(self._shard_records), tokens=self._counts["tokens"])
      write_atomically(self.progress, json.dumps(counts))

  @property
  def content(self) -> dict:
    """Returns the counts, the histogram of lengths, and what each shard and each record has."""
    sizes = dict(shards=len(self._shard_records), records=len(self._record_documents))
    lengths = {field: bins.tolist() for field, bins in self._lengths.items()}
    places = dict(shard_records=self._shard_records, record_documents=self._record_documents)
    return sizes | self._counts | dict(lengths=lengths, notes=self._notes) | places
