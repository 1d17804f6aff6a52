"""Reads examples from record files that TFDS can open: those that files.py writes, and any prepared
TFDS dataset."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import operator
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format, message
from tensorflow_datasets.proto import tf_example_pb2

from train.common import json_files
from train.common.errors import NoSplit, UserError, did_you_mean
from train.data.bad_records import FEW, MAX_RECORD_BYTES, BadRecords, nth_kept
from train.data.source import CHUNK, Example, PickledByFields

# Raised for a broken record by ArrayRecord, by protobuf, and by the conversion to text below.
READ_ERRORS = (RuntimeError, OSError, ValueError, LookupError, message.DecodeError)
# Examples in a TFDS dataset's fingerprint: enough to distinguish datasets of the same size.
FINGERPRINT_RECORDS = 100
OWN_MODULES = ("tensorflow_datasets.", "tfds.")


@dataclasses.dataclass(frozen=True)
class Records(PickledByFields):
  """Features of a prepared TFDS folder as text; `fields` maps our names to TFDS's, nested as "a/b".

  A class becomes its name and a number its digits; class -1 (in test sets) has no name and becomes
  "-1". A record that cannot be read raises UserError with its file and number.
  """

  folder: str
  split: str
  fields: Mapping[str, str]
  fingerprint: str
  remedy: str  # what the user can do about a bad record
  left_out: tuple[int, ...] = ()  # numbers of the records that are skipped, ascending

  @functools.cached_property
  def _records(self):
    # raw bytes: TFDS's decoding to numpy takes 60 us a record, parsing the text fields takes 5
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return self._builder.as_data_source(self.split, deserialize_method=raw)

  @functools.cached_property
  def _builder(self):
    return tfds.builder_from_directory(self.folder)

  @functools.cached_property
  def _classes(self) -> dict[str, list[str]]:
    """Returns the class names of each field that is a class."""
    classes = {}
    for name, path in self.fields.items():
      feature = functools.reduce(operator.getitem, path.split("/"), self._builder.info.features)
      if isinstance(feature, tfds.features.ClassLabel):
        classes[name] = feature.names
    return classes

  def __len__(self) -> int:
    return len(self._records) - len(self.left_out)

  def is_empty(self) -> bool:
    """Returns whether the split, which may be a part of another, has no record at all."""
    return not self._builder.info.splits[self.split].num_examples

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f"{index} of {len(self)} examples")
    return self._read(nth_kept(self.left_out, index))

  def _getitems(self, indices: Sequence[int]) -> list[Example]:
    numbers = [nth_kept(self.left_out, index) for index in indices]
    try:
      return [self._texts(record) for record in self._records.__getitems__(numbers)]
    except READ_ERRORS:  # read one by one, so that the error names the record
      return [self._read(number) for number in numbers]

  def _read(self, number: int) -> Example:
    try:
      return self._texts(self._records[number])
    except READ_ERRORS as error:
      raise UserError(f"{', '.join(self._where(number))}: {error}; {self.remedy}") from None

  def _where(self, number: int) -> tuple[str, str]:
    """Returns the file of a record and the record's number in that file."""
    for part in self._builder.info.splits[self.split].file_instructions:
      if number < part.take:
        return part.filename, f"record {part.skip + number} (from 0)"
      number -= part.take
    return self.folder, f"split {self.split!r}"

  def skip_bad(self) -> "Records":
    """Returns the source without the records that cannot be read, which are counted and logged."""
    bad, name, unreadable = BadRecords("skip"), f"{self.folder}, split {self.split}", []
    for first in range(0, len(self), CHUNK):
      numbers = range(first, min(first + CHUNK, len(self)))
      try:
        self._getitems(numbers)
      except UserError:
        for number in numbers:
          try:
            self._texts(self._records[number])
          except READ_ERRORS as error:
            unreadable.append(number)
            bad(*self._where(number), error)
    bad.end_file(name, len(unreadable), len(self))
    bad.check_limit(name)
    return dataclasses.replace(self, left_out=tuple(unreadable))

  def _texts(self, record: bytes) -> Example:
    values = tf_example_pb2.Example.FromString(record).features.feature
    return {name: self._text(name, values[path]) for name, path in self.fields.items()}

  def _text(self, name: str, value) -> str:
    if value.bytes_list.value:
      text = value.bytes_list.value[0]
      if len(text) > MAX_RECORD_BYTES:
        raise ValueError(
          f"{self.fields[name]!r} has {len(text):,} bytes, more than {MAX_RECORD_BYTES:,}"
        )
      return text.decode()
    if value.float_list.value:
      return str(np.float32(value.float_list.value[0]))  # as a float64 it has more digits
    if len(value.int64_list.value) != 1:
      raise ValueError(f"{self.fields[name]!r} is not one text or number")
    (number,) = value.int64_list.value
    names = self._classes.get(name)
    return names[number] if names and number >= 0 else str(number)


def open_tfds(
  split: str,
  /,
  dataset: str,
  data_dir: str | None = None,
  on_bad_record: str = "error",
  **fields: str,
) -> Records:
  """Opens a prepared TFDS dataset; `fields` maps our names to its features, nested as "a/b".

  The fingerprint covers dataset_info.json (version, shard lengths, bytes), the split's length and
  up to 200 of its examples, so that opening does not read the whole dataset. With
  on_bad_record="skip" the whole dataset is read: the bad records must be known before training
  begins, so that the order of the data stays a function of seed and step.
  """
  builder = _prepared_builder(dataset, data_dir)
  known = list(builder.info.splits)
  if split.split("[")[0] not in known:
    raise NoSplit(
      f"{dataset} has no split {split!r}; it has {', '.join(known)}" + did_you_mean(split, known)
    )
  remedy = "prepare the dataset again"
  if on_bad_record == "error":
    remedy += ", or skip such records: task.data.on_bad_record='skip'"
  source = Records(str(builder.data_dir), split, fields, "", remedy)
  try:
    len(source)
  except (NotImplementedError, ValueError) as error:
    problem = f"{builder.data_dir} split {split!r} cannot be read by index: {error}"
    raise _unprepared(problem, dataset, data_dir) from None
  _check_fields(dataset, source)
  if on_bad_record == "skip":
    source = source.skip_bad()
  size = len(source)
  content = hashlib.sha256(pathlib.Path(builder.data_dir, "dataset_info.json").read_bytes())
  content.update(str(size).encode())
  for index in range(0, size, max(1, size // FINGERPRINT_RECORDS)):
    content.update(json.dumps(source[index]).encode())
  if source.left_out:
    content.update(json.dumps(source.left_out).encode())
  return dataclasses.replace(source, fingerprint=content.hexdigest())


def _check_modules(dataset: str, data_dir: str | None) -> None:
  """Raises UserError if the dataset's features.json would make TFDS import, and so run, a module
  that is not part of TFDS."""
  folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR, re.split("[/:]", dataset)[0])
  for path in folder.rglob("features.json"):
    waiting = [json_files.read(path)]
    while waiting:
      value = waiting.pop()
      for key in ("pythonClassName", "python_class_name", "type"):
        name = value.get(key) if isinstance(value, dict) else None
        if isinstance(name, str) and "." in name and not name.startswith(OWN_MODULES):
          raise UserError(f"{path}: {key} is {name}, not a feature of TFDS: it is not imported")
      if isinstance(value, (dict, list)):
        waiting += value.values() if isinstance(value, dict) else value


def _prepared_builder(dataset: str, data_dir: str | None):
  data_dir = data_dir and str(pathlib.Path(data_dir).expanduser())
  reason = ""
  try:
    _check_modules(dataset, data_dir)
    builder = tfds.builder(dataset, data_dir=data_dir)
    if builder.info.splits:
      return builder
  except (UserError, *READ_ERRORS, AssertionError, json_format.Error) as error:
    # the name, config, version or folder does not exist, or TFDS has not written its content
    reason = f" ({str(error).splitlines()[0]})"
  place = data_dir or "TFDS's own folder ($TFDS_DATA_DIR or ~/tensorflow_datasets)"
  problem = f"TFDS dataset {dataset!r} is not prepared in {place}{reason}"
  raise _unprepared(problem, dataset, data_dir)


def _unprepared(problem: str, dataset: str, data_dir: str | None) -> UserError:
  option = f" --data_dir={data_dir}" if data_dir else ""
  return UserError(
    f"{problem}\nPrepare it once, in an environment with TensorFlow (training needs none):\n"
    "  pip install tensorflow tensorflow-datasets\n"
    f"  tfds build {dataset} --file_format=array_record{option}"
  )


def _features(source: Records) -> Mapping:
  """Returns the features of the first readable record, looking at the first few records only."""
  for number in range(min(FEW + 1, len(source))):
    with contextlib.suppress(*READ_ERRORS):
      return tf_example_pb2.Example.FromString(source._records[number]).features.feature
  return source._read(0)  # raises the error that names the record


def _check_fields(dataset: str, source: Records) -> None:
  if not source.fields:
    raise UserError(f'data: name the features of {dataset} to read, such as source="de"')
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
