"""Defines the tables of XLM-RoBERTa, CamemBERT, ALBERT and MPNet."""

import dataclasses

from train.common.errors import UserError
from train.interop.families.base import attention, field, linear, norm, renamed, same
from train.interop.families.encoders import (
  BERT,
  BLOCK,
  HEADS,
  LAYER,
  ROBERTA,
  classes,
  mlm_head,
  pooled,
)

# RoBERTas whose config.json has BERT's size of the vocabulary by default.
_SETTINGS = (
  *(row for row in ROBERTA.settings if row.ours != "vocab_size"),
  field("vocab_size", "vocab_size", 30522),
)
XLM_ROBERTA = dataclasses.replace(
  ROBERTA, model_type="xlm-roberta", classes=classes("XLMRoberta"), settings=_SETTINGS
)
CAMEMBERT = dataclasses.replace(
  ROBERTA, model_type="camembert", classes=classes("Camembert"), settings=_SETTINGS
)


def _check_projection(config, tensors) -> dict:
  """Raises UserError for an ALBERT whose projection of embeddings has equal sizes."""
  size = config.get("hidden_size", 4096)
  if config.get("embedding_size", 128) == size:
    raise UserError(
      f"embedding_size and hidden_size are both {size}: here embeddings of the model's size have no"
      " projection, and an ALBERT always has one"
    )
  return {}


_DEFAULTS = dict(dim=4096, num_heads=64, mlp_dim=16384, dropout=0.0, attention_dropout=0.0)
_DEFAULTS |= dict(vocab_size=30000, activation="gelu_new")
_GROUP = "encoder.albert_layer_groups.{}.albert_layers.0"
ALBERT = dataclasses.replace(
  BERT,
  model_type="albert",
  prefix="albert.",
  classes=classes("Albert") | {"AlbertForPreTraining": "mlm"},
  settings=(
    *(row._replace(default=_DEFAULTS.get(row.ours, row.default)) for row in BERT.settings),
    field("embedding_size", "embedding_dim", 128),
  ),
  constants=BERT.constants | dict(share_layers=True),
  fixed=dict(position_embedding_type="absolute", num_hidden_groups=1, inner_group_num=1),
  read=_check_projection,
  ignored=(
    "classifier_dropout_prob",
    "down_scale_factor",
    "gap_size",
    "net_structure_type",
    "num_memory_blocks",
  ),
  rows=(
    *same("embeddings.word_embeddings", "embedding"),
    *same("embeddings.position_embeddings", "encoder/embeddings/positions"),
    *same("embeddings.token_type_embeddings", "encoder/embeddings/types"),
    *norm("embeddings.LayerNorm", "encoder/embeddings/norm"),
    *linear("encoder.embedding_hidden_mapping_in", "encoder/embeddings/projection"),
    *attention(
      f"{_GROUP}.attention", f"{BLOCK}/self_attention", ("query", "key", "value", "dense")
    ),
    *norm(f"{_GROUP}.attention.LayerNorm", f"{BLOCK}/self_norm"),
    *linear(f"{_GROUP}.ffn", f"{BLOCK}/mlp/up"),
    *linear(f"{_GROUP}.ffn_output", f"{BLOCK}/mlp/down"),
    *norm(f"{_GROUP}.full_layer_layer_norm", f"{BLOCK}/mlp_norm"),
  ),
  heads=dict(
    body=linear("pooler", "head/dense"),
    mlm=mlm_head(
      "predictions.dense", "predictions.LayerNorm", "predictions.bias", "predictions.decoder.weight"
    ),
    classification=pooled("pooler"),
    choice=pooled("pooler"),
    **HEADS,
  ),
  copies={
    "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
    "predictions.decoder.bias": "predictions.bias",
  },
  untied={"predictions.bias": "predictions.decoder.bias"},
  left_out=r"^sop_classifier\.|^albert\.pooler\.",  # the order of sentences
)

MPNET = dataclasses.replace(
  BERT,
  model_type="mpnet",
  prefix="mpnet.",
  classes=classes("MPNet"),
  settings=(
    *(row for row in ROBERTA.settings if row.ours not in ("token_types", "vocab_size")),
    field("vocab_size", "vocab_size", 30527),
  ),
  constants=ROBERTA.constants
  | dict(positions="learned_relative", relative_buckets=32, relative_max_distance=128),
  # transformers computes 32 buckets whatever the table's size is
  fixed=dict(position_embedding_type="absolute", relative_attention_num_buckets=32),
  rows=(
    *same("embeddings.word_embeddings", "embedding"),
    *same("embeddings.position_embeddings", "encoder/embeddings/positions"),
    *norm("embeddings.LayerNorm", "encoder/embeddings/norm"),
    *attention(f"{LAYER}.attention.attn", f"{BLOCK}/self_attention", ("q", "k", "v", "o")),
    *norm(f"{LAYER}.attention.LayerNorm", f"{BLOCK}/self_norm"),
    *linear(f"{LAYER}.intermediate.dense", f"{BLOCK}/mlp/up"),
    *linear(f"{LAYER}.output.dense", f"{BLOCK}/mlp/down"),
    *norm(f"{LAYER}.output.LayerNorm", f"{BLOCK}/mlp_norm"),
    *same("encoder.relative_attention_bias", "encoder/relative"),
  ),
  heads=ROBERTA.heads,
  copies=renamed(ROBERTA.copies, "roberta", "mpnet"),
  untied=ROBERTA.untied,
  left_out=r"^mpnet\.pooler\.",
  mlm_activation=ROBERTA.mlm_activation,
)

FAMILIES = (XLM_ROBERTA, CAMEMBERT, ALBERT, MPNET)
