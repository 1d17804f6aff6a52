"""Every config trains at `small`, and nobody writes a config field that nobody reads."""

import dataclasses
import gzip
import pathlib
import random
import re

import pytest

from configs import common
from model.config import TransformerConfig
from train import flags, loop, workdir
from train.tasks import translation

ROOT = pathlib.Path(__file__).parents[1]
WORDS = ("a", "the", "man", "woman", "dog", "red", "runs", "jumps", "sees", "ball", "on", "two")


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
  """Multi30k's file names over made-up captions."""
  folder, rng = tmp_path_factory.mktemp("captions"), random.Random(0)
  names = ("train", "val", "test_2016_flickr", "valid", "test.2016")
  for name in names:
    lines = [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(60)]
    for language, change in (("en", str), ("de", str.upper)):
      text = "".join(change(line) + "\n" for line in lines)
      (folder / f"{name}.{language}.gz").write_bytes(gzip.compress(text.encode()))
  return folder


CONFIGS = [
  "scan.py:small",
  "scan.py:small,split=length,positions=rotary",
  "multi30k.py:small,data={captions}",
  "multi30k.py:small,recipe=tiny,form=wu2021,data={captions}",
  "wmt14.py:small",
  "wmt14.py:small,size=big",
]


def load(text, captions):
  cfg = flags.load(f"{ROOT}/configs/" + text.format(captions=captions))
  with cfg.unlocked():
    if cfg.task.data.name == "tfds":  # the data set itself is gigabytes
      cfg.task.data = flags.load(f"{ROOT}/configs/multi30k.py:data={captions}").task.data
  return cfg


@pytest.mark.parametrize("text", CONFIGS)
def test_takes_a_step_at_small(text, captions, tmp_path):
  cfg = load(text, captions)
  cfg.steps, cfg.evaluate.every, cfg.evaluate.decode_every = 2, 2, 2
  cfg.evaluate.decode_examples, cfg.schedule.warmup_steps = 2, 1
  with workdir.open_run(tmp_path, cfg, ["test"]) as run:
    assert loop.train(cfg, run)
  assert (tmp_path / "checkpoints" / "2").is_dir()
  assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/[a-z]*.py")), ids=lambda p: p.stem)
def test_every_config_is_tried_here(path):
  assert path.stem == "common" or any(text.startswith(path.name) for text in CONFIGS)


@pytest.mark.parametrize(
  "section, consumer",
  [(common.MODEL, TransformerConfig), (common.TRANSLATION["decoding"], translation.Decoding)],
  ids=["model", "decoding"],
)
def test_sections_say_the_defaults(section, consumer):
  """So what a config leaves out means the same as what the class leaves out."""
  defaults = {field.name: field.default for field in dataclasses.fields(consumer)}
  assert {name: defaults.get(name) for name in section} == section


def test_the_model_section_has_every_field():
  fields = {field.name for field in dataclasses.fields(TransformerConfig)}
  assert common.MODEL.keys() == fields - {"vocab_size"}  # the tokenizer's


def test_every_field_is_read(captions):
  """A section is handed over whole, to a function that refuses what it does not know; what is
  left are the fields the loop and its helpers read by name."""
  code = "".join(path.read_text() for path in ROOT.glob("train/*.py"))
  for text in CONFIGS:
    cfg = load(text, captions)
    for key in cfg:
      assert re.search(rf"\bcfg\.{key}\b", code), key
    for key in cfg.evaluate:
      assert re.search(rf"\bcfg\.evaluate\.{key}\b", code), f"evaluate.{key}"
