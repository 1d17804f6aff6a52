"""Defines the tables of BART, mBART, Marian and Pegasus; norms and positions differ."""

import dataclasses

import numpy as np

from train.common.errors import UserError
from train.interop.families.base import (
  Family,
  Row,
  activation,
  attention,
  field,
  linear,
  norm,
  same,
)

SIDES = ("encoder", "decoder")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
# The head that BART and T5 have on a decoder's state.
TWO_LAYERS = (
  *linear("classification_head.dense", "head/dense", body=False),
  *linear("classification_head.out_proj", "head/labels", body=False),
)


def decoder_head(config, kind) -> dict:
  """Returns the fields of a head on the decoder's states, of which the last has read the text."""
  del config
  return dict(pool="last") if kind == "classification" else {}


def bart_classes(name: str) -> dict[str, str]:
  """Returns the kinds of the classes of a BART."""
  return {
    f"{name}ForConditionalGeneration": "translation",
    f"{name}Model": "translation",
    f"{name}ForSequenceClassification": "classification",
    f"{name}ForQuestionAnswering": "qa",
  }


def _bart_rows():
  yield from same("shared", "embedding")
  for side in SIDES:
    layer, ours = f"{side}.layers.{{}}", f"{side}/blocks/{{}}"
    yield from same(f"{side}.embed_positions", f"{side}/embeddings/positions")
    yield from norm(f"{side}.layernorm_embedding", f"{side}/embeddings/norm")
    yield from attention(f"{layer}.self_attn", f"{ours}/self_attention", PROJECTIONS)
    yield from norm(f"{layer}.self_attn_layer_norm", f"{ours}/self_norm")
    if side == "decoder":
      yield from attention(f"{layer}.encoder_attn", f"{ours}/cross_attention", PROJECTIONS)
      yield from norm(f"{layer}.encoder_attn_layer_norm", f"{ours}/cross_norm")
    yield from linear(f"{layer}.fc1", f"{ours}/mlp/up")
    yield from linear(f"{layer}.fc2", f"{ours}/mlp/down")
    yield from norm(f"{layer}.final_layer_norm", f"{ours}/mlp_norm")
    yield from norm(f"{side}.layer_norm", f"{side}/norm")


# A decoder's field, the encoder's, both fields of ours, and the value if config.json has none.
BART_SIDES = (
  ("decoder_attention_heads", "encoder_attention_heads", "decoder_heads", "num_heads", 16),
  ("decoder_ffn_dim", "encoder_ffn_dim", "decoder_mlp_dim", "mlp_dim", 4096),
)


def bart_read(config, tensors) -> dict:
  """Returns the sizes of a decoder that differ from the encoder's; raises UserError for a model
  with one stack, which no class of the family is."""
  del tensors
  for side in SIDES:
    if config.get(f"{side}_layers", 12) == 0:
      raise UserError(f"{side}_layers is 0: the model has an encoder and a decoder")
  layers = config.get("encoder_layers", 12)
  if config.get("num_hidden_layers", layers) != layers:  # transformers takes the first for both
    raise UserError(
      f"num_hidden_layers is {config['num_hidden_layers']} and encoder_layers {layers}; they name"
      " one number"
    )
  pairs = [
    (own, config.get(theirs, usual), config.get(other, usual))
    for theirs, other, own, _, usual in BART_SIDES
  ]
  return {own: None if size == others else size for own, size, others in pairs}


def bart_write(model) -> dict:
  """Returns the decoder's sizes, all of which config.json has."""
  return {theirs: model[own] or model[ours] for theirs, _, own, ours, _ in BART_SIDES}


BART = Family(
  model_type="bart",
  prefix="model.",
  classes=bart_classes("Bart"),
  settings=(
    field("vocab_size", "vocab_size", 50265),
    field("d_model", "dim", 1024),
    field("encoder_layers", "encoder_layers", 12),
    field("decoder_layers", "decoder_layers", 12),
    field("encoder_attention_heads", "num_heads", 16),
    field("encoder_ffn_dim", "mlp_dim", 4096),
    activation("activation_function", "gelu"),
    field("dropout", "dropout", 0.1),
    field("attention_dropout", "attention_dropout", 0.0),
    field("activation_dropout", "activation_dropout", 0.0),
    field("max_position_embeddings", "max_len", 1024),
    field("init_std", "init_std", 0.02),
    field("scale_embedding", "embed_scale", False),
  ),
  constants=dict(
    positions="learned",
    position_offset=2,
    norm="layer",
    norm_position="post",
    norm_eps=1e-5,
    embedding_norm=True,
    output_bias=True,
  ),
  fixed=dict(
    is_decoder=False,
    tie_word_embeddings=True,
    encoder_layerdrop=0.0,
    decoder_layerdrop=0.0,
    normalize_before=False,
    normalize_embedding=True,
    add_final_layer_norm=False,
    static_position_embeddings=False,
    pruned_heads={},
  ),
  ignored=(
    "add_bias_logits",
    "classif_dropout",
    "classifier_dropout",
    "decoder_attention_heads",  # bart_read reads it, and the next one
    "decoder_ffn_dim",
    "extra_pos_embeddings",
    "force_bos_token_to_be_generated",
    "num_hidden_layers",
    "do_blenderbot_90_layernorm",
    "save_step",
  ),
  rows=tuple(_bart_rows()),
  read=bart_read,
  write=bart_write,
  read_head=decoder_head,
  heads=dict(
    translation=(Row("final_logits_bias", "output_bias", "vector", body=False),),
    classification=TWO_LAYERS,
    qa=linear("qa_outputs", "head/labels", body=False),
  ),
  copies={"lm_head.weight": "model.shared.weight"}
  | {f"model.{side}.embed_tokens.weight": "model.shared.weight" for side in SIDES},
)

_PRE = dict(normalize_before=True, add_final_layer_norm=True)
_SINUSOIDAL = dict(normalize_embedding=False, static_position_embeddings=True)
MBART = dataclasses.replace(
  BART,
  model_type="mbart",
  classes=bart_classes("MBart"),
  starts_with_last=True,
  constants=BART.constants | dict(norm_position="pre"),
  fixed=BART.fixed | _PRE,
)


def _sinusoids(model):
  """Returns the tables of sinusoidal positions that files hold, rounded from float64 as theirs."""
  dim = model["dim"]
  rates = 10000 ** (2 * np.arange((dim + 1) // 2) / dim)
  angle = np.arange(model["max_len"])[:, None] / rates
  table = np.concatenate([np.sin(angle), np.cos(angle[:, : dim // 2])], 1).astype(np.float32)
  return {f"model.{side}.embed_positions.weight": table for side in SIDES}


MARIAN = dataclasses.replace(
  BART,
  model_type="marian",
  classes={"MarianMTModel": "translation", "MarianModel": "translation"},
  constants=BART.constants | dict(positions="sinusoidal", position_offset=0, embedding_norm=False),
  fixed=BART.fixed | _SINUSOIDAL | dict(share_encoder_decoder_embeddings=True),
  ignored=(*BART.ignored, "decoder_vocab_size"),
  computed=r"embed_positions\.weight$",
  tables=_sinusoids,
)


PEGASUS = dataclasses.replace(
  MARIAN,
  make=_sinusoids,
  model_type="pegasus",
  classes={"PegasusForConditionalGeneration": "translation", "PegasusModel": "translation"},
  constants=MARIAN.constants | dict(norm_position="pre"),
  fixed=BART.fixed | _SINUSOIDAL | _PRE,
)

FAMILIES = (BART, MBART, MARIAN, PEGASUS)
