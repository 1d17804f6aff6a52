"""What looks into a trained run: the probe of an encoder, and a decoder with another's source."""

import re

import pytest

from experiments.analysis import blind, probe
from train import loop, resolve
from train.common.errors import UserError
from train.record.workdir import open_run

TEXT = "the cat sat on the mat . a dog barked at the cat all night . nobody slept well . " * 30


pytestmark = pytest.mark.slow  # trains what is analysed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A masked language model and a denoiser of a few steps."""
  folder = tmp_path_factory.mktemp("runs")
  (folder / "prose").mkdir()
  (folder / "prose/a.txt").write_text(TEXT, encoding="utf-8")
  for name in ("mlm", "span"):
    changes = [
      "steps=2",
      "schedule.warmup_steps=1",
      "evaluate.every=2",
      "checkpoint.every=2",
      "loggers=()",
    ]
    cfg = resolve.load(f"configs/{name}.py:small,data={folder}/prose", changes)
    with open_run(folder / name, cfg, []) as run:
      loop.train(cfg, run)
  return folder


def test_a_probe_finds_classes_that_words_tell(runs, tmp_path, capsys):
  """Cats and dogs: what the embeddings know, no block has lost after two steps."""
  for split, count in (("train", 40), ("test", 10)):
    lines = [f"the {'cat' if i % 2 else 'dog'} sat all night\t{i % 2}" for i in range(count)]
    (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
  probe.main([f"--workdir={runs / 'mlm'}", f"--data={tmp_path}"])
  rows = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+)$", capsys.readouterr().out, re.MULTILINE)
  assert [int(blocks) for blocks, _, _ in rows] == [0, 1]
  assert [accuracy for _, _, accuracy in rows] == ["100.0", "100.0"]
  assert float(rows[0][1]) == pytest.approx(1, abs=0.1)  # the norm of the embeddings


def test_a_decoder_is_told_its_own_and_anothers_source(runs, capsys):
  blind.main([f"--workdir={runs / 'span'}"])
  own, other = re.findall(r"loss ([\d.]+)", capsys.readouterr().out)
  assert own != other
  with pytest.raises(UserError, match="no encoder-decoder"):
    blind.main([f"--workdir={runs / 'mlm'}"])
