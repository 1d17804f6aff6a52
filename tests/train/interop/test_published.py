"""Configs of published models, written from memory of their files, can be read."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers import FIXTURES
from tests.train.interop.helpers import open_fixture
from train.common.errors import UserError
from train.interop import directory
from train.interop.settings import settings

BERT = dict(
  architectures=["BertForMaskedLM"], attention_probs_dropout_prob=0.1, gradient_checkpointing=False,
  hidden_act="gelu", hidden_dropout_prob=0.1, hidden_size=768, initializer_range=0.02,
  intermediate_size=3072, layer_norm_eps=1e-12, max_position_embeddings=512, model_type="bert",
  num_attention_heads=12, num_hidden_layers=12, pad_token_id=0, position_embedding_type="absolute",
  transformers_version="4.6.0.dev0", type_vocab_size=2, use_cache=True, vocab_size=30522,
)  # fmt: skip
BART = dict(
  _num_labels=3, activation_dropout=0.0, activation_function="gelu", add_final_layer_norm=False,
  attention_dropout=0.0, bos_token_id=0, classif_dropout=0.0, classifier_dropout=0.0, d_model=1024,
  decoder_attention_heads=16, decoder_ffn_dim=4096, decoder_layerdrop=0.0, decoder_layers=12,
  decoder_start_token_id=2, dropout=0.1, early_stopping=True, encoder_attention_heads=16,
  encoder_ffn_dim=4096, encoder_layerdrop=0.0, encoder_layers=12, eos_token_id=2,
  force_bos_token_to_be_generated=True, forced_eos_token_id=2, gradient_checkpointing=False,
  init_std=0.02, is_encoder_decoder=True, length_penalty=2.0, max_length=142,
  max_position_embeddings=1024, min_length=56, model_type="bart", no_repeat_ngram_size=3,
  normalize_before=False, num_beams=4, num_hidden_layers=12, output_past=True, pad_token_id=1,
  prefix=" ", scale_embedding=False, task_specific_params={}, use_cache=True, vocab_size=50264,
)  # fmt: skip
PUBLISHED = {
  "bert-base-uncased": BERT,
  "dslim/bert-base-NER": BERT
  | dict(_num_labels=9, id2label={"0": "O"}, label2id={"O": 0}, output_past=True),
  "bert-base-chinese": BERT
  | dict(
    directionality="bidi", pooler_fc_size=768, pooler_num_attention_heads=12, pooler_type="first",
    pooler_num_fc_layers=3, pooler_size_per_head=128,
  ),
  "deepset/roberta-base-squad2": BERT
  | dict(
    model_type="roberta", language="english", name="Roberta", bos_token_id=0, eos_token_id=2,
    pad_token_id=1, max_position_embeddings=514, type_vocab_size=1, vocab_size=50265,
    layer_norm_eps=1e-5,
  ),
  "distilbert-base-uncased-finetuned-sst-2-english": dict(
    activation="gelu", architectures=["DistilBertForSequenceClassification"], dim=768,
    attention_dropout=0.1, dropout=0.1, finetuning_task="sst-2", hidden_dim=3072,
    initializer_range=0.02, max_position_embeddings=512, model_type="distilbert", n_heads=12,
    n_layers=6, output_past=True, pad_token_id=0, qa_dropout=0.1, seq_classif_dropout=0.2,
    sinusoidal_pos_embds=False, tie_weights_=True, transformers_version="4.31.0.dev0",
    vocab_size=30522,
  ),
  "gpt2": dict(
    activation_function="gelu_new", architectures=["GPT2LMHeadModel"], attn_pdrop=0.1,
    bos_token_id=50256, embd_pdrop=0.1, eos_token_id=50256, initializer_range=0.02,
    layer_norm_epsilon=1e-5, model_type="gpt2", n_ctx=1024, n_embd=768, n_head=12, n_layer=12,
    n_positions=1024, resid_pdrop=0.1, summary_activation=None, summary_first_dropout=0.1,
    summary_proj_to_labels=True, summary_type="cls_index", summary_use_proj=True,
    task_specific_params={}, vocab_size=50257,
  ),
  "google/flan-t5-base": dict(
    d_ff=2048, d_kv=64, d_model=768, decoder_start_token_id=0, dropout_rate=0.1, eos_token_id=1,
    feed_forward_proj="gated-gelu", initializer_factor=1.0, is_encoder_decoder=True,
    layer_norm_epsilon=1e-6, model_type="t5", n_positions=512, num_decoder_layers=12, num_heads=12,
    num_layers=12, output_past=True, pad_token_id=0, relative_attention_max_distance=128,
    relative_attention_num_buckets=32, tie_word_embeddings=False, torch_dtype="float32",
    use_cache=True, vocab_size=32128, architectures=["T5ForConditionalGeneration"],
  ),
  "facebook/bart-large-cnn": BART,
  "Helsinki-NLP/opus-mt-en-de": BART
  | dict(
    model_type="marian", activation_function="swish", add_bias_logits=False, d_model=512,
    bad_words_ids=[[58100]], bos_token_id=0, decoder_attention_heads=8, decoder_ffn_dim=2048,
    decoder_layers=6, decoder_start_token_id=58100, encoder_attention_heads=8, eos_token_id=0,
    encoder_ffn_dim=2048, encoder_layers=6, normalize_embedding=False, num_hidden_layers=6,
    pad_token_id=58100, scale_embedding=True, static_position_embeddings=True, vocab_size=58101,
    max_position_embeddings=512,
  ),
  "TinyLlama": dict(
    architectures=["LlamaForCausalLM"], attention_bias=False, bos_token_id=1, eos_token_id=2,
    hidden_act="silu", hidden_size=2048, initializer_range=0.02, intermediate_size=5632,
    max_position_embeddings=2048, model_type="llama", num_attention_heads=32, num_hidden_layers=22,
    num_key_value_heads=4, pretraining_tp=1, rms_norm_eps=1e-5, rope_scaling=None,
    rope_theta=10000.0, tie_word_embeddings=False, torch_dtype="bfloat16", use_cache=True,
    vocab_size=32000,
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_understood(name):
  config = PUBLISHED[name]
  tensors = {"lm_head.weight"} if config.get("tie_word_embeddings") is False else set()
  model = settings(config, directory.FAMILIES[config["model_type"]], tensors, name)
  assert model["vocab_size"] == config["vocab_size"]
  assert model["tie_output"] == (not tensors)


def test_all_unknown_fields_are_named_at_once():
  with pytest.raises(UserError) as error:
    settings(BERT | dict(one=1, hiden_act="x"), directory.FAMILIES["bert"], set(), "config.json")
  assert "one=1" in str(error.value)
  assert "did you mean hidden_act?" in str(error.value)


@pytest.fixture
def copied(tmp_path):
  """Returns a function that copies a fixture and changes its tensors and JSON files."""

  def make(name, change_tensors=lambda tensors: tensors, **files):
    folder = tmp_path / name
    shutil.copytree(FIXTURES / name, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(change_tensors(tensors), folder / "model.safetensors")
    for file, change in files.items():
      path = folder / f"{file}.json"
      before = json.loads(path.read_text()) if path.exists() else {}
      path.write_text(json.dumps(change(before) if callable(change) else before | change))
    return folder

  return make


def test_the_pooler_of_a_masked_lm_goes_to_a_classifier(copied):
  """The file of bert-base-uncased has one; the dense layer of a masked-LM head is another layer."""
  pooler = {
    "bert.pooler.dense.weight": np.full((8, 8), 2, np.float32),
    "bert.pooler.dense.bias": np.full(8, 3, np.float32),
  }
  size = open_fixture("bert_mlm").model["dim"]
  pooler = {name: np.resize(x, (size,) * x.ndim) for name, x in pooler.items()}
  folder = copied("bert_mlm", lambda tensors: tensors | pooler)
  whole = directory.Directory(folder)
  body = directory.Directory(folder, as_body=True)
  assert (whole.kind, body.kind) == ("mlm", "body")
  assert (np.asarray(body.params["head/dense/bias"]) == 3).all()
  assert not (np.asarray(whole.params["head/dense/bias"]) == 3).any()
  assert body.pooler
  assert not directory.Directory(FIXTURES / "bert_mlm", as_body=True).pooler


def test_a_copy_stands_for_its_original(copied):
  name = "model.shared.weight"

  def only_the_copy(tensors):
    return {"lm_head.weight" if key == name else key: x for key, x in tensors.items()}

  folder = copied("bart", only_the_copy)
  before, after = open_fixture("bart").params, directory.Directory(folder).params
  assert np.array_equal(after["embedding/embedding"], before["embedding/embedding"])


def test_a_missing_bias_of_the_outputs_is_zeros(copied):
  folder = copied(
    "bart", lambda tensors: {k: x for k, x in tensors.items() if k != "final_logits_bias"}
  )
  assert not np.asarray(directory.Directory(folder).params["output_bias"]).any()


def test_a_first_token_is_forced_only_where_the_files_say_so(copied):
  gone = {"generation_config": lambda old: {k: v for k, v in old.items() if "forced_bos" not in k}}
  folder = copied("bart", **gone)
  usual = open_fixture("bart").tokenizer.roles
  assert usual.force
  free = directory.Directory(folder).tokenizer.roles
  assert not free.force
  assert free.target_first == usual.target_first  # learned all the same


@pytest.mark.parametrize(
  "pooling, modules, expected",
  [
    ({}, [], dict(pool="mean", normalize=True)),
    (dict(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False), [], dict(pool="first")),
    (dict(pooling_mode="cls"), ["", "1_Pooling"], dict(pool="first", normalize=False)),
    (dict(pooling_mode_max_tokens=True), [], dict(pool="max")),
    (dict(pooling_mode_max_tokens=True, pooling_mode_mean_tokens=True), [], "max_tokens and mean"),
  ],
)
def test_sentence_transformers_files_are_followed_or_refused(pooling, modules, expected, tmp_path):
  folder = tmp_path / "bert"
  shutil.copytree(FIXTURES / "bert", folder)
  (folder / "1_Pooling").mkdir()
  (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
  kinds = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
  listed = [{"type": kind, "path": path} for kind, path in zip(kinds, modules)]
  (folder / "modules.json").write_text(json.dumps(listed))
  (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
  if isinstance(expected, str):
    with pytest.raises(UserError, match=expected):
      directory.Directory(folder).task()
    return
  task = directory.Directory(folder).task()
  assert expected.items() <= task.items()
  assert task["source_len"] == 7


def test_frames_are_those_of_the_tokenizers_own_processor(copied):
  """Some RoBERTas have a tokenizer that frames as BERT's does: one token between two texts."""

  def one_between(tokenizer):
    bos, eos = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    ids = tokenizer["model"]["vocab"]
    special = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("<s>", "</s>")}
    frames = dict(type="TemplateProcessing", single=[bos, a, eos], pair=[bos, a, eos, b, eos])
    return tokenizer | dict(post_processor=frames | dict(special_tokens=special))

  usual = open_fixture("roberta_mlm").tokenizer.roles
  assert usual.between == (usual.eos, usual.eos)
  folder = copied("roberta_mlm", tokenizer=one_between)
  other = directory.Directory(folder).tokenizer.roles
  assert (other.first, other.between) == (usual.first, (usual.eos,))
