"""Directories of sentence-transformers give the vectors of their modules."""

import json
import logging
import shutil

import numpy as np
import pytest

from tests.helpers import FIXTURES
from tests.train.interop import sentences
from tests.train.interop.helpers import build
from train import export, predict
from train.common.errors import UserError
from train.interop import directory

CASES = {
  "mean": dict(mode="mean"),
  "first token, not normalized": dict(mode="cls", normalize=False),
  "maxima": dict(mode="max", flags=True),
  "last token, two layers": dict(
    mode="lasttoken", dense=((5, True, "Tanh"), (4, False, "GELU")), do_lower_case=True
  ),
  "cut": dict(mode="mean", flags=True, dense=((3, True, "Identity"),), max_seq_length=6),
}


@pytest.fixture
def folder(tmp_path):
  shutil.copytree(FIXTURES / "mpnet_mlm", tmp_path / "model")
  config = json.loads((tmp_path / "model" / "config.json").read_text())
  config["architectures"] = ["MPNetModel"]
  (tmp_path / "model" / "config.json").write_text(json.dumps(config))
  return tmp_path / "model"


QUICK = ("cut",)
SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in CASES if case not in QUICK]


@pytest.mark.parametrize("case", [*QUICK, *SLOW])
def test_vectors_are_those_of_the_modules(case, folder, tmp_path):
  options = CASES[case]
  weights = sentences.write(folder, **options)
  source, longest = directory.Directory(folder), options.get("max_seq_length", 40)
  model, roles = build(source), source.tokenizer.roles
  export.as_hf(f"hf:{folder}", "latest", tmp_path / "out")
  for where in (folder, tmp_path / "out"):
    predictions = predict.load(f"hf:{where}")(list(sentences.TEXTS))
    for text, prediction in zip(sentences.TEXTS, predictions):
      text = text.strip().lower() if options.get("do_lower_case") else text.strip()
      (ids,) = source.tokenizer.encode_batch([text])
      row = np.array([[*roles.first, *ids[: longest - 2], roles.eos]])
      states = np.asarray(model.encode(row, np.ones_like(row)))[0]
      expected = sentences.vector(states, options["mode"], weights, options.get("normalize", True))
      np.testing.assert_allclose(prediction["embedding"], expected, atol=2e-5)


@pytest.mark.parametrize(
  "file, change, words",
  [
    ("1_Pooling/config.json", dict(pooling_mode="weightedmean"), ["1_Pooling", "weightedmean"]),
    ("1_Pooling/config.json", dict(word_embedding_dimension=9), ["word_embedding_dimension is 9"]),
    ("2_Dense/config.json", dict(activation_function="torch.nn.Softmax"), ["Softmax", "Tanh"]),
    ("2_Dense/config.json", dict(in_features=3), ["in_features", "8"]),
    ("2_Dense/config.json", dict(out_features=4), ["linear.weight has shape"]),
    ("sentence_bert_config.json", dict(max_seq_length=-1), ["max_seq_length is -1"]),
  ],
)
def test_what_has_no_counterpart_is_named(file, change, words, folder):
  sentences.write(folder, "mean", dense=((5, True, "Tanh"),))
  content = json.loads((folder / file).read_text()) | change
  (folder / file).write_text(json.dumps(content))
  with pytest.raises(UserError) as error:
    predict.load(f"hf:{folder}")
  assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
  "types, words",
  [
    (["Transformer", "WeightedLayerPooling", "Pooling"], ["WeightedLayerPooling"]),
    (["Transformer", "Pooling", "Normalize", "Dense"], ["Normalize, Dense"]),
    (["WordEmbeddings", "Pooling"], ["WordEmbeddings"]),
  ],
)
def test_other_modules_are_named(types, words, folder):
  sentences.write(folder, "mean")
  paths = {"Transformer": "", "WordEmbeddings": ""}
  modules = [dict(type=f"x.{kind}", path=paths.get(kind, f"1_{kind}")) for kind in types]
  (folder / "modules.json").write_text(json.dumps(modules))
  with pytest.raises(UserError) as error:
    predict.load(f"hf:{folder}")
  assert all(word in str(error.value) for word in words), str(error.value)


def test_prompts_are_logged(folder, caplog):
  sentences.write(folder, "mean")
  with caplog.at_level(logging.INFO, "absl"):
    predict.load(f"hf:{folder}")
  assert "'query: '" in caplog.text
