"""Writes made-up data that every config can read, and trains configs on it for two steps."""

import gzip
import json
import pathlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.train.data import po
from train import loop, resolve
from train.checkpoint import Checkpoints
from train.common.trees import flatten
from train.record import workdir

ROOT = pathlib.Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
MINILM = ROOT / "data" / "minilm"  # a published model, by `make data`
WORDS = ("a", "the", "man", "woman", "dog", "red", "runs", "jumps", "sees", "ball", "on", "two")


def sentence(rng, low=3, high=12):
  return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def write_wheels(folder, rng):
  """Writes the wheels of configs/catalogs.py with made-up messages."""
  for program in ("pretix", "plone_app_locales", "horizon", "django", "spyder"):
    for language in ("de", "fr", "zh_CN"):
      english = [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) for _ in range(20)]
      messages = {line: f"{language} {line}" for line in english}
      po.write(folder / program / language / "LC_MESSAGES" / "x.po", messages)
    po.wheel(folder / f"{program}-1.0-py3-none-any.whl", folder / program)


def write_data(folder):
  """Writes the files that configs read, of made-up text."""
  rng = random.Random(0)
  for name in ("train", "val", "test_2016_flickr", "valid", "test.2016"):  # Multi30k's
    lines = [sentence(rng) for _ in range(60)]
    for language, change in (("en", str), ("de", str.upper)):
      text = "".join(change(line) + "\n" for line in lines)
      (folder / f"{name}.{language}.gz").write_bytes(gzip.compress(text.encode()))
  (folder / "prose").mkdir()
  for number in range(3):
    text = "\n\n".join(sentence(rng, 20, 60) for _ in range(20))
    (folder / "prose" / f"{number}.txt").write_text(text)
  for name in ("train", "dev", "test"):
    lines = [sentence(rng) for _ in range(40)]
    rows = [f"{line}\t{'dog' if 'dog' in line else 'none'}\n" for line in lines]
    (folder / f"{name}.tsv").write_text("".join(rows))
    rows = [f"{line}\t{sentence(rng)}\t{rng.random():.2f}\n" for line in lines]
    (folder / f"{name}_pairs.tsv").write_text("".join(rows))
    tagged = [[(word, "B-dog" if word == "dog" else "O") for word in x.split()] for x in lines]
    rows = ["".join(f"{word}\t{tag}\n" for word, tag in line) for line in tagged]
    (folder / f"{name}.conll").write_text("\n".join(rows))
    paragraphs = []
    for number, line in enumerate(lines):
      answer = {"text": line.split()[0], "answer_start": 0}
      ask = {"id": f"{name}{number}", "question": sentence(rng), "answers": [answer]}
      paragraphs.append({"context": line, "qas": [ask]})
    (folder / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
  for name in ("train", "dev", "test"):
    rows = []
    for number in range(40):
      options = [sentence(rng) for _ in range(2 + number % 3)]
      rows.append(dict(text=sentence(rng), choices=options, label=rng.randrange(len(options))))
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  write_corpora(folder, rng)
  rows = [f'{n},"{sentence(rng)},\n{sentence(rng)}",{n % 2}\n' for n in range(40)]
  (folder / "reviews.csv").write_text("id,review,stars\n" + "".join(rows))
  write_wheels(folder, rng)


def write_corpora(folder, rng):
  """Writes files in the forms of C4, Wikipedia and OPUS-100."""
  for name in ("c4", "wikipedia", "de-en", "en-fr"):
    (folder / name).mkdir()
  for split in ("train", "validation"):
    rows = [dict(text=sentence(rng, 20, 60), url="x") for _ in range(20)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = folder / "c4" / f"c4-{split}.00000-of-00001.json.gz"
    path.write_bytes(gzip.compress(text.encode()))
  articles = [sentence(rng, 20, 60) for _ in range(100)]
  table = pa.table({"title": [text[:9] for text in articles], "text": articles})
  pq.write_table(table, folder / "wikipedia" / "train-00000-of-00001.parquet")
  for pair in ("de-en", "en-fr"):
    for split in ("train", "dev", "test")[: 3 if pair == "de-en" else 1]:
      lines = [sentence(rng) for _ in range(60)]
      for language in pair.split("-"):
        change = str if language == "en" else str.upper
        text = "".join(change(line) + "\n" for line in lines)
        (folder / pair / f"opus.{pair}-{split}.{language}").write_text(text)


def load_config(text, folder):
  """Loads "FILE:ARGUMENTS" of configs/ with `folder` for {folder}, and for the data of TFDS."""
  cfg = resolve.load(f"{ROOT}/configs/" + text.format(folder=folder))
  with cfg.unlocked():
    if cfg.task.get("data", {}).get("name") == "tfds":  # the data set itself is gigabytes
      if text.startswith("wmt14"):
        cfg.task.data = resolve.load(f"{ROOT}/configs/multi30k.py:data={folder}").task.data
      else:
        pairs, columns = len(cfg.task.fields) > 1, (*cfg.task.fields, "label")
        ending = "_pairs.tsv" if pairs else ".tsv"
        splits = {"train": f"{folder}/train{ending}", "validation": f"{folder}/dev{ending}"}
        cfg.task.data = dict(name="files", splits=splits, columns=columns)
  return cfg


def train_config(text, folder, path, **changes):
  """Trains a config for two steps in the run's folder `path` and returns the weights by path."""
  cfg = load_config(text, folder)
  with cfg.unlocked():
    cfg.steps, cfg.evaluate.every, cfg.evaluate.decode_every = 2, 2, 0
    cfg.schedule.warmup_steps, cfg.checkpoint.best_metric = 1, "loss"
    cfg.update_from_flattened_dict(changes)
  with workdir.open_run(path, cfg, ["test"]) as run:
    loop.train(cfg, run)
  with Checkpoints(path) as saved:
    return {name: np.asarray(x) for name, x in flatten(saved.params("latest")).items()}


def assert_same_arrays(a, b):
  """Asserts that two mappings have the same names, and equal arrays under each."""
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
