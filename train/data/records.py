"""Reads examples from record files that TFDS can open, by index or shard by shard: those that
files.py writes, and any prepared TFDS dataset."""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from google.protobuf import message
from tensorflow_datasets.proto import tf_example_pb2

from train.common.errors import UserError, as_user_error
from train.data.bad_records import FEW, MAX_RECORD_BYTES, BadRecords, nth_kept
from train.data.chunks import CHUNK_BYTES
from train.data.source import CHUNK, Block, Example, PickledByFields

# Raised for a broken record by ArrayRecord, by protobuf, and by the conversion to text below.
READ_ERRORS = (RuntimeError, OSError, ValueError, LookupError, message.DecodeError)
SHARD_RECORDS = 2048  # opening a file of 300,000 records takes 15 ms, reading so many as long
BLOCK_RECORDS = 512  # at most
READER = "readahead_buffer_size:0,max_parallelism:0"  # threads would not be faster


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

  @property
  def instructions(self) -> list:
    """Returns TFDS's instructions, each a `filename` of which to `take` records after `skip`."""
    return self._builder.info.splits[self.split].file_instructions

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
      return [self.texts(record) for record in self._records.__getitems__(numbers)]
    except READ_ERRORS:  # read one by one, so that the error names the record
      return [self._read(number) for number in numbers]

  def _read(self, number: int) -> Example:
    try:
      return self.texts(self._records[number])
    except READ_ERRORS as error:
      raise UserError(f"{', '.join(self._where(number))}: {error}; {self.remedy}") from None

  def _where(self, number: int) -> tuple[str, str]:
    """Returns the file of a record and the record's number in that file."""
    for part in self.instructions:
      if number < part.take:
        return part.filename, f"record {part.skip + number} (from 0)"
      number -= part.take
    return self.folder, f"split {self.split!r}"

  def features(self) -> Mapping:
    """Returns the features of the first readable record, looking at the first few records only."""
    for number in range(min(FEW + 1, len(self))):
      with contextlib.suppress(*READ_ERRORS):
        return tf_example_pb2.Example.FromString(self._records[number]).features.feature
    return self._read(0)  # raises the error that names the record

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
            self.texts(self._records[number])
          except READ_ERRORS as error:
            unreadable.append(number)
            bad(*self._where(number), error)
    bad.end_file(name, len(unreadable), len(self))
    bad.check_limit(name)
    return dataclasses.replace(self, left_out=tuple(unreadable))

  def texts(self, record: bytes) -> Example:
    """Returns the example in a record; raises one of READ_ERRORS if it cannot be read."""
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


@dataclasses.dataclass(frozen=True)
class RecordShards(PickledByFields):
  """The examples of many records (Shards); a shard is a range of the records of one file."""

  of: Records
  num_bytes: int
  on_bad_record: str
  fingerprint: str

  @functools.cached_property
  def _files(self) -> list:
    return [part for part in self.of.instructions if part.take]

  @functools.cached_property
  def _first(self) -> list[int]:
    """Returns the number of each file's first shard, and the number of all shards."""
    return [0, *itertools.accumulate(-(-part.take // SHARD_RECORDS) for part in self._files)]

  @property
  def num_shards(self) -> int:
    return self._first[-1]

  @property
  def num_examples(self) -> int:
    return sum(part.take for part in self._files)

  def blocks(self, shard: int, first: int = 0) -> Iterator[Block]:
    number = bisect.bisect_right(self._first, shard) - 1
    part, bad = self._files[number], BadRecords(self.on_bad_record)
    size = max(self.num_bytes // sum(part.take for part in self._files), 1)  # bytes of a record
    most = min(max(CHUNK_BYTES // size, 1), BLOCK_RECORDS)
    start = part.skip + (shard - self._first[number]) * SHARD_RECORDS
    stop = min(start + SHARD_RECORDS, part.skip + part.take)
    with as_user_error(str(part.filename), *READ_ERRORS):
      reader = ArrayRecordReader(str(part.filename), READER)
    with contextlib.closing(reader):
      for place in range(start + first * most, stop, most):
        yield self._read(reader, part.filename, range(place, min(place + most, stop)), bad)

  def _read(self, reader, name, places: range, bad: BadRecords) -> Block:
    try:
      records = reader.read(places.start, places.stop)
    except READ_ERRORS:  # read one by one, so that the error names the record
      records = [None] * len(places)
    examples, messages = [], []
    for place, record in zip(places, records, strict=True):
      try:
        if record is None:
          (record,) = reader.read(place, place + 1)
        examples.append(self.of.texts(record))
      except READ_ERRORS as error:
        where = f"record {place} (from 0)"
        bad(name, where, f"{error}; {self.of.remedy}")
        messages.append(f"{name}, {where}: {error}")
    return Block(examples, messages)
