"""Keeps digests of the files that a run makes of its data: its tokenizer and its labels."""

import hashlib
import os

from absl import logging

from train.common import paths
from train.common.errors import UserError
from train.record.workdir import MADE_OF_DATA, starts


def digests(path: str | os.PathLike) -> dict[str, str]:
  """Returns name -> SHA-256 of the files that a run makes of its data, as far as they exist."""
  files = [paths.of(path) / name for name in MADE_OF_DATA]
  return {
    file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()
  }


def check(path: str | os.PathLike) -> None:
  """Raises UserError where a file that the run made of its data is not the one that it trained
  with: then ids would stand for other words or labels."""
  listed, here = starts(path), digests(path)
  if here and not listed:
    logging.warning(
      "%s/run.json is missing: whether %s are those of the run's training cannot be checked",
      path,
      " and ".join(here),
    )
  recorded = [start["files"] for start in listed if "files" in start][-1:]
  for name, digest in recorded[0].items() if recorded else ():
    if here.get(name) != digest:
      what = "another than the run was trained with" if name in here else "missing"
      raise UserError(
        f"{paths.of(path) / name} is {what} (its SHA-256 in run.json: {digest[:12]}...): restore it"
      )
