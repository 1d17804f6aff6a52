"""Opens the data sets that TFDS has prepared."""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping

import tensorflow_datasets as tfds
from google.protobuf import json_format

from train.common import json_files, paths
from train.common.errors import NoSplit, UserError, did_you_mean
from train.data import reading
from train.data.records import READ_ERRORS, Records, RecordShards
from train.data.source import digest, first_example, is_large

# Examples in a fingerprint: enough to distinguish datasets of the same size.
FINGERPRINT_RECORDS = 100
OWN_MODULES = ("tensorflow_datasets.", "tfds.")


def open_tfds(
  split: str,
  /,
  dataset: str,
  data_dir: str | None = None,
  on_bad_record: str = "error",
  stream: bool | None = None,
  splits: Mapping[str, str] | None = None,
  **fields: str,
) -> Records | RecordShards:
  """Opens a prepared TFDS dataset; `fields` maps our names to its features, nested as "a/b".
  `splits` maps our splits to the dataset's, or to parts of them: "train[:99%]".

  The fingerprint covers dataset_info.json (version, shard lengths, bytes), the split's length and
  up to 200 of its examples, of shards the first one. By index with on_bad_record="skip" the whole
  dataset is read: the bad records must be known before training begins, so that the order of the
  data stays a function of seed and step.
  """
  split = reading.get_split(split, splits) if splits else split
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
  info = pathlib.Path(builder.data_dir, "dataset_info.json").read_bytes()
  whole = builder.info.splits[split.split("[")[0]]
  num_bytes = whole.num_bytes * len(source) // max(whole.num_examples, 1)
  if is_large(num_bytes, stream):
    shards = RecordShards(source, num_bytes, on_bad_record, "")
    key = (info, split, sorted(fields.items()), on_bad_record, first_example(shards))
    return dataclasses.replace(shards, fingerprint=digest("streamed", *key))
  if on_bad_record == "skip":
    source = source.skip_bad()
  size = len(source)
  content = hashlib.sha256(info)
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
  if data_dir and paths.is_bucket(data_dir):
    raise UserError(
      f"data.data_dir: {data_dir} lies in a bucket, and TFDS datasets are read from a disk alone:"
      " copy the folder to a disk, or give what train.prepare or Parquet has in the bucket"
    )
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


def _check_fields(dataset: str, source: Records) -> None:
  if not source.fields:
    raise UserError(f'data: name the features of {dataset} to read, such as source="de"')
  values = source.features()
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
