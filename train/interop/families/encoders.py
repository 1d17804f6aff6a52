"""Defines the tables of BERT, RoBERTa, DistilBERT, ELECTRA and ESM (with rotary positions)."""

import dataclasses

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

LAYER, BLOCK = "encoder.layer.{}", "encoder/blocks/{}"


def labels(theirs: str) -> tuple[Row, ...]:
  """Returns the rows of the last layer of a head."""
  return linear(theirs, "head/labels", body=False)


def mlm_head(dense: str, layer_norm: str, bias: str, output: str) -> tuple[Row, ...]:
  """Returns the rows of the head that predicts masked words."""
  return (
    *linear(dense, "head/dense", body=False),
    *norm(layer_norm, "head/norm", body=False),
    Row(bias, "output_bias", "vector", body=False),
    Row(output, "output/kernel", "linear", body=False),
  )


SELF = ("self.query", "self.key", "self.value", "output.dense")
HEADS = dict(tagging=labels("classifier"), qa=labels("qa_outputs"))
TWO_LAYERS = (
  *linear("classifier.dense", "head/dense", body=False),
  *labels("classifier.out_proj"),
)
LM_HEAD = mlm_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.weight")


def pooled(pooler: str, classifier: str = "classifier", *, body: bool = True) -> tuple[Row, ...]:
  """Returns the rows of a head on the pooler's output; `body`: the pooler is the body's."""
  return (*linear(pooler, "head/dense", body=body), *labels(classifier))


def classes(name: str) -> dict[str, str]:
  """Returns the kinds of the classes that most families have."""
  return {
    f"{name}Model": "body",
    f"{name}ForMaskedLM": "mlm",
    f"{name}ForSequenceClassification": "classification",
    f"{name}ForTokenClassification": "tagging",
    f"{name}ForQuestionAnswering": "qa",
    f"{name}ForMultipleChoice": "choice",
  }


BERT = Family(
  model_type="bert",
  prefix="bert.",
  classes=classes("Bert")
  | {"BertForPreTraining": "mlm", "BertForNextSentencePrediction": "next_sentence"},
  settings=(
    field("vocab_size", "vocab_size", 30522),
    field("hidden_size", "dim", 768),
    field("num_hidden_layers", "encoder_layers", 12),
    field("num_attention_heads", "num_heads", 12),
    field("intermediate_size", "mlp_dim", 3072),
    activation("hidden_act", "gelu"),
    field("hidden_dropout_prob", "dropout", 0.1),
    field("attention_probs_dropout_prob", "attention_dropout", 0.1),
    field("max_position_embeddings", "max_len", 512),
    field("type_vocab_size", "token_types", 2),
    field("layer_norm_eps", "norm_eps", 1e-12),
    field("initializer_range", "init_std", 0.02),
    field("tie_word_embeddings", "tie_output", True),
  ),
  constants=dict(
    decoder_layers=0,
    positions="learned",
    norm="layer",
    norm_position="post",
    embedding_norm=True,
    embed_scale=False,
    output_bias=True,
  ),
  fixed=dict(
    position_embedding_type="absolute",
    is_decoder=False,
    add_cross_attention=False,
    pruned_heads={},
  ),
  # a head's dropout, and the pooler in old files
  ignored=(
    "classifier_dropout",
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
  ),
  rows=(
    *same("embeddings.word_embeddings", "embedding"),
    *same("embeddings.position_embeddings", "encoder/embeddings/positions"),
    *same("embeddings.token_type_embeddings", "encoder/embeddings/types"),
    *norm("embeddings.LayerNorm", "encoder/embeddings/norm"),
    *attention(f"{LAYER}.attention", f"{BLOCK}/self_attention", SELF),
    *norm(f"{LAYER}.attention.output.LayerNorm", f"{BLOCK}/self_norm"),
    *linear(f"{LAYER}.intermediate.dense", f"{BLOCK}/mlp/up"),
    *linear(f"{LAYER}.output.dense", f"{BLOCK}/mlp/down"),
    *norm(f"{LAYER}.output.LayerNorm", f"{BLOCK}/mlp_norm"),
  ),
  heads=dict(
    body=linear("pooler.dense", "head/dense"),
    mlm=mlm_head(
      "cls.predictions.transform.dense",
      "cls.predictions.transform.LayerNorm",
      "cls.predictions.bias",
      "cls.predictions.decoder.weight",
    ),
    classification=pooled("pooler.dense"),
    next_sentence=pooled("pooler.dense", "cls.seq_relationship"),
    choice=pooled("pooler.dense"),
    **HEADS,
  ),
  copies={
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
  },
  untied={"cls.predictions.bias": "cls.predictions.decoder.bias"},
  # next-sentence prediction; the pooler of a model that does not pool
  left_out=r"^cls\.seq_relationship\.|^bert\.pooler\.",
)

ROBERTA = dataclasses.replace(
  BERT,
  model_type="roberta",
  prefix="roberta.",
  classes=classes("Roberta"),
  settings=(
    *(row for row in BERT.settings if row.ours not in ("max_len", "vocab_size")),
    field("vocab_size", "vocab_size", 50265),
    # positions start at pad's id + 1 = 2, and the table has the two rows before them
    field("max_position_embeddings", "max_len", 512, lambda n: n - 2, lambda n: n + 2),
  ),
  constants=BERT.constants | dict(position_offset=2),
  fixed=BERT.fixed | dict(pad_token_id=1),
  heads=dict(
    body=linear("pooler.dense", "head/dense"),
    mlm=LM_HEAD,
    classification=TWO_LAYERS,
    choice=pooled("pooler.dense"),
    **HEADS,
  ),
  copies={
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
  },
  untied={"lm_head.bias": "lm_head.decoder.bias"},
  left_out=r"^roberta\.pooler\.",
  mlm_activation="gelu",
)

_DISTIL = "transformer.layer.{}"
DISTILBERT = Family(
  model_type="distilbert",
  prefix="distilbert.",
  classes=classes("DistilBert"),
  settings=(
    field("vocab_size", "vocab_size", 30522),
    field("dim", "dim", 768),
    field("n_layers", "encoder_layers", 6),
    field("n_heads", "num_heads", 12),
    field("hidden_dim", "mlp_dim", 3072),
    activation("activation", "gelu"),
    field("dropout", "dropout", 0.1),
    field("attention_dropout", "attention_dropout", 0.1),
    field("max_position_embeddings", "max_len", 512),
    field("initializer_range", "init_std", 0.02),
    field("tie_word_embeddings", "tie_output", True),
  ),
  constants=BERT.constants | dict(norm_eps=1e-12),
  fixed=dict(pruned_heads={}),
  # a table of sinusoids is stored like a learned one
  ignored=("qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", "tie_weights_"),
  rows=(
    *same("embeddings.word_embeddings", "embedding"),
    *same("embeddings.position_embeddings", "encoder/embeddings/positions"),
    *norm("embeddings.LayerNorm", "encoder/embeddings/norm"),
    *attention(
      f"{_DISTIL}.attention", f"{BLOCK}/self_attention", ("q_lin", "k_lin", "v_lin", "out_lin")
    ),
    *norm(f"{_DISTIL}.sa_layer_norm", f"{BLOCK}/self_norm"),
    *linear(f"{_DISTIL}.ffn.lin1", f"{BLOCK}/mlp/up"),
    *linear(f"{_DISTIL}.ffn.lin2", f"{BLOCK}/mlp/down"),
    *norm(f"{_DISTIL}.output_layer_norm", f"{BLOCK}/mlp_norm"),
  ),
  heads=dict(
    mlm=mlm_head(
      "vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector.weight"
    ),
    classification=pooled("pre_classifier", body=False),
    choice=pooled("pre_classifier", body=False),
    **HEADS,
  ),
  copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
  pool_activation="relu",
)

ELECTRA = dataclasses.replace(
  BERT,
  model_type="electra",
  prefix="electra.",
  classes=classes("Electra") | {"ElectraForPreTraining": "replaced"},
  settings=(
    *(row for row in BERT.settings if row.ours not in ("dim", "mlp_dim", "num_heads")),
    field("embedding_size", "embedding_dim", 128),
    field("hidden_size", "dim", 256),
    field("intermediate_size", "mlp_dim", 1024),
    field("num_attention_heads", "num_heads", 4),
  ),
  fixed=BERT.fixed | dict(summary_type="first", summary_use_proj=True, summary_activation="gelu"),
  ignored=(*BERT.ignored, "summary_last_dropout"),
  rows=(*BERT.rows, *linear("embeddings_project", "encoder/embeddings/projection")),
  heads=dict(
    mlm=mlm_head(
      "generator_predictions.dense",
      "generator_predictions.LayerNorm",
      "generator_lm_head.bias",
      "generator_lm_head.weight",
    ),
    classification=TWO_LAYERS,
    replaced=(
      *linear("discriminator_predictions.dense", "head/dense", body=False),
      *labels("discriminator_predictions.dense_prediction"),
    ),
    choice=pooled("sequence_summary.summary", body=False),
    **HEADS,
  ),
  copies={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
  untied={},
  left_out=r"^discriminator_predictions\.",
  mlm_activation="gelu",
  pool_activation="gelu",
)

ESM = dataclasses.replace(
  BERT,
  model_type="esm",
  prefix="esm.",
  classes={name: kind for name, kind in classes("Esm").items() if kind not in ("qa", "choice")},
  settings=(
    *(row for row in BERT.settings if row.ours not in ("token_types", "activation")),
    field("rope_theta", "rope_theta", 10000.0),
    field("emb_layer_norm_before", "embedding_norm", False, bool),
  ),
  constants=BERT.constants | dict(positions="rotary", norm_position="pre", activation="gelu"),
  fixed=dict(
    position_embedding_type="rotary",
    token_dropout=False,
    is_folding_model=False,
    esmfold_config=None,
    vocab_list=None,
    is_decoder=False,
    add_cross_attention=False,
  ),
  rows=(
    *same("embeddings.word_embeddings", "embedding"),
    *norm("embeddings.layer_norm", "encoder/embeddings/norm"),
    *attention(f"{LAYER}.attention", f"{BLOCK}/self_attention", SELF),
    *norm(f"{LAYER}.attention.LayerNorm", f"{BLOCK}/self_norm"),
    *linear(f"{LAYER}.intermediate.dense", f"{BLOCK}/mlp/up"),
    *linear(f"{LAYER}.output.dense", f"{BLOCK}/mlp/down"),
    *norm(f"{LAYER}.LayerNorm", f"{BLOCK}/mlp_norm"),
    *norm("encoder.emb_layer_norm_after", "encoder/norm"),
  ),
  heads=dict(mlm=LM_HEAD, classification=TWO_LAYERS, tagging=labels("classifier")),
  copies={"lm_head.decoder.weight": "esm.embeddings.word_embeddings.weight"},
  untied={},
  computed=r"inv_freq$",
  left_out=r"^(esm\.)?(contact_head|pooler)\.",  # contact prediction
)

FAMILIES = (BERT, ROBERTA, DISTILBERT, ELECTRA, ESM)
