"""Reads documents, and holds sources that fit into memory. Errors name file and line."""

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping

from train.common.errors import choose
from train.data import chunks, reading, tables
from train.data.bad_records import MAX_RECORD_BYTES, BadRecords
from train.data.source import PickledByFields, digest, is_large

JSON_LINES = ".jsonl"
SUFFIXES = {"documents": (".txt", ".md", JSON_LINES)}  # of a folder's files


@dataclasses.dataclass(frozen=True)
class InMemory(PickledByFields):
  """Examples that are read at the first access; pickles as the reader's arguments."""

  read: Callable[..., Iterable[dict]]
  arguments: tuple
  fingerprint: str

  @functools.cached_property
  def _examples(self) -> list[dict]:
    return list(self.read(*self.arguments))

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> dict:
    return self._examples[index]


def _open(kind: str, reader, split, splits, on_bad_record, *arguments) -> InMemory:
  """Opens the files of `splits[split]`; `kind` stands for the reader in the fingerprint."""
  paths = reading.list_files(split, splits, SUFFIXES[kind])
  digests = [f"{document_type(path)} {reading.file_digest(path)}" for path in paths]
  policy = [on_bad_record] if on_bad_record != "error" else []
  fingerprint = digest(kind, *arguments, *digests, *policy)
  return InMemory(_read_files, (reader, paths, on_bad_record, *arguments), fingerprint)


def _read_files(reader, paths, on_bad_record, *arguments):
  bad = BadRecords(on_bad_record)
  yield from itertools.chain.from_iterable(reader(path, *arguments, bad) for path in paths)
  bad.check_limit("data")


def between(sequence, start: int, stop: int):
  """Returns the part of a sequence between two percentages."""
  return sequence[len(sequence) * start // 100 : len(sequence) * stop // 100]


# Documents


def open_text(
  split: str,
  /,
  splits: Mapping,
  unit: str = "file",
  on_bad_record: str = "error",
  stream: bool | None = None,
) -> InMemory | chunks.ChunkedFiles:
  """Opens documents {"text"}: whole files, paragraphs (between blank lines) or lines.

  Each line of a .jsonl or .json file is a document, its key "text". "PATH[:90%]" is a part of each
  file. A line that cannot be read is a bad record, also within a longer document. Large data are
  streamed: then a part is one of a file's bytes, and a document of more than some 100 KB (unit
  "file"), or 1 MB, is cut into parts.
  """
  choose(UNITS, unit, "data.unit")
  splits, start, stop = reading.parse_part(split, splits)
  files = reading.list_files(split, splits, SUFFIXES["documents"])
  if not is_large(sum(map(chunks.unpacked_size, files)), stream):
    return _open("documents", read_documents, split, splits, on_bad_record, unit, start, stop)
  chunks.check_part(f"data.splits.{split}", files, start, stop)
  kinds = [document_type(path) for path in files]
  fingerprint = reading.sampled_digest(files, "documents", unit, start, stop, kinds, on_bad_record)
  rules = {JSON_LINES: chunks.RECORDS}
  rules = tuple(rules.get(kind, RULES[unit]) for kind in kinds)
  parse = functools.partial(parse_documents, unit)
  return chunks.ChunkedFiles(tuple(files), rules, parse, fingerprint, on_bad_record, (start, stop))


def document_type(path: pathlib.Path) -> str:
  """Returns the file name's ending as reading.file_type does, and .jsonl for .json, as C4 has."""
  ending = reading.file_type(path)
  return JSON_LINES if ending == ".json" else ending


RULES = {"file": chunks.PARTS, "paragraph": chunks.PARAGRAPHS, "line": chunks.LINES}


def parse_documents(unit: str, path, chunk: chunks.Chunk, bad) -> tuple[list[dict], int]:
  """Returns the documents of a chunk of a file."""
  lines = reading.split_lines(chunk.content, path, bad)
  if document_type(path) == JSON_LINES:
    rows = tables.parse_rows(tables.Table(JSON_LINES, (path,), ("text",)), ("text",), lines, bad)
    texts = [row[0] for row in rows if row is not None]
  else:
    text = "\n".join(line for line in lines if line is not None)
    if not chunk.last and unit == "paragraph":  # what is between it and the next chunk
      end = text.find("\n", len(text.rstrip()))
      text = text[:end] if end >= 0 else text
    texts = UNITS[unit](text)
  kept = [{"text": text} for text in texts if text]
  return kept, len(texts) - len(kept)


def read_documents(path: pathlib.Path, unit: str, start: int, stop: int, bad) -> list[dict]:
  """Reads a file's documents between two percentages, of its characters if it is one document."""
  if document_type(path) == JSON_LINES:
    table = tables.Table(JSON_LINES, (path,), ("text",))
    rows = bad.drop_bad(path, tables.read_rows(table, ("text",), bad))
    texts = [text for (text,) in rows]
  else:
    most = 2**62 if unit == "file" else MAX_RECORD_BYTES  # a file may be one line, as text8 is
    lines = bad.drop_bad(path, reading.read_lines(path, bad, empty=True, most=most))
    texts = UNITS[unit]("\n".join(lines))
  if len(texts) == 1:
    return [{"text": between(texts[0], start, stop)}]
  return [{"text": text} for text in between(texts, start, stop)]


UNITS = {
  "file": lambda text: [text],
  "paragraph": lambda text: [part for part in re.split(r"\n\s*\n", text) if part.strip()],
  "line": lambda text: [line for line in text.split("\n") if line.strip()],
}
