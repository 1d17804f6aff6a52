"""Defines the tables of T5, mT5, BART, mBART, Marian and Pegasus; norms and positions differ."""

import dataclasses
import functools

import numpy as np

from train.common.errors import UserError
from train.interop.families import (
  ACTIVATIONS,
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
FEED_FORWARD_LAYER = {"encoder": 1, "decoder": 2}  # of a T5's block, after its attentions

_ACTIVATION_NAMES = {ours: name for name, ours in reversed(ACTIVATIONS.items())}

# The head that BART and T5 have on a decoder's state.
TWO_LAYERS = (
  *linear("classification_head.dense", "head/dense", body=False),
  *linear("classification_head.out_proj", "head/labels", body=False),
)


def t5_classes(name: str) -> dict[str, str]:
  """Returns the kinds of the classes of a T5."""
  return {
    f"{name}ForConditionalGeneration": "translation",
    f"{name}Model": "translation",
    f"{name}EncoderModel": "body",
    f"{name}ForSequenceClassification": "classification",
    f"{name}ForTokenClassification": "tagging",
    f"{name}ForQuestionAnswering": "qa",
  }


def decoder_head(config, kind) -> dict:
  """Returns the fields of a head on the decoder's states, of which the last has read the text."""
  del config
  return dict(pool="last") if kind == "classification" else {}


def is_encoder(config) -> bool:
  """Returns whether config.json's class is a T5 without a decoder."""
  name = (config.get("architectures") or [""])[0]
  return name.endswith(("EncoderModel", "ForTokenClassification"))


def t5_rows():
  for side in SIDES:
    block, ours = f"{side}.block.{{}}.layer", f"{side}/blocks/{{}}"
    names = ("q", "k", "v", "o")
    yield from attention(f"{block}.0.SelfAttention", f"{ours}/self_attention", names)
    yield from norm(f"{block}.0.layer_norm", f"{ours}/self_norm")
    if side == "decoder":
      yield from attention(f"{block}.1.EncDecAttention", f"{ours}/cross_attention", names)
      yield from norm(f"{block}.1.layer_norm", f"{ours}/cross_norm")
    yield from norm(f"{block}.{FEED_FORWARD_LAYER[side]}.layer_norm", f"{ours}/mlp_norm")
    relative = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    yield Row(relative, f"{side}/relative/embedding", "same")
    yield from norm(f"{side}.final_layer_norm", f"{side}/norm")


def t5_mlp(**names):
  for side, last in FEED_FORWARD_LAYER.items():
    for theirs, ours in names.items():
      tensor = f"{side}.block.{{}}.layer.{last}.DenseReluDense.{theirs}.weight"
      yield Row(tensor, f"{side}/blocks/{{}}/mlp/{ours}/kernel", "linear")


def t5_read(config, tensors, usual="relu", scaled=None, layers=6):
  """Returns the fields that T5's table cannot express. `scaled`: the decoder's output is scaled by
  dim ** -0.5, as in T5 1.0 and not in 1.1; None: as config.json has it. `usual` and `layers` are
  the family's defaults."""
  kind = config.get("feed_forward_proj", usual)
  gate, _, name = kind.rpartition("-")
  if name not in ACTIVATIONS or gate not in ("", "gated"):
    raise UserError(f"feed_forward_proj is {kind!r}, which is not known here")
  name = "gelu_new" if kind == "gated-gelu" else name  # of T5 1.1
  name = config.get("dense_act_fn", name)  # where it is, this field wins, and so does is_gated_act
  if scaled is None:
    scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
  rate = config.get("dropout_rate", 0.1)
  decoder_layers = config.get("num_decoder_layers") or config.get("num_layers", layers)
  return dict(
    activation=ACTIVATIONS.get(name, name),
    gated=config.get("is_gated_act", gate == "gated"),
    logits_scale=config.get("d_model", 512) ** -0.5 if scaled else 1.0,
    tie_output="lm_head.weight" not in tensors,
    decoder_layers=0 if is_encoder(config) else decoder_layers,
    attention_dropout=rate,
    activation_dropout=rate,
  )


def t5_write(model):
  name = _ACTIVATION_NAMES.get(model["activation"], "relu")
  kind = "gelu" if (model["gated"], name) == (True, "gelu_new") else name
  scaled = model["logits_scale"] != 1.0
  return dict(
    feed_forward_proj=f"gated-{kind}" if model["gated"] else kind,
    dense_act_fn=name,
    is_gated_act=model["gated"],
    num_decoder_layers=model["decoder_layers"] or model["encoder_layers"],
    scale_decoder_outputs=scaled,
    tie_word_embeddings=model["tie_output"] and scaled,
  )


T5 = Family(
  model_type="t5",
  prefix="transformer.",
  bare=("body", "translation", "qa"),
  classes=t5_classes("T5"),
  settings=(
    field("vocab_size", "vocab_size", 32128),
    field("d_model", "dim", 512),
    field("d_kv", "head_dim", 64),
    field("d_ff", "mlp_dim", 2048),
    field("num_layers", "encoder_layers", 6),
    field("num_decoder_layers", "decoder_layers", 6),
    field("num_heads", "num_heads", 8),
    field("relative_attention_num_buckets", "relative_buckets", 32),
    field("relative_attention_max_distance", "relative_max_distance", 128),
    field("dropout_rate", "dropout", 0.1),
    field("layer_norm_epsilon", "norm_eps", 1e-6),
  ),
  constants=dict(
    positions="relative",
    norm="rms",
    norm_position="pre",
    bias=False,
    embed_scale=False,
    attention_scale=1.0,
  ),
  fixed=dict(is_decoder=False),
  ignored=(
    "classifier_dropout",
    "initializer_factor",
    "n_positions",
    *("dense_act_fn", "feed_forward_proj", "is_gated_act"),  # t5_read reads these and the next two
    *("scale_decoder_outputs", "tie_word_embeddings"),
  ),
  rows=(*same("shared", "embedding"), *t5_rows(), *t5_mlp(wi="up", wo="down")),
  rows_with=dict(gated=tuple(t5_mlp(wi_0="gate", wi_1="up"))),
  read=t5_read,
  write=t5_write,
  read_head=decoder_head,
  heads=dict(
    translation=(Row("lm_head.weight", "output/kernel", "linear", body=False),),
    classification=TWO_LAYERS,
    tagging=linear("classifier", "head/labels", body=False),
    qa=linear("qa_outputs", "head/labels", body=False),
  ),
  copies={f"transformer.{side}.embed_tokens.weight": "transformer.shared.weight" for side in SIDES},
  # old files have a table of distances for cross-attention, which uses none
  computed=r"EncDecAttention\.relative_attention_bias\.weight$",
)

_LARGER = dict(vocab_size=250112, d_ff=1024, num_layers=8, num_decoder_layers=8, num_heads=6)
MULTILINGUAL = tuple(
  setting._replace(default=_LARGER.get(setting.theirs[0], setting.default))
  for setting in T5.settings
)

MT5 = dataclasses.replace(
  T5,
  model_type="mt5",
  classes=t5_classes("MT5"),
  settings=MULTILINGUAL,
  read=functools.partial(t5_read, usual="gated-gelu", scaled=False, layers=8),
)


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


def bart_read(config, tensors) -> dict:
  """Raises UserError for a model with one stack, which no class of the family is."""
  del tensors
  for side in SIDES:
    if config.get(f"{side}_layers", 12) == 0:
      raise UserError(f"{side}_layers is 0: the model has an encoder and a decoder")
  return {}


BART = Family(
  model_type="bart",
  prefix="model.",
  classes=bart_classes("Bart"),
  settings=(
    field("vocab_size", "vocab_size", 50265),
    field("d_model", "dim", 1024),
    field("encoder_layers", "encoder_layers", 12),
    field("decoder_layers", "decoder_layers", 12),
    field(("encoder_attention_heads", "decoder_attention_heads"), "num_heads", 16),
    field(("encoder_ffn_dim", "decoder_ffn_dim"), "mlp_dim", 4096),
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
    "extra_pos_embeddings",
    "force_bos_token_to_be_generated",
    "num_hidden_layers",
    "do_blenderbot_90_layernorm",
    "save_step",
  ),
  rows=tuple(_bart_rows()),
  read=bart_read,
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

MARIAN = dataclasses.replace(
  BART,
  model_type="marian",
  classes={"MarianMTModel": "translation", "MarianModel": "translation"},
  constants=BART.constants | dict(positions="sinusoidal", position_offset=0, embedding_norm=False),
  fixed=BART.fixed | _SINUSOIDAL | dict(share_encoder_decoder_embeddings=True),
  ignored=(*BART.ignored, "decoder_vocab_size"),
  computed=r"embed_positions\.weight$",
)


def _sinusoids(model):
  """Returns the tables of sinusoidal positions that files hold, rounded from float64 as theirs."""
  dim = model["dim"]
  angle = np.arange(model["max_len"])[:, None] / 10000 ** (2 * np.arange(dim // 2) / dim)
  table = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
  return {f"model.{side}.embed_positions.weight": table for side in SIDES}


PEGASUS = dataclasses.replace(
  MARIAN,
  make=_sinusoids,
  model_type="pegasus",
  classes={"PegasusForConditionalGeneration": "translation", "PegasusModel": "translation"},
  constants=MARIAN.constants | dict(norm_position="pre"),
  fixed=BART.fixed | _SINUSOIDAL | _PRE,
)

FAMILIES = (T5, MT5, BART, MBART, MARIAN, PEGASUS)
