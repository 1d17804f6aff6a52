"""The README: its three examples for contributors train, its map names real files, it is short."""

import pathlib
import re

import pytest

from model import layers
from tests.train.tasks import helpers
from train import loop, resolve, tasks
from train.data import sources
from train.data.tokenizer_training import train_tokenizer
from train.record import workdir
from train.record.writer import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIG = """
from configs import sections
from ml_collections import ConfigDict


def get_config():
  return ConfigDict(
    dict(
      steps=3,
      batch_size=8,
      log_every=1,
      task=dict(name="reversal", data=dict(name="sums"), tokenizer=dict(name="char")),
      model=sections.SMALL | dict(encoder_layers=1, decoder_layers=1),
      evaluate=dict(every=3),
      checkpoint=dict(every=3),
    )
  )
"""
EXAMPLES = re.findall(r"```python\n(.*?)```", README.partition("## Contributing")[2], re.DOTALL)


@pytest.fixture
def examples(monkeypatch):
  """Registers what the examples define, as their text asks for."""
  assert len(EXAMPLES) == 3
  names = dict(ACTIVATIONS=layers.ACTIVATIONS)
  monkeypatch.setitem(layers.ACTIVATIONS, "relu2", None)  # so that it goes again
  for example in EXAMPLES:
    exec(example, names)
  monkeypatch.setitem(tasks.TASKS, "reversal", names["Reversal"])
  monkeypatch.setitem(sources.SOURCES, "sums", names["open_sums"])
  return names


def test_the_examples_for_contributors_train_together(examples, tmp_path):
  config = tmp_path / "reversal.py"
  config.write_text(CONFIG)
  cfg = resolve.load(str(config), ["model.activation=relu2"])
  with workdir.open_run(tmp_path / "run", cfg, ["test"]) as run:
    assert loop.train(cfg, run) == 0
  assert read_metrics(tmp_path / "run")[-1]["step"] == 3
  assert cfg.model.activation == "relu2"


def test_the_example_from_python_trains_and_predicts(tmp_path, monkeypatch):
  (example,) = re.findall(
    r"```python\n(.*?)```", README.partition("## Reading the code")[0], re.DOTALL
  )
  monkeypatch.chdir(tmp_path)
  example = example.replace("configs/", f"{ROOT}/configs/").replace("steps=100", "steps=2")
  lines, names = example.splitlines(), {}
  exec("\n".join(lines[:5]), names)
  dicts, scores, vectors = (eval(line.partition("#")[0], names) for line in lines[5:])
  assert [x["score"] for x in dicts[0]["nbest"]] == scores[0].tolist()
  assert vectors.shape == (2, names["cfg"].model.dim)


def test_the_example_of_an_objective_reverses_all_but_eos(examples, tmp_path):
  spec = dict(name="sums", count=3)
  texts = [example["target"] for example in sources.open_split(spec, "train")]
  tokenizer = train_tokenizer(dict(name="char"), ["0123456789 +"])
  task = examples["Reversal"](data=spec, tokenizer=tokenizer)
  items = task.items("train")
  targets = [item["target"] for item in items.read(range(3), range(3))]
  assert [tokenizer.decode(ids[:-1]) for ids in targets] == [text[::-1] for text in texts]
  assert {ids[-1] for ids in targets} == {tokenizer.roles.eos}


def test_the_example_of_an_objective_fits_the_tests_of_all_tasks(examples, tmp_path, monkeypatch):
  helpers.write_data(tmp_path)
  monkeypatch.setitem(helpers.KINDS, "reversal", helpers.plain("reversal"))
  task, _, params = helpers.build("reversal", tmp_path, tmp_path)
  assert helpers.first_batch(task)["labels"].shape == (4, 24)
  assert params


def test_the_map_names_files_that_are_there():
  walk = README.partition("## Reading the code")[2].partition("## Contributing")[0]
  names = re.findall(r"`((?:train|model|configs|experiments|tests)/[\w/]*(?:\.\w+)?)`", walk)
  assert len(names) >= 15
  assert not [name for name in names if not (ROOT / name).exists()]
  rows = re.findall(r"^\| (\d+) \|", walk, re.MULTILINE)
  assert max(map(int, rows)) <= 12


def test_it_is_read_in_a_quarter_of_an_hour():
  assert len(README.splitlines()) <= 200


def test_it_counts_the_checks_of_the_reports():
  reports = [path.read_text(encoding="utf-8") for path in ROOT.glob("experiments/results/*/*/*.md")]
  counts = [re.search(r"^Checks: (\d+) of (\d+) hold", text, re.MULTILINE) for text in reports]
  held, checked = (sum(int(match[i]) for match in counts if match) for i in (1, 2))
  assert f"| {held} of {checked} checks hold," in README
