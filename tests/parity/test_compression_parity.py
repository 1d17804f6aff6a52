"""Smaller models answer in transformers and CTranslate2 as they do here: of runs that are really
trained (make parity)."""

import json

import numpy as np
import pytest

from tests.train.interop.helpers import TRAINED
from train import export, inference, prune
from train.scoring import scores

transformers = pytest.importorskip("transformers", reason="`make parity` compares with it")
library = pytest.importorskip("ctranslate2", reason="`make parity` compares with it")

RUNS = ("pre_norm", "post_norm")


def translated(folder, sources, compute_type):
  options = json.loads((folder / "generation.json").read_text())
  file = str(folder / "tokenizer.json")
  tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=file)
  model = library.Translator(str(folder), device="cpu", compute_type=compute_type)
  rows = [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in sources]
  outputs = model.translate_batch(rows, **options)
  ids = [tokenizer.convert_tokens_to_ids(output.hypotheses[0]) for output in outputs]
  return [tokenizer.decode(row) for row in ids]


@pytest.mark.parametrize("name", RUNS)
def test_integers_translate_as_floats_do_here_and_there(name, tmp_path):
  """By weights in 8 bits. CTranslate2's products of 8 bits err more on these narrow layers, and as
  much with the integers that it makes itself of our float export."""
  run, stored, floats, integers = TRAINED / name, *(tmp_path / x for x in ("run", "f32", "int8"))
  words = ["--workdir", str(run), "--no-check", "--out"]
  export.main([*words, str(stored), "--quantize", "int8"])
  export.main([*words, str(floats), "--format", "ctranslate2"])
  export.main([*words, str(integers), "--format", "ctranslate2", "--quantize", "int8"])
  whole = inference.load(run, penalty="length")
  examples = whole.run.task.examples("test")
  examples = [examples[i] for i in range(min(200, len(examples)))]
  sources, references = ([example[key] for example in examples] for key in ("source", "target"))
  of_whole = [output["text"] for output in whole(sources)]
  of_stored = [output["text"] for output in inference.load(stored, penalty="length")(sources)]
  there = translated(integers, sources, "float32")
  for answers in (of_stored, there):
    found, expected = (scores.texts(x, references)["bleu"] for x in (answers, of_whole))
    assert abs(found - expected) < 0.3
    assert expected > 80
    assert np.mean([a == b for a, b in zip(answers, of_whole)]) > 0.95
  assert translated(integers, sources, "int8") == translated(floats, sources, "int8")
  size = (integers / "model.bin").stat().st_size
  assert size < 0.7 * (floats / "model.bin").stat().st_size


@pytest.mark.parametrize(
  ("name", "flags", "form"),
  [
    ("pre_norm", ("--heads", "0.5", "--mlp", "0.5"), "ctranslate2"),
    ("post_norm", ("--heads", "0.75"), "ctranslate2"),
    ("post_norm", ("--mlp", "0.5"), "hf"),
    ("classifier", ("--mlp", "0.5"), "hf"),
  ],
)
def test_a_pruned_run_gives_the_same_texts_there(name, flags, form, tmp_path):
  words = ["--workdir", str(TRAINED / name), "--split", "train", "--out", str(tmp_path / "run")]
  prune.main([*words, *flags])
  export.FORMATS[form](tmp_path / "run", "latest", tmp_path / "out", check=True)
  card = (tmp_path / "out" / "README.md").read_text()
  assert "for 20 inputs." in card


@pytest.mark.parametrize("name", ["post_norm", "classifier"])
def test_a_run_of_integers_gives_the_same_texts_in_transformers(name, tmp_path):
  stored, out = tmp_path / "int8", tmp_path / "out"
  export.main(["--workdir", str(TRAINED / name), "--quantize", "int8", "--out", str(stored)])
  export.as_hf(stored, "latest", out, check=True)
  assert "for 20 inputs." in (out / "README.md").read_text()
