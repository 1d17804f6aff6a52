"""Examples from record files that TFDS opens: those of files.py, and any prepared TFDS dataset."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format, message
from tensorflow_datasets.proto import tf_example_pb2

from train.common.errors import NoSplit, UserError, did_you_mean
from train.data import prepared
from train.data.bad_records import FEW, MOST_BYTES, BadRecords
from train.data.source import CHUNK, Example, reduced

# What ArrayRecord, protobuf and what is made of a record here raise.
BROKEN = (RuntimeError, OSError, ValueError, LookupError, message.DecodeError)
FINGERPRINT_RECORDS = 100  # of a TFDS dataset: enough to tell two of the same size apart


@dataclasses.dataclass(frozen=True)
class Records:
  """Features of a prepared TFDS folder as text; `fields` maps our name to TFDS's, nested as "a/b".

  A class is its name, a number its digits; the class -1 (a test set's) has no name and is "-1".
  UserError with file and number for a record that cannot be read.
  """

  folder: str
  split: str
  fields: Mapping[str, str]
  fingerprint: str
  mend: str  # what to do about a bad record
  left_out: tuple[int, ...] = ()  # records that are no examples, by number, ascending

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
    return len(self._records) - len(self.left_out)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{index} of {len(self)} examples")
    return self._read(self._number(index))

  def _getitems(self, indices: Sequence[int]) -> list[Example]:
    numbers = [self._number(index) for index in indices]
    try:
      return [self._texts(record) for record in self._records.__getitems__(numbers)]
    except BROKEN:  # one by one, to say which of them it is
      return [self._read(number) for number in numbers]

  @functools.cached_property
  def _before(self) -> np.ndarray:
    """How many examples are in front of each record that is left out."""
    return np.asarray(self.left_out) - np.arange(len(self.left_out))

  def _number(self, index: int) -> int:
    """The record that is the example."""
    if not self.left_out:
      return index  # the search below takes 2 us, reading a record 11
    return index + int(np.searchsorted(self._before, index, side="right"))

  def _read(self, number: int) -> Example:
    try:
      return self._texts(self._records[number])
    except BROKEN as error:
      raise UserError(f"{', '.join(self._where(number))}: {error}; {self.mend}") from None

  def _where(self, number: int) -> tuple[str, str]:
    """The file of a record and its number there."""
    for part in self._builder.info.splits[self.split].file_instructions:
      if number < part.take:
        return part.filename, f"record {part.skip + number} (from 0)"
      number -= part.take
    return self.folder, f"split {self.split!r}"

  def find_bad(self, bad: BadRecords) -> tuple[int, ...]:
    """The numbers of the records that cannot be read, each told to `bad`."""
    found = []
    for first in range(0, len(self), CHUNK):
      numbers = range(first, min(first + CHUNK, len(self)))
      try:
        self._getitems(numbers)
        continue
      except UserError:
        pass
      for number in numbers:
        try:
          self._texts(self._records[number])
        except BROKEN as error:
          found.append(number)
          bad(*self._where(number), error)
    return tuple(found)

  def _texts(self, record: bytes) -> Example:
    values = tf_example_pb2.Example.FromString(record).features.feature
    return {name: self._text(name, values[path]) for name, path in self.fields.items()}

  def _text(self, name: str, value) -> str:
    if value.bytes_list.value:
      text = value.bytes_list.value[0]
      if len(text) > MOST_BYTES:
        raise ValueError(f"{self.fields[name]!r} has {len(text):,} bytes, more than {MOST_BYTES:,}")
      return text.decode()
    if value.float_list.value:
      return str(np.float32(value.float_list.value[0]))  # as a float64 it has more digits
    if len(value.int64_list.value) != 1:
      raise ValueError(f"{self.fields[name]!r} is not one text or number")
    (number,) = value.int64_list.value
    names = self._classes.get(name)
    return names[number] if names and number >= 0 else str(number)

  __reduce__ = reduced


def open_tfds(
  split: str,
  /,
  dataset: str,
  data_dir: str | None = None,
  on_bad_record: str = "error",
  **fields: str,
) -> Records:
  """Records of a prepared TFDS dataset; `fields` maps our names to its features, nested as "a/b".

  The fingerprint covers dataset_info.json (version, shard lengths, bytes), the split's length and
  up to 200 of its examples: to cover all would mean reading the whole dataset at each start. To
  "skip" bad records does mean that: which they are is known before training begins, so the order
  of the data stays a function of seed and step.
  """
  builder = _prepared_builder(dataset, data_dir)
  known = list(builder.info.splits)
  if split.split("[")[0] not in known:
    raise NoSplit(
      f"{dataset} has no split {split!r}; it has {', '.join(known)}" + did_you_mean(split, known)
    )
  mend = "prepare the dataset again"
  if on_bad_record == "error":
    mend += ", or leave such records out: data.on_bad_record='skip'"
  source = Records(str(builder.data_dir), split, fields, "", mend)
  try:
    size = len(source)
  except (NotImplementedError, ValueError) as error:
    raise UserError(
      f"{builder.data_dir} split {split!r} cannot be read by index: {error}\n"
      + _how_to_prepare(dataset, data_dir)
    ) from None
  _check_fields(dataset, source)
  if on_bad_record == "skip":
    bad, name = BadRecords(on_bad_record), f"{builder.data_dir}, split {split}"
    source = dataclasses.replace(source, left_out=source.find_bad(bad))
    bad.note(name, len(source.left_out), size)
    bad.limit(name)
    size = len(source)
  content = hashlib.sha256(pathlib.Path(builder.data_dir, "dataset_info.json").read_bytes())
  content.update(str(size).encode())
  for index in range(0, size, max(1, size // FINGERPRINT_RECORDS)):
    content.update(json.dumps(source[index]).encode())
  if source.left_out:
    content.update(json.dumps(source.left_out).encode())
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
  except (UserError, *BROKEN, AssertionError, json_format.Error) as error:
    # no such name, config, version or folder, or in it not what TFDS writes
    reason = f" ({str(error).splitlines()[0]})"
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


def _features(source: Records) -> Mapping:
  """The features of the first record that can be read, if it is among the first few."""
  for number in range(min(FEW + 1, len(source))):
    try:
      return tf_example_pb2.Example.FromString(source._records[number]).features.feature
    except BROKEN:
      pass
  return source._read(0)  # which says why it cannot be read


def _check_fields(dataset: str, source: Records) -> None:
  if not source.fields:
    raise UserError(f'data: say which features of {dataset} to read, such as source="de"')
  values = _features(source)
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
