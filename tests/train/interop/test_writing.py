"""Imports are exported as they were, and our own runs are exported as a family or refused."""

import json
import re

import numpy as np
import pytest

from tests.helpers import FIXTURES, load_config, train_config
from tests.train.interop.helpers import NAMES, head_of, open_fixture
from train import export as command
from train import predict
from train.common.errors import UserError
from train.interop import directory, weights, weights_out, writing

SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
def test_the_export_of_an_import_is_the_same_bit_for_bit(name, tmp_path):
  command.as_hf(f"hf:{FIXTURES / name}", "latest", tmp_path / "out")
  imported, exported = weights.Tensors(FIXTURES / name), weights.Tensors(tmp_path / "out")
  assert exported.shapes == imported.shapes
  before, after = open_fixture(name), directory.Directory(tmp_path / "out")
  rows = before.family.rows_of(before.kind, before.model).values()
  added = {row.theirs: row.plus for row in rows if row.plus}  # whose first row is in the other
  computed = before.family.make(before.model)
  zeros = {name for name in computed if re.search(before.family.left_out, name)}
  zeros |= {*added.values()}
  for tensor in imported.shapes.keys() - zeros:
    expected = imported[tensor]
    if tensor in added:
      expected = expected + imported[added[tensor]][0]
    np.testing.assert_array_equal(exported[tensor], expected, err_msg=tensor)
  for tensor in zeros:
    assert not exported[tensor].any(), tensor
  assert (after.model, after.kind) == (before.model, before.kind)
  if before.kind in ("classification", "tagging"):
    assert after.labels == before.labels
  for key in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
    if before.config.get(key) is not None:
      assert after.config[key] == before.config[key], key
  lines = ["The lazy fox jumps.", "Où est l'élan 24 😀?", ""]
  assert after.tokenizer.encode_batch(lines) == before.tokenizer.encode_batch(lines)
  assert after.tokenizer.roles == before.tokenizer.roles


NEAREST = {  # config -> its kind and the family nearest to it
  "scan.py:small": ("translation", "pegasus"),
  "multi30k.py:small,data={folder}": ("translation", "pegasus"),
  "multi30k.py:small,recipe=tiny,data={folder}": ("translation", "marian"),
  "mlm.py:small,data={folder}/prose": ("mlm", "esm"),
  "classify.py:small,data={folder}": ("classification", "esm"),
  "tag.py:small,suffix=.conll,data={folder}": ("tagging", "esm"),
  "causal.py:small,data={folder}/prose": ("causal", "starcoder2"),
}


@pytest.mark.parametrize("text", NEAREST)
def test_our_configs_are_exported_as_the_nearest_family(text, corpus):
  kind, family = NEAREST[text]
  model = dict(load_config(text, corpus).model) | dict(vocab_size=100)
  head = head_of(kind, model["activation"])
  assert writing.best(model, kind, head).family.model_type == family


@pytest.mark.parametrize(
  "text, kind, words",
  [
    ("span.py:small,data={folder}/prose", "translation", ["model.positions", "'rotary'"]),
    ("scan.py:small,positions=alibi", "translation", ["model.positions", "'alibi'", "pegasus"]),
    ("qa.py:small,train={folder}/train.json", "qa", ["model.first_norm", "model.gated"]),
  ],
)
def test_a_setting_without_counterpart_is_named(text, kind, words, corpus):
  model = dict(load_config(text, corpus).model) | dict(vocab_size=100)
  with pytest.raises(UserError) as error:
    writing.best(model, kind, head_of(kind))
  assert all(word in str(error.value) for word in words), str(error.value)


def test_an_lstm_is_refused(corpus, tmp_path):
  train_config("scan.py:small,model=lstm", corpus, tmp_path / "run")
  with pytest.raises(UserError, match=r"model.name is 'lstm': .* Transformers"):
    command.as_hf(tmp_path / "run", "latest", tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "model, kind, family",
  [
    (dict(positions="learned", norm_position="pre", bias=False, embed_scale=False),
     "causal", "gpt2"),
    (dict(positions="relative", norm="rms", norm_position="pre", bias=False, embed_scale=False,
          attention_scale=1.0, gated=True, activation="gelu_tanh", tie_output=False),
     "translation", "t5"),
  ],
)  # fmt: skip
def test_a_missing_bias_is_one_of_zeros(model, kind, family):
  depths = dict(encoder_layers=0) if kind == "causal" else {}
  model = dict(vocab_size=20, dim=8, num_heads=2, mlp_dim=12, max_len=16) | depths | model
  assert writing.best(model, kind, head_of(kind)).family.model_type == family


@pytest.mark.parametrize(
  "text, inputs",
  [
    ("mlm.py:small,data={folder}/prose", ["the [MASK] runs"]),
    pytest.param("classify.py:small,data={folder}", ["the dog runs", "a cat"], marks=SLOW),
    pytest.param("tag.py:small,suffix=.conll,data={folder}", ["the dog runs", "a cat"], marks=SLOW),
    ("multi30k.py:small,data={folder}", ["a dog", "the cat runs"]),
  ],
)
def test_our_run_goes_out_and_comes_back(text, inputs, corpus, tmp_path):
  """Tokenizer, labels and weights give the same answers after a Hugging Face directory."""
  train_config(text, corpus, tmp_path / "run")
  command.as_hf(tmp_path / "run", "latest", tmp_path / "out")
  settings = dict(beam=1, max_len_ratio=0.0, max_len_extra=12) if "multi30k" in text else {}
  before = predict.load(tmp_path / "run", **settings)(inputs)
  after = predict.load(f"hf:{tmp_path / 'out'}", **settings)(inputs)
  assert [x["text"] for x in after] == [x["text"] for x in before]
  for ours, exported in zip(before, after):
    if isinstance(ours.get("probs"), dict):
      assert exported["probs"] == pytest.approx(ours["probs"], abs=1e-5)


@pytest.mark.slow
def test_stacked_layers_move_to_single_ones_and_back_and_go_out_alike(corpus, tmp_path):
  runs, texts = [tmp_path / name for name in ("single", "stacks", "again")], "mlm.py:small,data={}"
  text, flat, weights_of = texts.format(f"{corpus}/prose"), None, []
  for run, scan in zip(runs, (False, True, False)):
    start = f",init={flat}" if flat else ""
    changes = {"model.scan_layers": scan, "schedule.peak": 0.0, "seed": len(weights_of)}
    changes |= {"model.encoder_layers": 2}
    weights_of.append(train_config(text + start, corpus, run, **changes))
    flat = run
  single, stacks, again = weights_of
  assert "encoder/blocks/mlp/up/kernel" in stacks
  assert "encoder/blocks/1/mlp/up/kernel" in single
  assert single.keys() == again.keys()
  for path in single:
    np.testing.assert_array_equal(again[path], single[path], err_msg=path)
  for run in runs[:2]:
    command.as_hf(run, "latest", run / "out")
  ours, theirs = (weights.Tensors(run / "out") for run in runs[:2])
  assert ours.shapes == theirs.shapes
  for tensor in ours.shapes:
    np.testing.assert_array_equal(ours[tensor], theirs[tensor], err_msg=tensor)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
  (tmp_path / "mine").write_text("keep")
  with pytest.raises(UserError, match="not empty"):
    command.as_hf(f"hf:{FIXTURES / 'bert_mlm'}", "latest", tmp_path)
  assert (tmp_path / "mine").read_text() == "keep"


def test_large_models_are_written_in_shards(tmp_path, monkeypatch):
  monkeypatch.setattr(weights_out, "SHARD_BYTES", 4000)
  command.as_hf(f"hf:{FIXTURES / 'bert_mlm'}", "latest", tmp_path / "out")
  index = json.loads((tmp_path / "out" / weights.INDEX).read_text())
  assert len(set(index["weight_map"].values())) > 2
  imported, exported = weights.Tensors(FIXTURES / "bert_mlm"), weights.Tensors(tmp_path / "out")
  assert exported.shapes == imported.shapes
  assert all(np.array_equal(imported[name], exported[name]) for name in imported.shapes)
