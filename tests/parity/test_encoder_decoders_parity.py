"""Encoder-decoders of two BERTs or RoBERTas are written as `transformers` reads (make parity)."""

import json
import pathlib
import sys

import numpy as np
import pytest

from tests.helpers import FIXTURES
from tests.train.interop.helpers import head_of
from train import export
from train.interop import directory, writing

torch = pytest.importorskip("torch", reason="`make parity` compares with torch and transformers")
transformers = pytest.importorskip("transformers", reason="`make parity` compares with them")

sys.path.insert(0, str(FIXTURES))
make, variations = pytest.importorskip("make"), pytest.importorskip("variations")

FAMILIES = ("bert2bert", "roberta2roberta")
VARIATIONS = {x.name: x for x in variations.variations() if x.name.startswith(FAMILIES)}
READ = [name for name, variation in VARIATIONS.items() if not variation.note]


def logits(model):
  rng = np.random.default_rng(0)
  ids, inputs = (torch.tensor(rng.integers(5, 48, (2, size))) for size in (9, 7))
  with torch.no_grad():
    return model.eval()(input_ids=ids, decoder_input_ids=inputs).logits.numpy()


@pytest.mark.parametrize("name", READ)
def test_what_is_written_has_all_tensors_and_the_same_logits(name, tmp_path):
  model = VARIATIONS[name].model(VARIATIONS[name].config)
  with torch.inference_mode():
    make.fill(model, 0)
  model.save_pretrained(tmp_path / "theirs")
  source, out = directory.Directory(tmp_path / "theirs"), tmp_path / "ours"
  fit = writing.best(source.model, "translation", head_of("translation"))
  out.mkdir()
  ids = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
  more = {key: source.config[key] for key in ids}
  assert not writing.write(out, fit, "translation", source.params, more)
  back, report = transformers.EncoderDecoderModel.from_pretrained(out, output_loading_info=True)
  assert not any(report.values()), report
  np.testing.assert_allclose(logits(back), logits(model), atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_export_gives_the_same_texts_there(name, tmp_path):
  export.as_hf(f"hf:{FIXTURES / name}", "latest", tmp_path / "out", check=True)
  assert "gives the same" in (tmp_path / "out" / "README.md").read_text()
  auto = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
  ours = pathlib.Path(FIXTURES / name / "generation_config.json")
  for key, value in json.loads(ours.read_text()).items():
    if key.endswith("_token_id"):
      assert getattr(auto.generation_config, key) == value, key
