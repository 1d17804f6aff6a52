"""Counts the records that cannot be read: each one is an error that names its place, or is skipped
and logged.

A file that breaks off (a gzip file, a JSON document, a catalog, parallel files of unequal length)
is always an error, because the size of the loss is unknown.
"""

import bisect
import functools
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence

from absl import logging

from train.common.errors import UserError

POLICIES = {"error": "the first stops the run", "skip": "they are skipped, counted and logged"}
# Bad records of each file that the log shows. A split of any size may have this many: a share alone
# would refuse a small split for a single bad record.
FEW = 5
MAX_SHARE = 0.01  # of a split; a file with more bad records is probably of another format
# The longest books have 15 million characters. A longer line comes from a file without line ends,
# and a gzip file expands such a line a thousandfold: reading it would exhaust the memory.
MAX_RECORD_BYTES = 16 << 20

CHECKS = {".gz": "gzip -t", ".zst": "zstd -t"}  # ending of a file -> what checks that it is whole

# File -> {"records": number skipped, "of": number of all, "first": messages}, for all files that
# this process has opened. Runs write it to run.json and to the results of evaluations.
LEFT_OUT: dict[str, dict] = {}


class BadRecords:
  """Collects the bad records of a split. A reader yields `bad(path, place, reason)`, which is None,
  in place of a bad record; under the policy "error" the call raises UserError instead."""

  def __init__(self, on_bad_record: str):
    self._skip = on_bad_record == "skip"
    self.counts: list[dict] = []  # one for each file, as in LEFT_OUT
    self.rules: set[str] = set()  # those that older versions did not follow and that were applied
    self.reports: list[tuple[str, dict]] = []  # (name, count) of each call of `report`
    self.notes: list[tuple[str, str]] = []  # (message, level) of each call of `note`
    self._first: list[str] = []

  def __call__(self, path, place: str, reason) -> None:
    message = f"{path}, {place}: {reason}"
    if not self._skip:
      commands = [CHECKS[ending] for ending in CHECKS if str(path).endswith(ending)]
      check = "".join(f"; {command} checks whether the file is whole" for command in commands)
      raise UserError(f"{message}{check}; or skip such records: task.data.on_bad_record='skip'")
    if len(self._first) < FEW:
      self._first.append(message)

  def drop_bad(self, name, records: Iterable) -> Iterator:
    """Yields the good records of the file `name`, then counts and logs the bad ones."""
    bad = good = 0
    self._first = []
    for record in records:
      if record is None:
        bad += 1
      else:
        good += 1
        yield record
    self.end_file(str(name), bad, good + bad)

  def end_file(self, name: str, bad: int, total: int) -> None:
    """Records and logs the counts of the file `name`."""
    self.counts.append({"records": bad, "of": total, "first": self._first})
    self.report(name, self.counts[-1])

  def report(self, name: str, count: dict) -> None:
    """Reports the skipped records of a file, now and whenever they are read from the cache."""
    self.reports.append((name, count))
    report(name, count)

  def note(self, message: str, level: str = "warning") -> None:
    """Logs a note about the data, now and whenever they are read from the cache."""
    self.notes.append((message, level))
    log_once(message, level)

  def check_limit(self, where: str) -> None:
    """Raises UserError if too many records of the split `where` are bad, or all of them."""
    bad, total = (sum(count[key] for count in self.counts) for key in ("records", "of"))
    if bad:
      first = next(count["first"][0] for count in self.counts if count["first"])
      check_share(where, bad, total, first)


def check_share(where: str, bad: int, total: int, first: str) -> None:
  """Raises UserError if too many of all records of the data `where` are bad, or all of them."""
  if bad > max(FEW, int(MAX_SHARE * total)) or 0 < bad == total:
    raise UserError(
      f"{where}: {bad:,} of {total:,} records cannot be read; task.data.on_bad_record='skip'"
      f" allows {MAX_SHARE:.0%} ({FEW} in a small split), and never all; the first is {first}"
    )


class CollectedBadRecords(BadRecords):
  """Bad records of streamed data; keeps the messages of those that are skipped."""

  def __init__(self, on_bad_record: str):
    super().__init__(on_bad_record)
    self.messages: list[str] = []

  def __call__(self, path, place: str, reason) -> None:
    super().__call__(path, place, reason)
    self.messages.append(f"{path}, {place}: {reason}")


def nth_kept(left_out: Sequence[int], index: int) -> int:
  """Returns the number of the record that holds example `index`, where `left_out` are the numbers
  of the records that hold none, ascending."""
  # left_out[i] - i examples lie before left_out[i]
  return index + bisect.bisect(range(len(left_out)), index, key=lambda i: left_out[i] - i)


def report(name: str, count: dict) -> None:
  """Logs the skipped records of a file, once in a process, and keeps their count in LEFT_OUT."""
  if not count["records"]:
    LEFT_OUT.pop(name, None)
  elif LEFT_OUT.get(name) != count and multiprocessing.parent_process() is None:
    LEFT_OUT[name] = count  # a data worker is silent: its parent has read and reported the same
    for message in count["first"]:
      logging.warning("skipped: %s", message)
    logging.warning(f"{count['records']:,} of {count['of']:,} records of {name} were skipped")


@functools.cache
def log_once(message: str, level: str = "warning") -> None:
  """Logs a note about data, once in a process and not in data workers."""
  if multiprocessing.parent_process() is None:
    getattr(logging, level)("%s", message)
