"""Opens a split of any data source by the name in its config, to be read by index or, if it is
large, shard by shard."""

import inspect
import itertools
import math
from collections.abc import Mapping, Sequence

from absl import logging

from train.common.errors import NoSplit, UserError, choose, did_you_mean
from train.data import (
  arrow,
  bad_records,
  files,
  gettext_catalogs,
  parquet,
  prepared,
  questions,
  scan,
  sentences,
  texts,
  token_corpus,
)
from train.data.bad_records import log_once
from train.data.combined import First, Formatted, Joined, JoinedShards
from train.data.source import (
  LARGE,
  Ranges,
  Shards,
  Source,
  all_examples,
  as_shards,
  digest,
  first_example,
  sample,
)

SAMPLE_BYTES = 1 << 20  # of large data that are not for training, without a limit


def open_split(
  spec: Mapping[str, object], split: str, needs: Sequence[str] = ()
) -> Source | Shards:
  """Opens the examples of one split; spec["name"] is a key of SOURCES, the rest are its options.

  Each source has the option `limit`, split -> number: only so many first examples are read, of
  shards as many of a sample. Those that may be large have the option `stream`, whether they are
  read shard by shard, by default by their size.

  Raises UserError for an unknown name, option or split, for data that cannot be read (with
  on_bad_record="skip": for more than a few bad records), and for examples without one of the fields
  that the task `needs`.
  """
  options = dict(spec)
  name, limit = options.pop("name", None), options.pop("limit", None) or {}
  _check_limit(limit, options.get("splits"))
  open_source = choose(SOURCES, name, "data.name")
  if name == "blank":
    options["fields"] = tuple(needs)
  choose(bad_records.POLICIES, options.get("on_bad_record", "error"), "data.on_bad_record")
  _, *parameters = inspect.signature(open_source).parameters.values()
  known = [parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]
  for key in ("on_bad_record", "stream"):  # the source has no bad record, or is always small
    if key not in known:
      options.pop(key, None)
  for key in options:
    if key not in known and len(known) == len(parameters):
      raise UserError(
        f"data.{key}: source {name!r} has no such option (it has {', '.join(known)})"
        + did_you_mean(key, known)
      )
  for parameter in parameters[: len(known)]:
    if parameter.default is parameter.empty and parameter.name not in options:
      raise UserError(f"data.{parameter.name} is missing: source {name!r} needs it")
  source = open_source(split, **options)
  if split in limit:
    fingerprint = digest(source.fingerprint, "first", limit[split])
    if as_shards(source) is None:
      source = First(source, limit[split], fingerprint)
    else:
      source = texts.InMemory(_read_sample, (source, limit[split]), fingerprint)
  elif split != "train" and as_shards(source) is not None:
    # with stream=True a part is one of bytes for all splits, so that they share nothing
    whole = options.get("stream") and source.num_bytes <= LARGE
    if source.num_bytes > SAMPLE_BYTES and not whole:
      log_once(
        f"{split}: of {source.num_bytes:,} bytes a sample of {SAMPLE_BYTES:,} is read;"
        f" data.limit.{split} sets another number of examples, and data.stream=False reads all"
      )
    if whole:
      source = texts.InMemory(all_examples, (source,), digest(source.fingerprint, "all"))
    else:
      fingerprint = digest(source.fingerprint, "sample", SAMPLE_BYTES)
      source = texts.InMemory(_read_sample, (source, None, SAMPLE_BYTES), fingerprint)
  example = (first_example(source) if needs else None) or dict.fromkeys(needs)
  for field in needs:
    if field not in example:
      raise UserError(
        f"data: the task needs examples with {field!r}, those of source {name!r} have"
        f" {', '.join(example)}{did_you_mean(field, example)}"
      )
  return source


def _check_limit(limit, splits) -> None:
  numbers = limit.values() if isinstance(limit, Mapping) else [0]
  if not all(type(number) is int and number > 0 for number in numbers):
    raise UserError(
      f"data.limit is {limit!r}; it must map each split to a number of examples, as"
      " dict(validation=5000)"
    )
  for split in limit if isinstance(splits, Mapping) else ():
    if split not in splits and (hint := did_you_mean(split, splits)):
      raise UserError(f"data.limit.{split}: data.splits has no such split{hint}")


def find_line(spec: Mapping[str, object], split: str, cell: str) -> str | None:
  """Returns the file and line of a cell's first row, None where the source has no such files."""
  spec = spec.get("of", spec)
  if spec.get("name") != "files":
    return None
  return files.find_line(split, cell, **{key: spec[key] for key in spec if key != "name"})


def _read_sample(shards: Shards, count: int | None, num_bytes: float = math.inf) -> list[dict]:
  """Returns the first `count` examples of a sample, or those within so many bytes."""
  examples = []
  for example in itertools.islice(sample(shards, 0), count):
    num_bytes -= sum(len(str(value).encode()) for value in example.values())
    if num_bytes < 0 and examples:
      break
    examples.append(example)
  return examples


def _open_formatted(
  split: str,
  /,
  of: Mapping,
  on_bad_record: str = "error",
  stream: bool | None = None,
  **patterns: str,
) -> Formatted:
  if not patterns:
    raise UserError('data: name the texts to make of the examples, such as source="{question}"')
  if "on_bad_record" in of:
    raise UserError("data.of.on_bad_record has no effect: set data.on_bad_record")
  source = open_split(_with_policy(of, on_bad_record, stream), split)
  source = Formatted(source, patterns, digest(source.fingerprint, *sorted(patterns.items())))
  if first_example(source) is None:  # which raises for a wrong pattern here, not in a worker
    raise UserError(f"data.of: {split!r} has no example; check the files it names")
  return source


def _with_policy(section: Mapping, on_bad_record: str, stream: bool | None) -> dict:
  """Returns the section with the options of the one that it is in."""
  return {"stream": stream, **section, "on_bad_record": on_bad_record}


def _open_joined(
  split: str, /, of: Mapping, on_bad_record: str = "error", stream: bool | None = None
) -> Joined | JoinedShards:
  """Opens the parts `of` (name -> section) that have the split, in the order of their names; raises
  NoSplit if none has."""
  parts, missing = [], None
  for name, section in sorted(of.items()):
    try:
      parts.append(open_split(_with_policy(section, on_bad_record, stream), split))
    except NoSplit as error:
      missing = error
      logging.info("data.of.%s has no split %s", name, split)
  if not parts:
    raise missing or UserError("data.of is empty: name the sections to join")
  fingerprint = digest("joined", *(part.fingerprint for part in parts))
  if any(as_shards(part) is not None for part in parts):
    parts = [Ranges(part) if as_shards(part) is None else part for part in parts]
    return JoinedShards(tuple(parts), fingerprint)
  return Joined(tuple(parts), fingerprint)


TEXT_FIELDS = ("source", "target", "text", "text_pair", "id", "question", "context")
ANSWER = dict(text="a", answer_start=0)
BLANK = dict.fromkeys(TEXT_FIELDS, "a")
BLANK |= dict(label="0", labels="a", words=["a"], tags=["O"], answers=[ANSWER])


def _open_blank(split: str, /, fields: Sequence[str] = ()) -> texts.InMemory:
  del split
  return texts.InMemory(list, ([dict.fromkeys(fields, "0") | BLANK],), "blank")


SOURCES = {
  "blank": _open_blank,  # one example with every task's fields, for callers that need only shapes
  "formatted": _open_formatted,
  "concat": _open_joined,
  "scan": scan.open_scan,
  "files": files.open_files,
  "gettext": gettext_catalogs.open_gettext,
  "tfds": prepared.open_tfds,
  "parquet": parquet.open_parquet,
  "arrow": arrow.open_arrow,
  "text": texts.open_text,
  "prepared": token_corpus.open_prepared,
  "conll": sentences.open_conll,
  "squad": questions.open_squad,
}
