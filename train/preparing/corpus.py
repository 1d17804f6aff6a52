"""Prepares the splits of a task's data in a folder, and goes on where a former start ended."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence

from absl import logging

from train.common import json_files, paths
from train.common.errors import UserError, indented
from train.common.files import write_atomically
from train.data import bad_records, documents, items, languages, token_records
from train.data.source import Ranges, Shards, as_shards, digest, first_example
from train.data.token_corpus import MANIFEST, TOKENIZER
from train.data.tokenizer import Tokenizer
from train.preparing import progress
from train.preparing.job import Job, count_files

SETTINGS = "prepare.json"  # what a folder is prepared with, written first
RunAll = Callable[[Callable[[int], None], Sequence[int]], None]  # calls a function with each number
TOTALS = ("shards", "records", "bytes", "documents", "tokens", "duplicates", "bad", "dropped")
LISTED = ("name", "shards", "records", "bytes", "documents", "tokens")  # of a file, in the manifest


def check_settings(folder: str, settings: Mapping) -> dict:
  """Returns what the folder is prepared with, and writes it to a new folder first, which has no
  tokenizer yet; raises UserError where it was begun with other settings."""
  path = paths.of(folder) / SETTINGS
  settings = json.loads(json.dumps(settings))
  if not path.exists() or not (paths.of(folder) / TOKENIZER).exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(settings, indent=1) + "\n")
    return settings
  there, here = (_flat(x) for x in (json_files.read(path), settings))
  differ = [key for key in {**there, **here} if there.get(key) != here.get(key)]
  if differ:
    lines = [f"{key}: {there.get(key)!r} there, {here.get(key)!r} here" for key in differ]
    raise UserError(
      f"{folder} was begun with other settings; go back to them, or take another folder:"
      f"{indented(lines)}"
    )
  return settings


def _flat(values: Mapping, prefix: str = "") -> dict:
  flat = {}
  for key, value in values.items():
    inner = isinstance(value, Mapping)
    flat |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
  return flat


def find_source(found: items.Items):
  """Returns the source of a task's items and the fields of its examples that are encoded; raises
  UserError for a task of another kind."""
  if isinstance(found, documents.Windows):
    return found.tokens.source, ("text",)
  if isinstance(found, items.Pairs):
    return found.source, ("source", "target")
  raise UserError(
    "train.prepare is for tasks that read documents or pairs of texts: pre-training, translation"
  )


def make_job(
  folder: str, split: str, source, encoded: Sequence[str], tokenizer: Tokenizer, drop: bool
) -> Job:
  """Returns the files of a split. Without fields to encode it is kept as texts, which evaluations
  need for their scores."""
  shards = as_shards(source)
  fields = {token_records.WHOLE: "text"}
  if encoded:
    example = first_example(source)
    if example is None:
      raise UserError(f"the split {split} has no example: check the files it names")
    fields = dict.fromkeys(encoded, token_records.kind_of_ids(tokenizer.vocab_size))
    fields |= {field: "text" for field in languages.FIELDS if field in example}
  shards: Shards = Ranges(source) if shards is None else shards
  arguments = (folder, split, shards, fields, tokenizer.fingerprint, count_files(shards))
  return Job(*arguments, drop_duplicates=drop and bool(encoded))


def prepare_split(job: Job, indexed: bool, run_all: RunAll) -> dict:
  """Writes the files of a split that are missing, and its part of the manifest, which it returns.
  Raises UserError where former files are of other data."""
  _check_begun(job)
  folder = paths.of(job.folder) / job.split
  with contextlib.suppress(FileNotFoundError):
    progress.remove_notes(folder)
  waiting = _find_missing(job)
  if waiting and job.drop_duplicates:
    _find_duplicates(job, run_all)
  if waiting:
    logging.info("%s: writing %d of %d files", job.split, len(waiting), job.count)
    with progress.report(job, waiting):
      run_all(job.write, waiting)
  progress.remove_notes(folder, partial=True)
  return _add_to_manifest(job, indexed)


def _find_missing(job: Job) -> list[int]:
  """Returns the numbers of the files that are not there, or not as long as they were written."""
  there = paths.contents(paths.of(job.folder) / job.split, digests=False)

  def is_whole(number):
    note, records = job.path(number), job.name(number).removeprefix(f"{job.split}/")
    if not {note.name, records} <= there.keys():
      return False
    return json_files.read(note)["bytes"] == there[records][0]

  return [number for number in range(job.count) if not is_whole(number)]


def _find_duplicates(job: Job, run_all: RunAll) -> None:
  hashes = job.hashes
  waiting = [number for number in range(job.count) if not hashes.path(number).exists()]
  if waiting:
    logging.info("%s: reading all documents for their hashes", job.split)
    run_all(hashes.write, waiting)
  ranges = hashes.count_ranges()
  waiting = [number for number in range(ranges) if not hashes.found_path(number).exists()]
  if waiting:
    logging.info("%s: comparing the hashes", job.split)
    run_all(hashes.finder(ranges), waiting)


def _check_begun(job: Job) -> None:
  """Notes the data of a split in its folder; raises UserError where others were noted."""
  path = paths.of(job.folder) / job.split / "data.json"
  data = dict(fingerprint=job.shards.fingerprint, fields=dict(job.fields), files=job.count)
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(data) + "\n")
  elif (there := json_files.read(path)) != data:
    differ = [key for key in data if there.get(key) != data[key]]
    raise UserError(
      f"{path.parent} was begun with other data ({', '.join(differ)} differ): restore the files it"
      " was made of, or take another folder"
    )


def _add_to_manifest(job: Job, indexed: bool) -> dict:
  files = [json_files.read(job.path(number)) for number in range(job.count)]
  totals = {name: sum(file[name] for file in files) for name in TOTALS}
  notes = [note for file in files for note in file["notes"]]
  for note in notes[: bad_records.FEW]:
    logging.warning("skipped: %s", note)
  count = totals["documents"] + totals["duplicates"] + totals["bad"]
  bad_records.check_share(f"the split {job.split}", totals["bad"], count, *notes[:1] or [""])
  if not totals["documents"]:
    raise UserError(f"the split {job.split} has no example: check the files it names")
  fingerprint = job.shards.fingerprint
  if totals["duplicates"]:
    fingerprint = digest(fingerprint, "without duplicates")
  lengths = {
    field: list(map(sum, zip(*(file["lengths"][field] for file in files)))) for field in job.fields
  }
  split = dict(fingerprint=fingerprint, fields=dict(job.fields), indexed=indexed)
  split |= dict(num_bytes=job.shards.num_bytes, totals=totals, lengths=lengths)
  split["files"] = [{name: file[name] for name in LISTED} for file in files]
  path = paths.of(job.folder) / MANIFEST
  manifest = dict(version=token_records.VERSION, tokenizer=job.tokenizer, splits={})
  if path.exists():
    manifest["splits"] = json_files.read(path)["splits"]
  manifest["splits"][job.split] = split
  write_atomically(path, _to_json(manifest) + "\n")
  return split


def _to_json(manifest: Mapping) -> str:
  """Returns a manifest as JSON with a file, and each other value of a split, on a line."""
  splits = []
  for name, split in manifest["splits"].items():
    values = {key: json.dumps(value) for key, value in split.items()}
    values["files"] = "[\n" + ",\n".join(json.dumps(file) for file in split["files"]) + "]"
    lines = ",\n".join(f"{json.dumps(key)}: {value}" for key, value in values.items())
    splits.append(f"{json.dumps(name)}: {{\n{lines}}}")
  rest = json.dumps({key: value for key, value in manifest.items() if key != "splits"})
  return f'{rest[:-1]},\n"splits": {{\n' + ",\n".join(splits) + "}}"


def describe(folder: str, name: str, split: Mapping) -> str:
  """Returns a line about a prepared split."""
  totals = split["totals"]
  more = [f"{totals[key]:,} {key}" for key in ("duplicates", "bad", "dropped") if totals[key]]
  return (
    f"{folder}, {name}: {totals['documents']:,} documents, {totals['tokens']:,} "
    + ("bytes of text" if token_records.WHOLE in split["fields"] else "tokens")
    + f" in {len(split['files'])} files of {totals['bytes'] / 1e6:,.0f} MB"
    + (f"; left out: {', '.join(more)}" if more else "")
  )
