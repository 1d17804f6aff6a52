"""Writes records to ArrayRecord once, into a folder of the cache that is named by their content.

TFDS's own writer is not used: it needs TensorFlow for more than 1 GB, and its shards grow too long
(see SHARD_RECORDS).
"""

import contextlib
import itertools
import json
import pathlib
import uuid
from collections.abc import Callable, Iterable

from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter

from train.common.errors import UserError
from train.common.files import new_folder
from train.data.reading import file_digest

# Reading one record takes time in proportion to its shard's length (array_record 0.8.6: 20 us at
# 4,000 records, 100 us at 29,000, 1.7 ms at 500,000), and each shard keeps a file open. So shards
# begin short and double every 64: 4.5M pairs make 151 files.
SHARD_RECORDS = 16384
SHARDS_BEFORE_DOUBLING = 64
NOTE = "written.json"  # a file in each folder: facts about the records, and the files' digests


def write_once(folder: pathlib.Path, where: str, write: Callable[[pathlib.Path], dict]) -> dict:
  """Returns the facts about a folder's records, which `write(folder)` returns; it is called if the
  folder is missing or damaged. `where` names the data in the log."""
  note = _read_note(folder)
  if note is None:
    if folder.exists():
      logging.warning("%s is damaged and is written again", folder)
      with contextlib.suppress(FileNotFoundError):  # another process was first
        folder.rename(folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex}"))
    logging.info("%s: writing its files to ArrayRecord, once", where)
    with new_folder(folder) as partial:
      facts = write(partial)
      digests = {path.name: file_digest(path) for path in sorted(partial.iterdir())}
      note = facts | {"digests": digests}
      (partial / NOTE).write_text(json.dumps(note), encoding="utf-8")
  return note


def _read_note(folder: pathlib.Path) -> dict | None:
  """Returns NOTE's content, or None if NOTE or a file that it lists is missing or has changed."""
  try:
    note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    whole = all(file_digest(folder / name) == value for name, value in note["digests"].items())
    return note if whole else None
  except (OSError, ValueError, KeyError, UserError):
    return None


def write_shards(folder: pathlib.Path, records: Iterable[bytes]) -> tuple[list[int], int]:
  """Writes records to files 0, 1, ...; returns the number in each file, and the bytes of all."""
  records, lengths, size = iter(records), [], 0
  for first in records:
    limit = SHARD_RECORDS << (len(lengths) // SHARDS_BEFORE_DOUBLING)
    count = 0
    path = folder / str(len(lengths))
    with contextlib.closing(ArrayRecordWriter(str(path), "group_size:1,uncompressed")) as writer:
      for record in itertools.chain([first], itertools.islice(records, limit - 1)):
        writer.write(record)
        count, size = count + 1, size + len(record)
    lengths.append(count)
  return lengths, size
