"""Every config trains at `small`, and nobody writes a config field that nobody reads."""

import dataclasses
import gzip
import json
import pathlib
import random
import re

import pytest

from configs import sections
from model.config import LSTMConfig, TransformerConfig
from tests.train.data import po
from train import loop
from train.build import MODELS
from train.data import scan, sources
from train.record import config, workdir
from train.tasks import seq2seq

ROOT = pathlib.Path(__file__).parents[1]
WORDS = ("a", "the", "man", "woman", "dog", "red", "runs", "jumps", "sees", "ball", "on", "two")


def said(rng, low=3, high=12):
  return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def put_wheels(folder, rng):
  """The wheels of configs/catalogs.py, of made-up messages."""
  for program in ("pretix", "plone_app_locales", "horizon", "django", "spyder"):
    for language in ("de", "fr", "zh_CN"):
      english = [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) for _ in range(20)]
      messages = {line: f"{language} {line}" for line in english}
      po.write(folder / program / language / "LC_MESSAGES" / "x.po", messages)
    po.wheel(folder / f"{program}-1.0-py3-none-any.whl", folder / program)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The file names that configs ask for, over made-up text."""
  folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
  for name in ("train", "val", "test_2016_flickr", "valid", "test.2016"):  # Multi30k's
    lines = [said(rng) for _ in range(60)]
    for language, change in (("en", str), ("de", str.upper)):
      text = "".join(change(line) + "\n" for line in lines)
      (folder / f"{name}.{language}.gz").write_bytes(gzip.compress(text.encode()))
  (folder / "prose").mkdir()
  for number in range(3):
    text = "\n\n".join(said(rng, 20, 60) for _ in range(20))
    (folder / "prose" / f"{number}.txt").write_text(text)
  for name in ("train", "dev", "test"):
    lines = [said(rng) for _ in range(40)]
    rows = [f"{line}\t{'dog' if 'dog' in line else 'none'}\n" for line in lines]
    (folder / f"{name}.tsv").write_text("".join(rows))
    rows = [f"{line}\t{said(rng)}\t{rng.random():.2f}\n" for line in lines]
    (folder / f"{name}_pairs.tsv").write_text("".join(rows))
    tagged = [[(word, "B-dog" if word == "dog" else "O") for word in x.split()] for x in lines]
    rows = ["".join(f"{word}\t{tag}\n" for word, tag in one) for one in tagged]
    (folder / f"{name}.conll").write_text("\n".join(rows))
    paragraphs = []
    for number, line in enumerate(lines):
      answer = {"text": line.split()[0], "answer_start": 0}
      ask = {"id": f"{name}{number}", "question": said(rng), "answers": [answer]}
      paragraphs.append({"context": line, "qas": [ask]})
    (folder / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
  put_wheels(folder, rng)
  return folder


CONFIGS = [
  "scan.py:small",
  "scan.py:small,model=lstm",
  "multi30k.py:small,data={folder}",
  "multi30k.py:small,model=lstm,data={folder}",
  "multi30k.py:small,recipe=tiny,form=wu2021,data={folder}",
  "catalogs.py:small,target=all,data={folder}",
  "wmt14.py:small",
  "mixture.py:small,data={folder}",
  "causal.py:small,data={folder}/prose/*.txt",
  "causal.py:small,model=lstm,data={folder}/prose/*.txt",
  "mlm.py:small,data={folder}/prose,whole_words",
  "mlm.py:small,size=large,data={folder}/prose",
  "span.py:small,data={folder}/prose",
  "prefix.py:small,data={folder}/prose",
  "prefix.py:small,data={folder}/prose,model=decoder",
  "classify.py:small,data={folder},dev=25%",
  "tag.py:small,data={folder},suffix=.conll",
  "qa.py:small,train={folder}/train.json,test={folder}/test.json",
  "glue.py:small,name=cola",
  "text2text.py:small,data={folder}",
  "text2text.py:small,task=tag,data={folder},suffix=.conll",
  "text2text.py:small,task=qa,data={folder}",
]
# At `small` each is one of the above but for a few numbers.
ALIKE = [
  "scan.py:small,split=length,positions=rotary",
  "wmt14.py:small,size=big",
  "span.py:small,size=11b,data={folder}/prose",
  "span.py:small,data={folder}/prose,rate=0.5",
  "glue.py:small,name=stsb",
]


def load(text, folder):
  cfg = config.load(f"{ROOT}/configs/" + text.format(folder=folder))
  with cfg.unlocked():
    if cfg.task.get("data", {}).get("name") == "tfds":  # the data set itself is gigabytes
      if text.startswith("wmt14"):
        cfg.task.data = config.load(f"{ROOT}/configs/multi30k.py:data={folder}").task.data
      else:
        pairs, columns = len(cfg.task.fields) > 1, (*cfg.task.fields, "label")
        ending = "_pairs.tsv" if pairs else ".tsv"
        splits = {"train": f"{folder}/train{ending}", "validation": f"{folder}/dev{ending}"}
        cfg.task.data = dict(name="files", splits=splits, columns=columns)
  return cfg


@pytest.mark.parametrize(
  "text", [*CONFIGS, *(pytest.param(text, marks=pytest.mark.slow) for text in ALIKE)]
)
def test_takes_a_step_at_small(text, folder, tmp_path):
  cfg = load(text, folder)
  cfg.steps, cfg.evaluate.every = 2, 2
  cfg.evaluate.decode_every = min(cfg.evaluate.decode_every, 2)
  cfg.evaluate.decode_examples, cfg.schedule.warmup_steps = 2, 1
  with workdir.open_run(tmp_path, cfg, ["test"]) as run:
    assert loop.train(cfg, run) == 0
  assert (tmp_path / "checkpoints" / "2").is_dir()
  assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("split", [*scan.SPLITS, "length,cutoff=26"])
def test_every_split_of_scan_is_there(split):
  data = config.load(f"{ROOT}/configs/scan.py:split={split}").task.data
  name, _, cutoff = split.partition(",cutoff=")
  more = dict(cutoff=int(cutoff)) if cutoff else {}
  wanted = scan.split(name, "train", 500, **more)
  found = sources.open_split(data.to_dict(), "train")
  assert [tuple(found[at].values()) for at in (0, len(found) - 1)] == [wanted[0], wanted[-1]]
  assert len(found) == len(wanted)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/[a-z]*.py")), ids=lambda p: p.stem)
def test_every_config_is_tried_here(path):
  assert path.stem in ("common", "sections") or any(text.startswith(path.name) for text in CONFIGS)


@pytest.mark.parametrize(
  "section, consumer",
  [
    (sections.MODEL, TransformerConfig),
    (sections.LSTM, LSTMConfig),
    (sections.TRANSLATION["decoding"], seq2seq.Decoding),
  ],
  ids=["model", "lstm", "decoding"],
)
def test_sections_say_the_defaults(section, consumer):
  """So what a config leaves out means the same as what the class leaves out."""
  defaults = {field.name: field.default for field in dataclasses.fields(consumer)}
  if "vocab_size" in section:
    # the tokenizer's, and which class it is: the class has no default
    defaults |= dict(vocab_size=None, name=section["name"])
  assert {name: defaults.get(name) for name in section} == section


@pytest.mark.parametrize("name, section", sections.MODELS.items())
def test_the_model_section_has_every_field(name, section):
  fields = {field.name for field in dataclasses.fields(MODELS[name][0])}
  assert section.keys() == fields | {"name"}
  assert section["name"] == name


def test_every_field_is_read(folder):
  """A section is handed over whole, to a function that refuses what it does not know; what is
  left are the fields the loop and its helpers read by name."""
  code = "".join(path.read_text() for path in ROOT.glob("train/*.py"))
  for text in CONFIGS + ALIKE:
    cfg = load(text, folder)
    for key in cfg:
      assert re.search(rf"\bcfg\.{key}\b", code), key
    for key in cfg.evaluate:
      assert re.search(rf"\bcfg\.evaluate\.{key}\b", code), f"evaluate.{key}"
