"""Tiny models of Hugging Face's families (tests/fixtures) compute the same here as there."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers import FIXTURES
from tests.train.interop.helpers import NAMES, build, open_fixture, outputs
from train import predict, tasks
from train.common.errors import UserError
from train.interop import directory

# name -> settings of the searches whose results the fixtures hold
SEARCHES = {
  "greedy": dict(beam=1),
  "beam": dict(beam=4, length_penalty=0.0, penalty="length"),
  "beam_length": dict(beam=4, length_penalty=1.0, penalty="length"),
}


SLOW = pytest.mark.slow
# The quick tests of predictions: a fixture for each kind of head, and another kind of framing.
QUICK = ("bert_qa", "bert_choice", "bert_next_sentence", "bert_tagging", "electra_replaced", "gpt2")
QUICK += ("roberta_classification", "t5", "mpnet", "deberta_v2_mlm")


def expected(name):
  return load_file(FIXTURES / name / "expected.safetensors")


def texts_of(name):
  return json.loads((FIXTURES / name / "expected.json").read_text(encoding="utf-8"))


def test_there_are_fixtures_of_every_family_but_our_own_encoders():
  families = {open_fixture(name).family.model_type for name in NAMES}
  assert families == directory.FAMILIES.keys() - {"esm", "starcoder2"}


# A fixture of each family; what is tested for the others is slow.
FIRST = {open_fixture(name).family.model_type: name for name in reversed(NAMES)}.values()


@pytest.mark.parametrize("name", [x if x in FIRST else pytest.param(x, marks=SLOW) for x in NAMES])
def test_outputs_are_those_of_transformers(name):
  batch, source = expected(name), open_fixture(name)
  actual = outputs(source, batch)
  references = {key: batch[key] for key in batch if key in actual}
  assert references
  mask = batch["attention_mask"].astype(bool)
  if source.kind == "translation":
    mask = batch.get("decoder_attention_mask", mask).astype(bool)
  for key, reference in references.items():
    rows = mask if reference.shape[:2] == mask.shape else slice(None)
    assert np.abs(reference).max() > 0.05
    computed = np.asarray(actual[key])[rows]
    np.testing.assert_allclose(computed, reference[rows], atol=1e-4, err_msg=key)


@pytest.mark.parametrize(
  "name, search",
  [
    (name, search)
    if search == "beam_length" or name in ("t5", "gpt2")
    else pytest.param(name, search, marks=SLOW)
    for name in NAMES
    if "greedy" in expected(name)
    for search in SEARCHES
  ],
)
def test_generations_are_equal_token_for_token(name, search):
  """The inputs are texts, so the ids and the special tokens around them are compared too."""
  source, references = open_fixture(name), expected(name)
  task = tasks.make(source.task())
  texts = texts_of(name)["prompts" if source.kind == "causal" else "texts"]
  requests = task.requests([task.example(text) for text in texts])
  rows = [row["source"] for row in requests.read(range(len(texts)), range(len(texts)))]
  if source.kind == "causal":
    ids = references["prompt_ids"]
    mask = (ids >= 0).astype(np.int32)
  else:
    ids, mask = references["input_ids"], references["attention_mask"]
  assert [list(row) for row in rows] == [row[:n].tolist() for row, n in zip(ids, mask.sum(1))]
  settings = task.settings(**SEARCHES[search], max_len_extra=24)
  batch = dict(source=ids * mask, source_segments=mask, row=np.arange(len(ids))[:, None])
  batch["source_positions"] = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
  model, roles = build(source), task.tokenizer.roles
  first = roles.target_first if roles.force else ()
  predictions = jax.jit(lambda batch: task.predict(model, batch, settings))(batch)
  best = predictions["tokens"][:, 0], predictions["lengths"][:, 0]
  for row, tokens, length in zip(references[search], *best):
    assert [*first, *tokens[:length].tolist()] == row[row >= 0].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_lines_have_the_ids_that_transformers_gives_them(name):
  source = open_fixture(name)
  roles, tokenizer = source.tokenizer.roles, source.tokenizer
  for line in texts_of(name)["lines"]:
    if name == "mt5" and "\t" in line["text"]:
      continue  # its SentencePiece model knows no tab; transformers takes one for a blank
    (ids,) = tokenizer.encode_batch([line["text"]])
    assert [*roles.before, *ids, *roles.behind] == line["ids"], line["text"]


@pytest.mark.parametrize(
  "name", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in NAMES]
)
def test_three_lines_use_it(name):
  source = open_fixture(name)
  pipeline = predict.load(f"hf:{FIXTURES / name}")
  texts = {"mlm": ["The [MASK] fox."], "qa": [("Who reads?", "A good fox reads."), "Who?\tHe."]}
  texts |= {"next_sentence": ["Who reads?\tA good fox.", "Is it?\tHe."]}
  texts |= {"choice": ["Who reads?\tA good fox.\tNo", "Is it?\tHe.\tShe.\tIt."]}
  inputs = texts.get(source.kind, ["The lazy fox jumps.", "He reads!"])
  predictions = pipeline(inputs)
  assert len(predictions) == len(inputs)
  assert all(isinstance(prediction["text"], str) for prediction in predictions)
  alone = [pipeline([text])[0] for text in inputs]  # numbers differ by rounding
  assert [x["text"] for x in predictions] == [x["text"] for x in alone]
  if source.kind == "classification":
    assert predictions[0]["probs"].keys() == set(source.config["id2label"].values())


# Bad input


@pytest.fixture
def copy(tmp_path):
  """Returns a function that copies a fixture and changes its config.json."""

  def make(name="bert_mlm", **changes):
    folder = tmp_path / name
    shutil.copytree(FIXTURES / name, folder)
    if changes:
      path = folder / "config.json"
      config = json.loads(path.read_text()) | changes
      path.write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))
    return folder

  return make


@pytest.mark.parametrize(
  "name, changes, words",
  [
    ("bert_mlm", dict(model_type="xlnet"), ["config.json", "'xlnet'", "bert, roberta"]),
    ("bert_mlm", dict(model_type="gone"), ["config.json", "None"]),
    ("bert_mlm", dict(architectures=["BertForNothing"]), ["BertForMaskedLM"]),
    ("bert_mlm", dict(hidden_act="quick_gelu"), ["config.json", "hidden_act", "quick_gelu"]),
    ("bert_mlm", dict(position_embedding_type="relative_key"), ["position_embedding_type"]),
    ("bert_mlm", dict(hiden_size=3), ["hiden_size", "hidden_size"]),
    ("bert_mlm", dict(is_decoder=True), ["is_decoder"]),
    ("bert_mlm", dict(num_hidden_layers=3), ["encoder.layer.2", "is not there"]),
    ("bert_mlm", dict(num_hidden_layers=1), ["encoder.layer.1", "no counterpart"]),
    ("bert_mlm", dict(intermediate_size=24), ["intermediate.dense.weight", "24"]),
    ("bert_mlm", dict(num_attention_heads=5), ["config.json", "num_heads 5"]),
    ("bart", dict(decoder_ffn_dim=8), ["decoder.layers.0.fc1.weight has shape", "8"]),
    ("llama", dict(rope_scaling={"type": "dynamic", "factor": 2}), ["rope_scaling", "dynamic"]),
    ("llama", dict(rope_scaling={"type": "linear"}), ["rope_scaling", "factor"]),
    ("llama", dict(rope_scaling={"type": "linear", "factor": "2"}), ["rope_scaling", "factor"]),
    ("llama", dict(partial_rotary_factor=0.5), ["partial_rotary_factor is 0.5"]),
    ("qwen2", dict(layer_types=["full_attention"]), ["layer_types", "num_hidden_layers is 3"]),
    ("qwen2", dict(layer_types=["chunked_attention"] * 3), ["layer_types", "chunked_attention"]),
    ("qwen2", dict(use_sliding_window=False), ["layer_types", "sliding_window"]),
    ("qwen2", dict(num_hidden_layers=10**6, layer_types="gone"), ["num_hidden_layers"]),
    ("gemma2", dict(query_pre_attn_scalar=-1), ["query_pre_attn_scalar is -1"]),
    ("gemma2", dict(use_bidirectional_attention=True), ["use_bidirectional_attention"]),
    ("gemma3", dict(attn_logit_softcapping=2.0), ["attn_logit_softcapping"]),
    ("gemma3", dict(sliding_window_pattern=0, layer_types="gone"), ["config.json"]),
    ("gemma3", dict(rope_parameters=dict(rope_type="default")), ["rope_type", "full_attention"]),
    ("llama", dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1.0}), ["yarn"]),
    ("t5", dict(feed_forward_proj="gated-quick"), ["gated-quick"]),
  ],
)
def test_what_has_no_counterpart_is_named(copy, name, changes, words):
  folder = copy(name, **changes)
  with pytest.raises(UserError) as error:
    _ = directory.Directory(folder).params
  assert all(word in str(error.value) for word in words), str(error.value)


def test_a_table_with_fewer_rows_than_the_vocabulary_is_an_error(copy):
  folder = copy()
  tensors = load_file(folder / "model.safetensors")
  name = "bert.embeddings.word_embeddings.weight"
  save_file(tensors | {name: tensors[name][:-3]}, folder / "model.safetensors")
  with pytest.raises(UserError, match=r"word_embeddings\.weight has shape"):
    _ = directory.Directory(folder).params


def test_a_missing_or_an_unused_tensor_is_listed(copy):
  folder = copy()
  tensors = load_file(folder / "model.safetensors")
  gone = "bert.encoder.layer.1.output.dense.bias"
  more = {"bert.encoder.layer.1.output.extra": np.ones(3, np.float32)}
  save_file({k: v for k, v in tensors.items() if k != gone} | more, folder / "model.safetensors")
  with pytest.raises(UserError) as error:
    _ = directory.Directory(folder).params
  assert f"{gone} is not there" in str(error.value)
  assert "bert.encoder.layer.1.output.extra has no counterpart here" in str(error.value)


def test_a_copy_that_differs_is_an_error(copy):
  folder = copy()
  tensors = load_file(folder / "model.safetensors")
  table = tensors["bert.embeddings.word_embeddings.weight"]
  name = "cls.predictions.decoder.weight"
  save_file(tensors | {name: table}, folder / "model.safetensors")
  assert directory.Directory(folder).params
  save_file(tensors | {name: table + 1}, folder / "model.safetensors")
  with pytest.raises(UserError, match=f"{name} must be a copy"):
    _ = directory.Directory(folder).params


def test_truncated_tensors_are_an_error(copy):
  folder = copy()
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(UserError, match=r"model\.safetensors: not a complete safetensors file"):
    _ = directory.Directory(folder).params


def test_pickles_are_refused_with_the_reason(copy):
  folder = copy()
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  with pytest.raises(UserError, match=r"pytorch_model\.bin is not read: a pickle can run any"):
    _ = directory.Directory(folder).params


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, file):
  folder = copy()
  (folder / file).unlink()
  with pytest.raises(UserError, match=file):
    _ = directory.Directory(folder).params


def test_a_missing_shard_is_named(copy):
  name = next(name for name in NAMES if (FIXTURES / name / "model.safetensors.index.json").exists())
  folder = copy(name)
  shard = sorted(folder.glob("model-*.safetensors"))[0]
  shard.unlink()
  with pytest.raises(UserError, match=shard.name):
    _ = directory.Directory(folder).params


def test_an_old_norm_is_read_by_its_old_names(copy):
  folder = copy()
  tensors = load_file(folder / "model.safetensors")
  old = {
    k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
    for k, v in tensors.items()
  }
  assert old.keys() != tensors.keys()
  save_file(old, folder / "model.safetensors")
  new, before = directory.Directory(folder).params, open_fixture("bert_mlm").params
  assert all(np.array_equal(new[path], before[path]) for path in before)
