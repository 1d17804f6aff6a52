"""A prepared TFDS folder, looked at before TFDS reads it."""

import pathlib
import re

import tensorflow_datasets as tfds

from train.common import json_files
from train.common.errors import UserError

OWN = ("tensorflow_datasets.", "tfds.")


def check_features(dataset: str, data_dir: str | None) -> None:
  """UserError if a features.json of the data set would make TFDS import a module (and so run it)
  that is not TFDS's own."""
  folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR, re.split("[/:]", dataset)[0])
  for path in folder.rglob("features.json"):
    _check(path)


def _check(path):
  waiting = [json_files.read(path)]
  while waiting:
    one = waiting.pop()
    for key in ("pythonClassName", "python_class_name", "type"):
      name = one.get(key) if isinstance(one, dict) else None
      if isinstance(name, str) and "." in name and not name.startswith(OWN):
        raise UserError(f"{path}: {key} is {name}, no feature of TFDS's own: it is not imported")
    if isinstance(one, (dict, list)):
      waiting += one.values() if isinstance(one, dict) else one
