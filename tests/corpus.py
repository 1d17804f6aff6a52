"""python -m tests.corpus FOLDER --megabytes 1000 [--files 1] [--form txt|jsonl|parquet] [--seed 0]

Writes a corpus of any size: documents of sentences of made-up words, whose frequencies follow
Zipf's law. The same arguments write the same bytes. 300 MB a second of one core.
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Iterator

import numpy as np

WORDS, SENTENCES = 50_000, 100_000  # different ones
SYLLABLES = 200


@functools.cache
def make_sentences(seed: int) -> np.ndarray:
  """Returns the corpus's different sentences."""
  rng = np.random.default_rng([seed, 1])
  letters = np.asarray(list("etaoinshrdlucmfwygpb"))
  syllables = ["".join(rng.choice(letters, rng.integers(1, 4))) for _ in range(SYLLABLES)]
  counts = rng.integers(1, 5, WORDS)
  words = np.asarray(["".join(rng.choice(syllables, count)) for count in counts], object)
  share = 1 / (np.arange(WORDS) + 10.0)
  lengths = rng.integers(4, 30, SENTENCES)
  drawn = words[rng.choice(WORDS, lengths.sum(), p=share / share.sum())]
  ends = np.cumsum(lengths)
  return np.asarray([" ".join(drawn[a:b]) + "." for a, b in zip(ends - lengths, ends)], object)


def documents(num_bytes: int, seed: int, number: int) -> Iterator[str]:
  """Yields documents of one line, together at least so many bytes."""
  sentences, rng = make_sentences(seed), np.random.default_rng([seed, 2, number])
  while num_bytes > 0:
    lengths = np.minimum(rng.geometric(0.06, 1000) + 1, 400)
    chosen = sentences[rng.integers(0, SENTENCES, lengths.sum())].tolist()
    start = 0
    for length in lengths.tolist():
      text = " ".join(chosen[start : start + length])
      start, num_bytes = start + length, num_bytes - len(text) - 1
      yield text
      if num_bytes <= 0:
        return


def write(folder: pathlib.Path, num_bytes: int, files: int = 1, form: str = "txt", seed: int = 0):
  """Writes the corpus to `folder` and returns its paths."""
  folder.mkdir(parents=True, exist_ok=True)
  paths = [folder / f"part-{number:05d}.{form}" for number in range(files)]
  for number, path in enumerate(paths):
    texts = documents(num_bytes // files, seed, number)
    if form == "parquet":
      _write_parquet(path, texts)
      continue
    with open(path, "w", encoding="utf-8", buffering=1 << 22) as file:
      for text in texts:
        file.write((json.dumps({"text": text}) if form == "jsonl" else text) + "\n")
  return paths


def _write_parquet(path, texts):
  import pyarrow as pa
  import pyarrow.parquet as pq

  schema, rows = pa.schema([("text", pa.string())]), []
  with pq.ParquetWriter(path, schema) as writer:
    for text in texts:
      rows.append(text)
      if len(rows) == 1000:
        writer.write_table(pa.table({"text": rows}, schema))
        rows = []
    if rows:
      writer.write_table(pa.table({"text": rows}, schema))


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--megabytes", type=int, required=True)
  parser.add_argument("--files", type=int, default=1)
  parser.add_argument("--form", choices=("txt", "jsonl", "parquet"), default="txt")
  parser.add_argument("--seed", type=int, default=0)
  given = parser.parse_args()
  write(given.folder, given.megabytes * 1_000_000, given.files, given.form, given.seed)
