"""Defines the table of DeBERTa-v2, which DeBERTa-v3 shares."""

import dataclasses
from collections.abc import Mapping

from train.common.errors import UserError
from train.interop.families.base import (
  ACTIVATION_NAMES,
  ACTIVATIONS,
  POOLED,
  Head,
  Row,
  attention,
  linear,
  norm,
)
from train.interop.families.encoders import BERT, BLOCK, HEADS, LAYER, classes, mlm_head, pooled

_TERMS = {frozenset(("c2p", "p2c")): "c2p+p2c", frozenset(("c2p",)): "c2p"}
_TERMS |= {frozenset(("p2c",)): "p2c", frozenset(): ""}


def _terms(config: Mapping) -> str:
  """Returns the terms of pos_att_type, a list or a text such as "p2c|c2p"."""
  given = config.get("pos_att_type") or []
  names = given.lower().split("|") if isinstance(given, str) else given
  names = frozenset(str(name).strip() for name in names) - {""}
  if names not in _TERMS:
    raise UserError(f"pos_att_type is {given!r}; known are p2c and c2p")
  return _TERMS[names]


def _read(config: Mapping, tensors) -> dict:
  size, heads = config.get("hidden_size", 1536), config.get("num_attention_heads", 24)
  for name, usual in (
    ("embedding_size", size),
    ("pooler_hidden_size", size),
    ("attention_head_size", size // max(heads, 1)),
  ):
    if config.get(name, usual) != usual:
      raise UserError(f"{name} is {config[name]}; here it is {usual}, by hidden_size and heads")
  absolute, terms = config.get("position_biased_input", True), _terms(config)
  model = dict(positions="learned" if absolute else "none")
  if not config.get("relative_attention", False):
    model["attention_scale"] = ((terms.count("2") + 1) * size // heads) ** -0.5
  elif not terms:
    raise UserError("relative_attention is True, and pos_att_type names neither p2c nor c2p")
  else:
    span = config.get("max_relative_positions", -1)
    span = config.get("max_position_embeddings", 512) if span < 1 else span
    buckets = config.get("position_buckets", -1)
    norms = [part.strip() for part in str(config.get("norm_rel_ebd", "none")).lower().split("|")]
    model |= dict(
      positions="learned_disentangled" if absolute else "disentangled",
      disentangled_terms=terms,
      disentangled_projections=not config.get("share_att_key", False),
      disentangled_norm="layer_norm" in norms,
      relative_buckets=buckets if buckets > 0 else span,
      relative_max_distance=span if buckets > 0 else None,
    )
  if not config.get("legacy", True):
    model["tie_output"] = True  # whatever tie_word_embeddings is
  if width := config.get("conv_kernel_size", 0):
    if config.get("conv_groups", 1) != 1:
      raise UserError(f"conv_groups is {config['conv_groups']}; here there is only 1")
    activation = ACTIVATIONS[config.get("conv_act", "tanh")]
    model |= dict(convolution=width, convolution_activation=activation)
  return model


def _write(model: Mapping) -> dict:
  config = dict(position_biased_input=model["positions"].startswith("learned"))
  if model["convolution"]:
    name = ACTIVATION_NAMES[model["convolution_activation"]]
    config |= dict(conv_kernel_size=model["convolution"], conv_act=name, conv_groups=1)
  if not model["positions"].endswith("disentangled"):
    # without distances, the terms still count in the scale
    scale, size = model["attention_scale"], model["head_dim"] or model["dim"] // model["num_heads"]
    terms = 0 if scale is None else min(max(round(scale**-2 / size) - 1, 0), 2)
    return config | dict(relative_attention=False, pos_att_type=["c2p", "p2c"][:terms])
  buckets, exact = model["relative_buckets"], model["relative_max_distance"] is None
  return config | dict(
    relative_attention=True,
    pos_att_type=model["disentangled_terms"].split("+"),
    share_att_key=not model["disentangled_projections"],
    norm_rel_ebd="layer_norm" if model["disentangled_norm"] else "none",
    position_buckets=-1 if exact else buckets,
    max_relative_positions=buckets if exact else model["relative_max_distance"],
  )


def _read_head(config, kind) -> dict:
  name = config.get("pooler_hidden_act", "gelu")
  return dict(activation=ACTIVATIONS[name]) if kind in POOLED else {}


def _write_head(head: Head, kind: str) -> dict:
  name = ACTIVATION_NAMES.get(head.activation, "gelu") if kind in POOLED else "gelu"
  return dict(pooler_hidden_act=name)


_SELF = ("self.query_proj", "self.key_proj", "self.value_proj", "output.dense")
_NEW_HEAD = mlm_head(
  "lm_predictions.lm_head.dense",
  "lm_predictions.lm_head.LayerNorm",
  "lm_predictions.lm_head.bias",
  "lm_predictions.lm_head.decoder.weight",
)
_DEFAULTS = dict(vocab_size=128100, dim=1536, encoder_layers=24, num_heads=24, mlp_dim=6144)
_DEFAULTS |= dict(token_types=0, norm_eps=1e-7)
DEBERTA = dataclasses.replace(
  BERT,
  model_type="deberta-v2",
  prefix="deberta.",
  classes=classes("DebertaV2"),
  settings=tuple(
    row._replace(default=_DEFAULTS.get(row.ours, row.default)) for row in BERT.settings
  ),
  constants={key: value for key, value in BERT.constants.items() if key != "positions"},
  fixed=dict(legacy=True),
  read=_read,
  write=_write,
  ignored=(
    # read by the functions above
    "attention_head_size",
    "conv_act",
    "conv_groups",
    "conv_kernel_size",
    "embedding_size",
    "max_relative_positions",
    "norm_rel_ebd",
    "pooler_hidden_act",
    "pooler_hidden_size",
    "pos_att_type",
    "position_biased_input",
    "position_buckets",
    "relative_attention",
    "share_att_key",
    # without effect on outputs
    "cls_dropout",
    "conv_dropout",
    "pooler_dropout",
  ),
  rows=(
    *(row for row in BERT.rows if "/self_attention/" not in row.ours),
    *attention(f"{LAYER}.attention", f"{BLOCK}/self_attention", _SELF),
    *linear(f"{LAYER}.attention.self.pos_query_proj", f"{BLOCK}/self_attention/position_query"),
    *linear(f"{LAYER}.attention.self.pos_key_proj", f"{BLOCK}/self_attention/position_key"),
    Row("encoder.rel_embeddings.weight", "encoder/distance_states/embedding", "same"),
    *norm("encoder.LayerNorm", "encoder/distance_states/norm"),
    Row("encoder.conv.conv.weight", "encoder/convolution/dense/kernel", "conv1d"),
    Row("encoder.conv.conv.bias", "encoder/convolution/dense/bias", "vector"),
    *norm("encoder.conv.LayerNorm", "encoder/convolution/norm"),
  ),
  heads=dict(
    body=linear("pooler.dense", "head/dense", body=False),
    mlm=BERT.heads["mlm"],
    classification=pooled("pooler.dense", body=False),
    choice=pooled("pooler.dense", body=False),
    **HEADS,
  ),
  copies={
    "cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
  },
  computed=r"embeddings\.position_ids$",
  # the heads of pre-training in files of models without a head
  left_out=r"^(mask|lm)_predictions\.|\bembeddings\.position_embeddings\.|\bencoder\.LayerNorm\.",
  pool_activation="gelu",
  read_head=_read_head,
  write_head=_write_head,
  variant=lambda config: None if config.get("legacy", True) else _NEW,
)
# Files with `legacy` False have another masked-LM head, which is exported as the other one.
_NEW = dataclasses.replace(
  DEBERTA, fixed=dict(legacy=False), heads=DEBERTA.heads | dict(mlm=_NEW_HEAD), copies={}, untied={}
)

FAMILIES = (DEBERTA,)
