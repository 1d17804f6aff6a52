"""Vectors and tokenizers of encoders equal those by transformers (make parity)."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers import FIXTURES
from tests.train.interop import sentences
from train import predict
from train.interop import directory

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


@pytest.mark.parametrize(
  "name, settings",
  [
    ("albert", dict(do_lower_case=False)),
    ("albert", dict(keep_accents=True)),
    ("albert_mlm", dict(do_lower_case=False, keep_accents=True)),
    ("deberta_v2_mlm", dict(split_by_punct=True, do_lower_case=True)),
    ("deberta_v2_classification", dict(split_by_punct=True)),
    ("xlm_roberta_classification", dict(add_prefix_space=False)),
    ("camembert_mlm", {}),
    ("mpnet_mlm", dict(do_lower_case=False)),
  ],
)
def test_tokenizers_follow_their_settings_as_in_transformers(name, settings, tmp_path):
  folder = tmp_path / "model"
  shutil.copytree(FIXTURES / name, folder)
  path = folder / "tokenizer_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | settings))
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  ours = directory.Directory(folder).tokenizer
  lines = ["The NAÏVE élite -- don't!", "``quoted'' 17,000 ﬁ ½", " two  blanks, a\ttab\nline ", ""]
  for line in lines:
    (ids,) = ours.encode_batch([line])
    assert [*ours.roles.first, *ids, ours.roles.eos] == theirs(line)["input_ids"], line
  masked = f"The {theirs.mask_token} fox"
  assert ours.encode_marked(masked) == theirs(masked, add_special_tokens=False)["input_ids"]
