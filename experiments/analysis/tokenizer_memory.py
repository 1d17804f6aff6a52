"""Prints the peak memory and the seconds of training each kind of tokenizer on a large text.

python -m experiments.analysis.tokenizer_memory --mb 300 --folder /tmp/texts

Writes seeded texts that are like English (words with blanks), Chinese and Thai (without), and
trains each tokenizer in a process of its own, as a run does. Takes 15 minutes on two cores, and
1 GB of disk.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

LINES = 20_000  # written at a time
LINE_TOKENS = 24
CHINESE = [chr(0x4E00 + i) for i in range(4000)]
CONSONANTS = [chr(code) for code in range(0x0E01, 0x0E2F)]
VOWELS = [chr(code) for code in (*range(0x0E30, 0x0E3A), *range(0x0E48, 0x0E4C))]
LATIN = [a + b + c for a in ("", *"bcdfglmnprst") for b in "aeiou" for c in ("", "n", "r", "s")]
THAI = [consonant + vowel for consonant in CONSONANTS for vowel in ("", *VOWELS)]
# Syllables, the share of words that end after each of them, the number of different words, what
# stands between words, and what stands there once in twelve times.
LANGUAGES = {
  "english": (LATIN, 0.4, 3_000_000, " ", (", ", ". ")),
  "chinese": (CHINESE, 0.6, 200_000, "", ("，", "。")),
  "thai": (THAI, 0.4, 200_000, "", (" ",)),
}
SIZED = dict(vocab_size=32_000)
KINDS = dict(word={}, char={}, bpe=SIZED, unigram=SIZED, byte={})


def write_lines(language: str, size: int) -> Iterator[str]:
  """Yields lines of so many bytes altogether. Words follow Zipf's law."""
  syllables, end, different, between, marks = LANGUAGES[language]
  draw = np.random.default_rng(0)
  lengths = draw.geometric(end, different)
  letters = iter(draw.integers(0, len(syllables), lengths.sum()).tolist())
  words = ["".join(syllables[next(letters)] for _ in range(n)) for n in lengths.tolist()]
  done = 0
  while done < size:
    ranks = draw.pareto(0.25, LINES * LINE_TOKENS)
    numbers = np.minimum(ranks, 1e15).astype(np.int64) % different
    kinds = draw.integers(0, 12, len(numbers)).tolist()
    tokens = [
      words[n] + (marks[k] if k < len(marks) else between) for n, k in zip(numbers.tolist(), kinds)
    ]
    for first in range(0, len(tokens), LINE_TOKENS):
      line = "".join(tokens[first : first + LINE_TOKENS]).strip()
      done += len(line.encode()) + 1
      yield line + "\n"


def train(language: str, kind: str, path: pathlib.Path) -> None:
  """Trains a tokenizer on a file as a run does, and prints what it took."""
  from train import tasks

  data = dict(name="text", splits=dict(train=str(path)), unit="line")
  folder = path.parent / f"{language}-{kind}"
  folder.mkdir(exist_ok=True)
  (folder / "tokenizer.json").unlink(missing_ok=True)
  began = time.monotonic()
  tokenizer = tasks._tokenizer(dict(name=kind, **KINDS[kind]), [data], folder, True)
  seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  facts = tasks.TRAINED_ON.get(folder, {})
  mb = facts.get("bytes", 0) / 1e6
  print(
    f"| {language} | {kind} | {mb:.0f} | {peak / 1e3:.0f} | {seconds:.0f} |"
    f" {tokenizer.vocab_size} | {tokenizer.fingerprint[:12]} |",
    flush=True,
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--mb", type=int, default=300, help="megabytes of each text")
  parser.add_argument("--folder", default="/tmp/tokenizer_memory", help="where texts are written")
  parser.add_argument("--only", nargs=2, metavar=("LANGUAGE", "KIND"), help="one, in this process")
  args = parser.parse_args()
  folder = pathlib.Path(args.folder)
  folder.mkdir(parents=True, exist_ok=True)
  if args.only:
    train(*args.only, folder / f"{args.only[0]}-{args.mb}.txt")
    return
  print("| text | kind | MB of it | peak, MB | seconds | ids | fingerprint |")
  print("|---|---|---|---|---|---|---|", flush=True)
  for language in LANGUAGES:
    path = folder / f"{language}-{args.mb}.txt"
    if not path.exists():
      with open(path.with_suffix(".partial"), "w", encoding="utf-8") as file:
        file.writelines(write_lines(language, args.mb * 1_000_000))
      path.with_suffix(".partial").rename(path)
    for kind in KINDS:
      program = [sys.executable, "-m", "experiments.analysis.tokenizer_memory"]
      options = ["--mb", str(args.mb), "--folder", str(folder), "--only", language, kind]
      subprocess.run([*program, *options], check=True)


if __name__ == "__main__":
  main()
