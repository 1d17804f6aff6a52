"""Where examples come from: SCAN, the user's files, or any TFDS dataset, all read by index."""

import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from train.data import catalogs, files, prepared, scan, texts
from train.data.formatted import Formatted
from train.errors import NoSplit, UserError, as_user_error, choose, did_you_mean

FINGERPRINT_RECORDS = 100  # of a TFDS dataset: enough to tell two of the same size apart

Example = dict[str, str]


class Source(Protocol):
  """Examples by index. Pickles small: a worker process opens the data itself, when it first reads.

  `fingerprint` is the hex digest of what the source holds. `_getitems` is what Grain calls to read
  many at once: about 8 times faster a record than one by one where the data lie on disk.
  """

  fingerprint: str

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...

  def _getitems(self, indices: Sequence[int]) -> list[Example]: ...


def open_split(spec: Mapping[str, object], split: str, needs: Sequence[str] = ()) -> Source:
  """The examples of one split; spec["name"] is a key of SOURCES, the rest its options.

  Raises UserError for an unknown name, option or split, for data that cannot be read, and for
  examples without one of the fields that the task `needs`.
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

  @functools.cached_property
  def _pairs(self) -> list[scan.Pair]:
    return scan.split(self.split, self.part, self.holdout)

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
    return Scan, (self.split, self.part, self.holdout)


@dataclasses.dataclass(frozen=True)
class Records:
  """Features of a prepared TFDS folder as text; `fields` maps our name to TFDS's, nested as "a/b".

  A class is its name, a number its digits; the class -1 (a test set's) has no name and is "-1".
  """

  folder: str
  split: str
  fields: Mapping[str, str]
  fingerprint: str

  @functools.cached_property
  def _records(self):
    # Raw: TFDS's decoding to numpy takes 60 us a record, parsing the text fields alone takes 5.
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return self._builder.as_data_source(self.split, deserialize_method=raw)

  @functools.cached_property
  def _builder(self):
    return tfds.builder_from_directory(self.folder)

  @functools.cached_property
  def _classes(self) -> dict[str, list[str]]:
    """The names of the classes of each field that has such."""
    found = {}
    for name, path in self.fields.items():
      feature = self._builder.info.features
      for key in path.split("/"):
        feature = feature[key]
      if isinstance(feature, tfds.features.ClassLabel):
        found[name] = feature.names
    return found

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{index} of {len(self)} examples")
    return self._getitems([index])[0]

  def _getitems(self, indices: Sequence[int]) -> list[Example]:
    with as_user_error(f"{self.folder}: a record cannot be read; prepare it anew"):
      return [self._texts(record) for record in self._records.__getitems__(list(indices))]

  def _texts(self, record: bytes) -> Example:
    values = tf_example_pb2.Example.FromString(record).features.feature
    return {name: self._text(name, values[path]) for name, path in self.fields.items()}

  def _text(self, name: str, value) -> str:
    if value.bytes_list.value:
      return value.bytes_list.value[0].decode()
    if value.float_list.value:
      return str(np.float32(value.float_list.value[0]))  # as a float64 it has more digits
    (number,) = value.int64_list.value
    names = self._classes.get(name)
    return names[number] if names and number >= 0 else str(number)

  def __reduce__(self):
    return Records, (self.folder, self.split, self.fields, self.fingerprint)


def _open_scan(part: str, /, split: str = "simple", holdout: int = 0) -> Scan:
  source = Scan(split, part, holdout)
  len(source)  # a wrong split or part is told now, not in a worker
  return source


def _open_files(split: str, /, splits, columns=("source", "target")) -> Records:
  """The records of a split's files; "train.tsv[:90%]" means that part of them, in order."""
  splits, start, stop = texts.part_of(split, splits)
  part = "" if (start, stop) == (0, 100) else f"[{start}%:{stop}%]"
  # the parts of a file are parts of the same records, so blank ones are dropped from all
  folder, fields = files.prepare(split, splits, columns, True if part else None)
  return Records(
    str(folder), files.SPLIT + part, {field: field for field in fields}, folder.name + part
  )


def _open_tfds(split: str, /, dataset: str, data_dir: str | None = None, **fields: str) -> Records:
  """Records of a prepared TFDS dataset; `fields` maps our names to its features, nested as "a/b".

  The fingerprint covers dataset_info.json (version, shard lengths, bytes), the split's length and
  up to 200 of its examples: to cover all would mean reading the whole dataset at each start.
  """
  builder = _prepared_builder(dataset, data_dir)
  with as_user_error(f"{builder.data_dir} is not what TFDS writes; prepare it anew"):
    known = list(builder.info.splits)
    if split.split("[")[0] not in known:
      raise NoSplit(
        f"{dataset} has no split {split!r}; it has {', '.join(known)}" + did_you_mean(split, known)
      )
    source = Records(str(builder.data_dir), split, fields, "")
    try:
      size = len(source)
    except (NotImplementedError, ValueError) as error:
      raise UserError(
        f"{builder.data_dir} split {split!r} cannot be read by index: {error}\n"
        + _how_to_prepare(dataset, data_dir)
      ) from None
    _check_fields(dataset, source)
    content = hashlib.sha256(pathlib.Path(builder.data_dir, "dataset_info.json").read_bytes())
    content.update(str(size).encode())
    for index in range(0, size, max(1, size // FINGERPRINT_RECORDS)):
      content.update(json.dumps(source[index]).encode())
    return dataclasses.replace(source, fingerprint=content.hexdigest())


def _prepared_builder(dataset: str, data_dir: str | None):
  if data_dir is not None:
    data_dir = str(pathlib.Path(data_dir).expanduser())
  reason = ""
  try:
    prepared.check_features(dataset, data_dir)
    builder = tfds.builder(dataset, data_dir=data_dir)
    if builder.info.splits:
      return builder
  except Exception as error:  # no such name, config, version or folder; nothing that TFDS wrote
    reason = f" ({str(error).partition(chr(10))[0]})"
  place = data_dir or "TFDS's own folder ($TFDS_DATA_DIR or ~/tensorflow_datasets)"
  raise UserError(
    f"TFDS dataset {dataset!r} is not prepared in {place}{reason}\n"
    + _how_to_prepare(dataset, data_dir)
  )


def _how_to_prepare(dataset: str, data_dir: str | None) -> str:
  option = f" --data_dir={data_dir}" if data_dir else ""
  return (
    "Prepare it once, in an environment with TensorFlow (training needs none):\n"
    "  pip install tensorflow tensorflow-datasets\n"
    f"  tfds build {dataset} --file_format=array_record{option}"
  )


def _check_fields(dataset: str, source: Records) -> None:
  if not source.fields:
    raise UserError(f'data: say which features of {dataset} to read, such as source="de"')
  values = tf_example_pb2.Example.FromString(source._records[0]).features.feature
  known = sorted(values)
  for name, path in source.fields.items():
    if path not in known:
      raise UserError(
        f"data.{name}: {dataset} has no feature {path!r}; it has {', '.join(known)}"
        + (did_you_mean(path, known) or did_you_mean(name, ("dataset", "data_dir")))
      )
    value = values[path]
    if len(value.bytes_list.value or value.float_list.value or value.int64_list.value) != 1:
      raise UserError(f"data.{name}: feature {path!r} of {dataset} is not one text or number")


def _open_formatted(split: str, /, of: Mapping, **patterns: str) -> Formatted:
  if not patterns:
    raise UserError('data: say what to make of the examples, such as source="{question}"')
  source = Formatted(open_split(of, split), patterns)
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


def _blank(path: str) -> list[dict]:
  del path
  return [BLANK]


def _open_blank(_: str, /) -> texts.InMemory:
  return texts.InMemory(("",), _blank, (), "blank")


SOURCES = {
  "blank": _open_blank,  # one example of every task's fields: what wants shapes needs no data
  "formatted": _open_formatted,
  "scan": _open_scan,
  "files": _open_files,
  "gettext": catalogs.open_gettext,
  "tfds": _open_tfds,
  "text": texts.open_text,
  "conll": texts.open_conll,
  "squad": texts.open_squad,
}
