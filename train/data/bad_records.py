"""Records that cannot be read: an error that says where, or left out, counted and told.

Where a file breaks off (a gz, a JSON document, a catalog, parallel files of unequal length) nobody
can tell how much is lost: that is an error in both ways.
"""

import multiprocessing
from collections.abc import Iterable, Iterator

from absl import logging

from train.common.errors import UserError

WAYS = {"error": "the first stops the run", "skip": "they are left out, counted and told"}
FEW = 5  # of a file are shown in the log; so many pass in a split of any size, or small ones would
# stop at the first
MOST_SHARE = 0.01  # of a split; where more are bad, the file is not what it was taken for
# The longest of books have 15 million characters. A longer line is one of a file without line ends,
# of which a gz holds a thousand times its size: it would fill the memory before anybody is told.
MOST_BYTES = 16 << 20

# File -> how many "records" "of" how many, and the "first" in words: of all this process opened.
LEFT_OUT: dict[str, dict] = {}


class BadRecords:
  """Takes note of the bad ones among a split's records. A reader gives `bad(path, place, reason)`
  in place of such a record, which is None or raises UserError."""

  def __init__(self, on_bad_record: str):
    self._skip = on_bad_record == "skip"
    self.noted: list[dict] = []  # of each file, as in LEFT_OUT
    self._first: list[str] = []

  def __call__(self, path, place: str, reason) -> None:
    told = f"{path}, {place}: {reason}"
    if not self._skip:
      whole = "; gzip -t says whether the file is whole" if str(path).endswith(".gz") else ""
      raise UserError(f"{told}{whole}; or leave such records out: data.on_bad_record='skip'")
    if len(self._first) < FEW:
      self._first.append(told)

  def among(self, name: str, records: Iterable) -> Iterator:
    """The good ones of the records, which are all of the file `name`; the rest is told."""
    bad = good = 0
    self._first = []
    for record in records:
      if record is None:
        bad += 1
      else:
        good += 1
        yield record
    self.note(name, bad, good + bad)

  def note(self, name: str, bad: int, total: int) -> None:
    """Ends a file."""
    self.noted.append({"records": bad, "of": total, "first": self._first})
    tell(name, self.noted[-1])

  def limit(self, where: str) -> None:
    """Ends the split `where`; UserError if too many are bad, or all."""
    bad, total = (sum(one[key] for one in self.noted) for key in ("records", "of"))
    if bad > allowed(total) or 0 < bad == total:
      first = next(one["first"][0] for one in self.noted if one["first"])
      raise UserError(
        f"{where}: {bad:,} of {total:,} records cannot be read; data.on_bad_record='skip' leaves"
        f" out {MOST_SHARE:.0%} ({FEW} of a few), and never all; the first is {first}"
      )


def allowed(total: int) -> int:
  """How many of so many records may be bad."""
  return max(FEW, int(MOST_SHARE * total))


def tell(name: str, noted: dict) -> None:
  """Logs what was left out of a file, once in a process, and keeps it in LEFT_OUT."""
  if not noted["records"]:
    LEFT_OUT.pop(name, None)
  elif LEFT_OUT.get(name) != noted and multiprocessing.parent_process() is None:
    LEFT_OUT[name] = noted  # a data worker reads what its parent has read and told
    for one in noted["first"]:
      logging.warning("left out: %s", one)
    logging.warning(
      "%s of %s records of %s were left out", f"{noted['records']:,}", f"{noted['of']:,}", name
    )
