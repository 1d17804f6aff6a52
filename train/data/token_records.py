"""Defines the records of prepared corpora: each holds the token ids of a block of documents.

A record is a header with the CRC-32 of what follows it: for each field the documents' lengths
(uint32), then their values one after another, all little-endian. A field of kind "uint16" or
"uint32" has ids, one of kind "text" UTF-8. Where the one field is WHOLE, its text is the JSON of
whole examples.
"""

import json
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from train.common.errors import UserError
from train.data.source import Example, digest

VERSION = 2  # of records, files and manifests: raise it when one of them changes
WHOLE = "json"
KINDS = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4"), "text": np.dtype("u1")}
LENGTHS = np.dtype("<u4")
# The tag is that of the tokenizer; the shard and the block are those of the raw corpus.
HEADER = np.dtype(
  [("tag", "<u8"), ("shard", "<u8"), ("block", "<u4"), ("documents", "<u4"), ("checksum", "<u8")]
)
BINS = 33  # of a histogram of lengths: 0, 1, 2 to 3, 4 to 7, ...


def kind_of_ids(vocab_size: int) -> str:
  """Returns the smallest kind of field that holds all ids of a vocabulary."""
  return "uint16" if vocab_size <= 1 << 16 else "uint32"


def make_tag(tokenizer_fingerprint: str, fields: Mapping[str, str]) -> int:
  """Returns the number in each record that distinguishes the records of one kind from others."""
  return int(digest(VERSION, tokenizer_fingerprint, sorted(fields.items()))[:16], 16)


def pack(
  values: Mapping[str, Sequence], fields: Mapping[str, str], tag: int, shard: int, block: int
) -> tuple[bytes, dict[str, np.ndarray]]:
  """Returns the record of some documents, whose field has a sequence of ids or a text for each, and
  the lengths in each field."""
  counts = {len(values[field]) for field in fields}
  (count,) = counts
  parts, lengths = [], {}
  for field, kind in fields.items():
    rows = [row.encode() if isinstance(row, str) else row for row in values[field]]
    lengths[field] = np.fromiter(map(len, rows), LENGTHS, count)
    joined = b"".join(rows) if kind == "text" else _join_ids(rows, KINDS[kind])
    parts += [lengths[field].tobytes(), joined]
  body = b"".join(parts)
  header = np.array((tag, shard, block, count, zlib.crc32(body)), HEADER)
  return header.tobytes() + body, lengths


def _join_ids(rows, dtype) -> bytes:
  return np.concatenate([np.zeros(0, dtype), *(np.asarray(row, dtype) for row in rows)]).tobytes()


def unpack(record: bytes, fields: Mapping[str, str], tag: int, shard: int) -> list[Example]:
  """Returns the documents of a record; raises ValueError for one of another tokenizer or place, and
  for one that is cut."""
  if len(record) < HEADER.itemsize:
    raise ValueError(f"{len(record)} bytes are no record")
  header = np.frombuffer(record, HEADER, 1)[0]
  if header["tag"] != tag:
    raise ValueError("the record is of another tokenizer or version")
  if header["shard"] != shard:
    raise ValueError(f"the record is of shard {header['shard']}, and that of {shard} belongs here")
  if header["checksum"] != zlib.crc32(memoryview(record)[HEADER.itemsize :]):
    raise ValueError("the record is damaged")
  count, start, columns = int(header["documents"]), HEADER.itemsize, []
  for kind in fields.values():
    ends = np.cumsum(np.frombuffer(record, LENGTHS, count, start), dtype=np.int64)
    start += count * LENGTHS.itemsize
    size = int(ends[-1]) if count else 0
    values = np.frombuffer(record, KINDS[kind], size, start)
    start += values.nbytes
    stops = ends.tolist()
    rows = [values[a:b] for a, b in zip([0, *stops], stops)]
    columns.append([row.tobytes().decode() for row in rows] if kind == "text" else rows)
  if [*fields] == [WHOLE]:
    return list(map(json.loads, columns[0]))
  return [dict(zip(fields, row)) for row in zip(*columns)]


def list_values(tokenizer, fields: Mapping[str, str], examples: Sequence[Example]) -> dict:
  """Returns what `pack` takes of some examples; raises UserError for an example without a field."""
  if [*fields] == [WHOLE]:
    return {WHOLE: [json.dumps(example, ensure_ascii=False) for example in examples]}
  encode = dict.fromkeys(fields, tokenizer.encode_batch)
  encode |= dict(source=tokenizer.encode_sources, target=tokenizer.encode_targets)
  values = {}
  for field, kind in fields.items():
    try:
      texts = [example[field] for example in examples]
    except KeyError:
      raise UserError(f"data: an example has no {field!r}, which the first one has") from None
    values[field] = texts if kind == "text" else encode[field](texts)
  return values


def count_bins(lengths: np.ndarray) -> np.ndarray:
  """Returns the histogram of lengths: bin n counts those of n bits (2**(n-1) to 2**n - 1)."""
  bits = np.frexp(lengths.astype(np.float64))[1]
  return np.bincount(bits, minlength=BINS)
