"""Where examples come from: SCAN, the user's files, or any TFDS dataset, all read by index."""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Mapping, Sequence

from train.common.errors import UserError, choose, did_you_mean
from train.data import bad_records, catalogs, files, records, scan, texts
from train.data.formatted import Formatted
from train.data.records import Records
from train.data.source import Example, Source


def open_split(spec: Mapping[str, object], split: str, needs: Sequence[str] = ()) -> Source:
  """The examples of one split; spec["name"] is a key of SOURCES, the rest its options.

  Raises UserError for an unknown name, option or split, for data that cannot be read (with
  on_bad_record="skip": for more than a few of such records), and for examples without one of the
  fields that the task `needs`.
  """
  options = dict(spec)
  name = options.pop("name", None)
  make = choose(SOURCES, name, "data.name")
  _, *parameters = inspect.signature(make).parameters.values()
  named = [parameter for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]
  known = [parameter.name for parameter in named]
  for key in options:
    if key not in known and named == parameters:
      raise UserError(
        f"data.{key}: source {name!r} has no such option (it has {', '.join(known)})"
        + did_you_mean(key, known)
      )
  if "on_bad_record" in options:
    choose(bad_records.WAYS, options["on_bad_record"], "data.on_bad_record")
  for parameter in named:
    if parameter.default is parameter.empty and parameter.name not in options:
      raise UserError(f"data.{parameter.name} is missing: source {name!r} needs it")
  source = make(split, **options)
  there = source[0] if needs and len(source) else dict.fromkeys(needs)
  for field in needs:
    if field not in there:
      raise UserError(
        f"data: the task needs examples with {field!r}, those of source {name!r} have"
        f" {', '.join(there)}{did_you_mean(field, there)}"
      )
  return source


@dataclasses.dataclass(frozen=True)
class Scan:
  """SCAN's split and part as {"source": command, "target": actions}."""

  split: str
  part: str
  holdout: int
  cutoff: int

  @functools.cached_property
  def _pairs(self) -> list[scan.Pair]:
    return scan.split(self.split, self.part, self.holdout, self.cutoff)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hex digest of all lines in order."""
    return hashlib.sha256("\n".join(map(scan.line, self._pairs)).encode()).hexdigest()

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> Example:
    command, actions = self._pairs[index]
    return {"source": command, "target": actions}

  def _getitems(self, indices: Sequence[int]) -> list[Example]:
    return [self[index] for index in indices]

  def __reduce__(self):
    return Scan, (self.split, self.part, self.holdout, self.cutoff)


def _open_scan(
  part: str,
  /,
  split: str = "simple",
  holdout: int = 0,
  cutoff: int = scan.CUTOFF,
  on_bad_record: str = "error",
) -> Scan:
  del on_bad_record  # nothing is read
  source = Scan(split, part, holdout, cutoff)
  len(source)  # a wrong split or part is told now, not in a worker
  return source


def _open_files(
  split: str, /, splits, columns=("source", "target"), on_bad_record: str = "error"
) -> Records:
  """The records of a split's files; "train.tsv[:90%]" means that part of them, in order."""
  splits, start, stop = texts.part_of(split, splits)
  part = "" if (start, stop) == (0, 100) else f"[{start}%:{stop}%]"
  # the parts of a file are parts of the same records, so blank ones are dropped from all
  folder, fields = files.prepare(split, splits, columns, True if part else None, on_bad_record)
  names = {field: field for field in fields}
  mend = "run the same command again, which writes the cache anew from your files"
  return Records(str(folder), files.SPLIT + part, names, folder.name + part, mend)


def _open_formatted(
  split: str, /, of: Mapping, on_bad_record: str = "error", **patterns: str
) -> Formatted:
  if not patterns:
    raise UserError('data: say what to make of the examples, such as source="{question}"')
  if "on_bad_record" in of:
    raise UserError("data.of.on_bad_record: it is data.on_bad_record that counts")
  source = Formatted(open_split({**of, "on_bad_record": on_bad_record}, split), patterns)
  if not len(source):
    raise UserError(f"data.of: {split!r} has no example; check the files it names")
  source[0]  # a wrong pattern is told now, not in a worker
  return source


BLANK = dict(
  source="a",
  target="a",
  text="a",
  text_pair="a",
  label="0",
  words=["a"],
  tags=["O"],
  id="a",
  question="a",
  context="a",
  answers=[dict(text="a", answer_start=0)],
)


def _blank(path: str, bad) -> list[dict]:
  del path, bad
  return [BLANK]


def _open_blank(split: str, /, on_bad_record: str = "error") -> texts.InMemory:
  del split, on_bad_record
  return texts.InMemory(("",), _blank, (), "blank")


SOURCES = {
  "blank": _open_blank,  # one example of every task's fields: what wants shapes needs no data
  "formatted": _open_formatted,
  "scan": _open_scan,
  "files": _open_files,
  "gettext": catalogs.open_gettext,
  "tfds": records.open_tfds,
  "text": texts.open_text,
  "conll": texts.open_conll,
  "squad": texts.open_squad,
}
