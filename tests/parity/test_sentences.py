"""Vectors of sentence-transformers' directories equal those by transformers (make parity)."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers import FIXTURES
from tests.train.interop import sentences
from train import predict

torch = pytest.importorskip("torch", reason="`make parity` compares with torch and transformers")
transformers = pytest.importorskip("transformers", reason="`make parity` compares with them")


@pytest.mark.parametrize("mode", sentences.FLAGS)
@pytest.mark.parametrize(
  "name", ["mpnet_mlm", "bert", "albert", "xlm_roberta_classification", "modernbert_mlm"]
)
def test_vectors_are_those_of_transformers(name, mode, tmp_path):
  folder = tmp_path / "model"
  shutil.copytree(FIXTURES / name, folder)
  config = json.loads((folder / "config.json").read_text())
  config["architectures"] = None
  (folder / "config.json").write_text(json.dumps(config))
  weights = sentences.write(folder, mode, dense=((5, True, "Tanh"),), do_lower_case=True)
  model = transformers.AutoModel.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  for text, prediction in zip(
    sentences.TEXTS, predict.load(f"hf:{folder}")(list(sentences.TEXTS)), strict=True
  ):
    with torch.no_grad():
      states = model(**tokenizer(text.strip().lower(), return_tensors="pt")).last_hidden_state
    expected = sentences.vector(states[0].numpy(), mode, weights, True)
    np.testing.assert_allclose(prediction["embedding"], expected, atol=2e-5)
