"""Defines the tables of T5, mT5, umT5 and LongT5."""

import dataclasses
import functools

from train.common.errors import UserError
from train.interop.families.base import (
  ACTIVATIONS,
  Family,
  Row,
  attention,
  field,
  linear,
  norm,
  same,
)
from train.interop.families.encoder_decoders import SIDES, TWO_LAYERS, decoder_head

FEED_FORWARD_LAYER = {"encoder": 1, "decoder": 2}  # of a T5's block, after its attentions
_ACTIVATION_NAMES = {ours: name for name, ours in reversed(ACTIVATIONS.items())}


def _t5_classes(name: str) -> dict[str, str]:
  """Returns the kinds of the classes of a T5."""
  return {
    f"{name}ForConditionalGeneration": "translation",
    f"{name}Model": "translation",
    f"{name}EncoderModel": "body",
    f"{name}ForSequenceClassification": "classification",
    f"{name}ForTokenClassification": "tagging",
    f"{name}ForQuestionAnswering": "qa",
  }


def _is_encoder(config) -> bool:
  """Returns whether config.json's class is a T5 without a decoder."""
  name = (config.get("architectures") or [""])[0]
  return name.endswith(("EncoderModel", "ForTokenClassification"))


def _t5_rows():
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


def _t5_mlp(**names):
  for side, last in FEED_FORWARD_LAYER.items():
    for theirs, ours in names.items():
      tensor = f"{side}.block.{{}}.layer.{last}.DenseReluDense.{theirs}.weight"
      yield Row(tensor, f"{side}/blocks/{{}}/mlp/{ours}/kernel", "linear")


def _t5_read(config, tensors, usual="relu", scaled=None, layers=6):
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
    decoder_layers=0 if _is_encoder(config) else decoder_layers,
    attention_dropout=rate,
    activation_dropout=rate,
  )


def _t5_write(model):
  name = _ACTIVATION_NAMES.get(model["activation"], "relu")
  kind = "gelu" if (model["gated"], name) == (True, "gelu_new") else name
  tied = model["tie_output"]  # with which all versions of T5 scale the decoder's output
  return dict(
    feed_forward_proj=f"gated-{kind}" if model["gated"] else kind,
    dense_act_fn=name,
    is_gated_act=model["gated"],
    num_decoder_layers=model["decoder_layers"] or model["encoder_layers"],
    scale_decoder_outputs=tied,
    tie_word_embeddings=tied,
  )


T5 = Family(
  model_type="t5",
  prefix="transformer.",
  bare=("body", "translation", "qa"),
  classes=_t5_classes("T5"),
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
    *("dense_act_fn", "feed_forward_proj", "is_gated_act"),  # _t5_read reads these and the next two
    *("scale_decoder_outputs", "tie_word_embeddings"),
  ),
  rows=(*same("shared", "embedding"), *_t5_rows(), *_t5_mlp(wi="up", wo="down")),
  rows_with=dict(gated=tuple(_t5_mlp(wi_0="gate", wi_1="up"))),
  read=_t5_read,
  write=_t5_write,
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
_MULTILINGUAL = tuple(
  setting._replace(default=_LARGER.get(setting.theirs[0], setting.default))
  for setting in T5.settings
)

MT5 = dataclasses.replace(
  T5,
  model_type="mt5",
  classes=_t5_classes("MT5"),
  settings=_MULTILINGUAL,
  read=functools.partial(_t5_read, usual="gated-gelu", scaled=False, layers=8),
)


_RELATIVE = "SelfAttention.relative_attention_bias.weight"
_OWN_RELATIVE = tuple(
  Row(
    f"{side}.block.{{}}.layer.0.{_RELATIVE}",
    f"{side}/blocks/{{}}/self_attention/relative/embedding",
    "same",
  )
  for side in SIDES
)

# A table of distances for each layer (Chung et al. 2023, section 5).
UMT5 = dataclasses.replace(
  T5,
  model_type="umt5",
  classes=_t5_classes("UMT5"),
  settings=_MULTILINGUAL,
  constants=T5.constants | dict(relative_per_layer=True),
  rows=(*(row for row in T5.rows if "/relative/" not in row.ours), *_OWN_RELATIVE),
  read=functools.partial(_t5_read, usual="gated-gelu", layers=8),
)

ATTENTION_TYPES = {
  "local": "LocalSelfAttention",
  "transient-global": "TransientGlobalSelfAttention",
}


def _encoder_rows(name):
  """Yields the rows of self-attention that LongT5's encoder has under another name."""
  theirs, ours = f"encoder.block.{{}}.layer.0.{name}", "encoder/blocks/{}/self_attention"
  first = f"encoder.block.0.layer.0.{name}"
  yield from attention(theirs, ours, ("q", "k", "v", "o"))
  yield Row(f"{first}.relative_attention_bias.weight", "encoder/relative/embedding", "same")
  if name == ATTENTION_TYPES["transient-global"]:
    yield from norm(f"{theirs}.global_input_layer_norm", f"{ours}/block_norm")
    relative = f"{first}.global_relative_attention_bias.weight"
    yield Row(relative, "encoder/block_relative/embedding", "same")


def _radius(window) -> int:
  if not isinstance(window, int):
    raise KeyError(window)
  return window - 1


def _longt5_read(config, tensors):
  kind = config.get("encoder_attention_type", "local")
  if kind not in ATTENTION_TYPES:
    known = " and ".join(ATTENTION_TYPES)
    raise UserError(f"encoder_attention_type is {kind!r}; there are {known}")
  blocks = None if kind == "local" else config.get("global_block_size", 16)
  return _t5_read(config, tensors) | dict(global_blocks=blocks)


def _longt5_write(model):
  kind = "local" if model["global_blocks"] is None else "transient-global"
  size = {} if kind == "local" else dict(global_block_size=model["global_blocks"])
  return _t5_write(model) | size | dict(encoder_attention_type=kind)


LONGT5 = dataclasses.replace(
  T5,
  model_type="longt5",
  classes={
    "LongT5ForConditionalGeneration": "translation",
    "LongT5Model": "translation",
    "LongT5EncoderModel": "body",
  },
  settings=(
    *T5.settings,
    field("local_radius", "window", 127, lambda radius: radius + 1, _radius),
  ),
  constants=T5.constants | dict(decoder_window=(None,)),
  ignored=(*T5.ignored, "encoder_attention_type", "global_block_size"),  # _longt5_read reads them
  rows=(*T5.rows, *_encoder_rows(ATTENTION_TYPES["local"])),
  rows_with=T5.rows_with
  | dict(global_blocks=tuple(_encoder_rows(ATTENTION_TYPES["transient-global"]))),
  read=_longt5_read,
  write=_longt5_write,
  heads=dict(translation=T5.heads["translation"]),
)

FAMILIES = (T5, MT5, UMT5, LONGT5)
