"""Runs start from Hugging Face directories, and a real BERT gives its real vectors."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers import FIXTURES, MINILM, train_config
from tests.train.interop.helpers import open_fixture
from train import predict
from train.common.errors import UserError
from train.interop import directory

SLOW = pytest.mark.slow  # heads and tasks that the others try too
SHORT = {"task.source_len": 32, "schedule.peak": 0.0}  # the tiny models have 40 positions


@pytest.mark.parametrize(
  "name, text, changes",
  [
    pytest.param("bert", "classify.py:small,data={folder}", {}, marks=SLOW),
    pytest.param("bert_mlm", "classify.py:small,data={folder}", {}, marks=SLOW),
    pytest.param("bert_qa", "classify.py:small,data={folder}", {}, marks=SLOW),
    pytest.param("electra_classification", "classify.py:small,data={folder}", {}, marks=SLOW),
    pytest.param(
      "roberta_mlm", "tag.py:small,suffix=.conll,data={folder}", {"task.stride": 16}, marks=SLOW
    ),
    pytest.param(
      "distilbert_mlm",
      "qa.py:small,train={folder}/train.json,validation={folder}/dev.json",
      {},
      marks=SLOW,
    ),
    pytest.param("t5_v1_1", "classify.py:small,data={folder}", {}, marks=SLOW),
    pytest.param("t5", "text2text.py:small,data={folder}", {"task.target_len": 8}, marks=SLOW),
    pytest.param("bart", "text2text.py:small,data={folder}", {"task.target_len": 8}, marks=SLOW),
    pytest.param("bert_mlm", "mlm.py:small,data={folder}/prose", {}, marks=SLOW),
    pytest.param("bert", "mlm.py:small,data={folder}/prose", {}, marks=SLOW),
    pytest.param("gpt2", "classify.py:small,data={folder}", {}, marks=SLOW),
    pytest.param(
      "llama", "tag.py:small,suffix=.conll,data={folder}", {"task.stride": 16}, marks=SLOW
    ),
    ("modernbert_mlm", "glue.py:small,name=rte", {}),
    pytest.param("modernbert_classification", "classify.py:small,data={folder}", {}, marks=SLOW),
    pytest.param(
      "modernbert_mlm", "tag.py:small,suffix=.conll,data={folder}", {"task.stride": 16}, marks=SLOW
    ),
    pytest.param("modernbert_mlm", "mlm.py:small,data={folder}/prose", {}, marks=SLOW),
    pytest.param("albert_mlm", "classify.py:small,data={folder}", {}, marks=SLOW),
    pytest.param("deberta_v2_classification", "glue.py:small,name=rte", {}, marks=SLOW),
    pytest.param(
      "mpnet",
      "choice.py:small,data={folder}",
      {"task.choice_len": 16, "task.source_len": 64},
      marks=SLOW,
    ),
    pytest.param(
      "gpt2", "causal.py:small,data={folder}/prose", {"task.target_len": 16}, marks=SLOW
    ),
    pytest.param(
      "t5",
      "span.py:small,data={folder}/prose",
      {"task.length": 16, "task.target_len": 16, "task.rate": 0.15},
      marks=SLOW,
    ),
    pytest.param("t5gemma", "classify.py:small,data={folder}", {}, marks=SLOW),
    pytest.param("marian", "multi30k.py:small,data={folder}", {"task.target_len": 32}, marks=SLOW),
    pytest.param(
      "bert2bert", "multi30k.py:small,data={folder}", {"task.target_len": 16}, marks=SLOW
    ),
  ],
)
def test_a_run_begins_with_the_directorys_weights(name, text, changes, corpus, tmp_path):
  source = open_fixture(name)
  if "qa" in text:
    changes = {"task.stride": 8}
  changes = SHORT | changes
  if "causal" in text:
    del changes["task.source_len"]
  labelled = text.startswith(("classify", "tag", "qa"))
  if source.model["decoder_layers"] and not labelled:
    changes["task.decoding"] = dict(beam=1, length_penalty=0.0, max_len_ratio=0.0, max_len_extra=20)
  after = train_config(f"{text},init=hf:{FIXTURES / name}", corpus, tmp_path / "run", **changes)
  # the head is taken over if it is for the same task
  kept = "mlm" in name and "mlm.py" in text
  fresh = ("head/", "output_bias") if "mlm.py" in text else ("head/",)
  body = {path for path in after if kept or not path.startswith(fresh)}
  assert len(body) >= 20
  for path in body:
    alone = path == "embedding/embedding" and labelled and source.kind == "translation"
    there = "source_embedding/embedding" if alone and "t5gemma" in name else path
    np.testing.assert_array_equal(after[path], np.asarray(source.params[there]), err_msg=path)
  body = directory.Directory(FIXTURES / name, as_body=True)
  kept = body.pooler and any(word in text for word in ("classify", "glue", "choice"))
  if "head/dense/kernel" in after and "mlm.py" not in text:
    # a pooler has the path and shape of a masked-LM head's dense layer, which is another layer
    before = body.params.get("head/dense/kernel", np.zeros(0))
    assert np.array_equal(after["head/dense/kernel"], np.asarray(before)) == kept
  saved = json.loads((tmp_path / "run" / "tokenizer.json").read_text())
  assert saved.keys() >= {"roles", "tokenizer"}
  lines = {"qa.py": "the dog\truns", "glue.py": "the dog\truns", "choice.py": "the\tdog\tcat"}
  lines |= {"mlm.py": "the [MASK] runs"}
  line = next((line for config, line in lines.items() if config in text), "the dog")
  assert predict.load(tmp_path / "run")([line])


def test_another_tokenizer_is_refused(corpus, tmp_path):
  changes = {"init_from.workdir": f"hf:{FIXTURES / 'bert_mlm'}", "init_from.skip": ("^head/",)}
  with pytest.raises(UserError, match=r"tokenizer.*init_from\.skip"):
    train_config("classify.py:small,data={folder}", corpus, tmp_path, **changes)


@pytest.mark.skipif(not MINILM.exists(), reason="make data fetches data/minilm")
def test_a_real_model_gives_its_real_vectors():
  texts = json.loads((FIXTURES / "minilm" / "texts.json").read_text(encoding="utf-8"))
  references = load_file(FIXTURES / "minilm" / "expected.safetensors")["embeddings"]
  predictions = predict.load(f"hf:{MINILM}")(texts)
  embeddings = np.array([prediction["embedding"] for prediction in predictions])
  np.testing.assert_allclose(embeddings, references, atol=1e-5)
