"""Encoder-decoders of two BERTs or RoBERTas: their sections, and our own models of that form."""

import json
import logging
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers import FIXTURES, train_config
from tests.train.interop.helpers import SIZES, TYPES, head_of, open_fixture, problems
from train import export, predict
from train.common.errors import UserError
from train.interop import ctranslate2, directory, writing

NAMES = ("bert2bert", "roberta2roberta")
BERT = dict(
  positions="learned", embedding_norm=True, share_embeddings=False, output_transform="gelu",
  embed_scale=False, output_bias=True, activation="gelu",
)  # fmt: skip


@pytest.fixture
def copied(tmp_path):
  """Returns a function that copies a fixture and changes fields of config.json and its sections."""

  def make(name, above=(), **sections):
    folder = shutil.copytree(FIXTURES / name, tmp_path / name)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for side, changes in sections.items():
      config[side] |= changes
    path.write_text(json.dumps(config | dict(above)))
    return folder

  return make


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(decoder=dict(model_type="gpt2")), ["decoder.model_type", "'gpt2'", "bert, roberta"]),
    (dict(encoder=dict(model_type="t5")), ["encoder.model_type", "'t5'"]),
    (dict(decoder=dict(model_type="roberta")), ["encoder.model_type is 'bert'", "'roberta'"]),
    (dict(encoder=dict(hidden_size=12)), ["encoder.hidden_size is 12", "decoder", "model.dim"]),
    (dict(decoder=dict(hidden_act="relu")), ["decoder.hidden_act is 'relu'", "model.activation"]),
    (dict(decoder=dict(is_decoder=False)), ["decoder: is_decoder is False"]),
    (dict(encoder=dict(is_decoder=True)), ["encoder: is_decoder is True"]),
    (dict(decoder=dict(hiden_size=8)), ["decoder: ", "hiden_size", "hidden_size"]),
    (dict(decoder=dict(num_hidden_layers=2)), ["decoder.bert.encoder.layer.1", "is not there"]),
    (dict(above=dict(encoder=None)), ["encoder.model_type is None"]),
    (dict(above=dict(tie_encoder_decoder=True)), ["tie_encoder_decoder"]),
  ],
)
def test_what_the_halves_cannot_have_is_named(copied, changes, words):
  with pytest.raises(UserError) as error:
    _ = directory.Directory(copied("bert2bert", **changes)).params
  assert all(word in str(error.value) for word in ["config.json", *words]), str(error.value)


def test_a_decoder_without_mark_is_refused(copied):
  folder = copied("bert2bert")
  path = folder / "config.json"
  config = json.loads(path.read_text())
  del config["decoder"]["add_cross_attention"]
  path.write_text(json.dumps(config))
  with pytest.raises(UserError, match="decoder: add_cross_attention is False"):
    _ = directory.Directory(folder).model


def test_a_table_of_token_types_must_be_there(copied):
  folder = copied("bert2bert")
  name = "decoder.bert.embeddings.token_type_embeddings.weight"
  tensors = load_file(folder / "model.safetensors")
  save_file({k: x for k, x in tensors.items() if k != name}, folder / "model.safetensors")
  with pytest.raises(UserError, match=name):
    _ = directory.Directory(folder).params


def test_rates_of_training_may_differ_and_are_named(copied, caplog):
  folder = copied("bert2bert", decoder=dict(hidden_dropout_prob=0.4))
  with caplog.at_level(logging.WARNING):
    assert directory.Directory(folder).model["dropout"] == 0.1
  assert "decoder.hidden_dropout_prob is 0.4, of which the encoder's counts" in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_an_encoders_on_both_sides(name):
  source = open_fixture(name)
  roles = source.tokenizer.roles
  first = source.config["decoder_start_token_id"]
  assert (roles.start, roles.source_first, roles.target_first) == (first, (first,), (first,))
  assert roles.eos == source.config["eos_token_id"]
  assert not roles.force
  assert not roles.types


@pytest.mark.parametrize("name", NAMES)
def test_its_body_has_no_layers_for_words(name):
  body = directory.Directory(FIXTURES / name, as_body=True)
  assert body.model["output_transform"] == "none"
  assert {path.split("/")[0] for path in body.params} == {
    "decoder", "embedding", "encoder", "source_embedding",
  }  # fmt: skip


@pytest.mark.parametrize("kind, offset", [("bert", 0), ("roberta", 2)])
def test_sections_have_the_types_of_their_dataclasses(kind, offset):
  model = SIZES | BERT | dict(position_offset=offset, norm_eps=0, decoder_mlp_dim=10, dropout=0)
  fit = writing.best(model, "translation", head_of("translation"))
  assert (fit.family.model_type, fit.config.get("pad_token_id")) == (
    "encoder-decoder", dict(roberta=1).get(kind),
  )  # fmt: skip
  assert not problems(fit.config)
  for side, size in dict(encoder=12, decoder=10).items():
    section = fit.config[side]
    assert (section["model_type"], section["intermediate_size"]) == (kind, size)
    assert section["is_decoder"] == section["add_cross_attention"] == (side == "decoder")
    assert section.keys() & TYPES[kind].keys() >= {"vocab_size", "layer_norm_eps"}
    assert not problems(section)
    assert problems(section | dict(layer_norm_eps=0))


@pytest.mark.parametrize(
  "changes",
  [
    dict(output_transform="none"),
    dict(output_transform="tanh", position_offset=2),
    dict(position_offset=1),
    dict(share_embeddings=True),
    dict(activation="relu"),  # BERT's last activation is that of its layers
  ],
)
def test_other_models_are_none_of_the_family(changes):
  fit = writing.fit(
    directory.FAMILIES["encoder-decoder"], SIZES | BERT | changes, "translation",
    head_of("translation"),
  )  # fmt: skip
  assert fit.lacks


def test_ctranslate2_has_no_counterpart():
  with pytest.raises(UserError, match=r"model\.output_transform='gelu'"):
    ctranslate2.check(open_fixture("bert2bert").model, "translation")


@pytest.mark.slow
def test_our_run_goes_out_and_comes_back(corpus, tmp_path):
  """With embeddings that are scaled, which goes into weights."""
  text, changes = "multi30k.py:small,data={folder}", BERT | dict(embed_scale=True)
  changes |= dict(norm_position="post", decoder_layers=2, decoder_heads=2)
  changes = {f"model.{name}": value for name, value in changes.items()}
  params = train_config(text, corpus, tmp_path / "run", **changes)
  assert params["output_transform/dense/kernel"].std() > 0
  export.as_hf(tmp_path / "run", "latest", tmp_path / "out")
  settings = dict(beam=1, max_len_ratio=0.0, max_len_extra=12)
  inputs = ["a dog", "the cat runs"]
  before = predict.load(tmp_path / "run", **settings)
  after = predict.load(f"hf:{tmp_path / 'out'}", **settings)
  assert after.run.task.tokenizer.roles.target_first == ()  # as the run learned it
  for ours, exported in zip(before(inputs), after(inputs), strict=True):
    assert exported["text"] == ours["text"]
    assert exported["score"] == pytest.approx(ours["score"], abs=1e-4)
