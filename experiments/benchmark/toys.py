"""Writes made-up data and a tiny pre-trained model in the places of the real ones, for --quick."""

import gzip
import json
import pathlib
import random
import sys

from experiments.benchmark.sides import run_command

WORDS = ("a", "the", "man", "woman", "dog", "red", "runs", "jumps", "sees", "ball", "on", "two")
LINES = 100


def write(options, parts) -> None:
  """Writes what the parts read into the temporary folder, and points the options there."""
  options.data = options.root = options.temporary
  rng = random.Random(0)
  _write_translations(options.data / "multi30k", rng)
  if not {"finetune", "start"}.isdisjoint(parts):
    _write_labelled(options.data, rng)
    options.minilm = _write_encoder(options.data / "mlm", rng)


def _sentences(rng) -> list[str]:
  return [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(LINES)]


def _write(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def _write_translations(folder, rng):
  for split in ("train", "val", "test_2016_flickr"):
    lines = _sentences(rng)
    for language, change in (("en", str), ("de", str.upper)):
      _write(folder / f"{split}.{language}.gz", "".join(f"{change(x)}\n" for x in lines))


def _write_labelled(folder, rng):
  """Writes classes, tags and questions as tests of the tasks of experiments/minilm.py read them."""
  for split in ("train", "dev", "test"):
    lines = _sentences(rng)
    rows = [f"{line}\t{'dog' if 'dog' in line else 'none'}\n" for line in lines]
    _write(folder / "sst2" / f"{split}.tsv", "".join(rows))
    words = [line.split() for line in lines]
    tagged = ["".join(f"1\t{x}\t_\t{'N' if x == 'dog' else 'V'}\n" for x in w) for w in words]
    _write(folder / "ud_ewt" / f"{split}.conllu", "\n".join(tagged) + "\n")
  paragraphs = []
  for number, line in enumerate(_sentences(rng)):
    answer = dict(text=line.split()[0], answer_start=0)
    asked = dict(id=str(number), question=line[::-1], answers=[answer])
    paragraphs.append(dict(paragraphs=[dict(context=line, qas=[asked])]))
  _write(folder / "squadshifts" / "amazon.json.gz", json.dumps(dict(data=paragraphs)))


def _write_encoder(folder, rng) -> pathlib.Path:
  """Returns a Hugging Face directory of a tiny BERT after two steps."""
  _write(folder / "prose" / "a.txt", "\n\n".join(_sentences(rng)))
  config = f"configs/mlm.py:small,data={folder}/prose"
  changes = {"steps": 2, "schedule.warmup_steps": 1, "evaluate.every": 2, "checkpoint.every": 2}
  changes |= {"model.positions": "learned", "model.norm_position": "post", "model.max_len": 512}
  changes |= {"model.token_types": 2}
  flags = [f"--config.{key}={value}" for key, value in changes.items()]
  python = [sys.executable, "-m"]
  run_command([*python, "train.main", "--config", config, "--workdir", folder / "run", *flags])
  out = ["--out", folder / "hf", "--no-check"]
  run_command([*python, "train.export", "--workdir", folder / "run", *out])
  return folder / "hf"
