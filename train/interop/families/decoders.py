"""Defines the tables of GPT-2, Llama and StarCoder2 (LayerNorm, rotary positions, a window)."""

import dataclasses
import re

from train.interop.families import rope
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

_GPT2, _LLAMA, BLOCK = "h.{}", "layers.{}", "decoder/blocks/{}"


def _fused(theirs: str, ours: str):
  for part, name in enumerate(("query", "key", "value")):
    yield Row(f"{theirs}.weight", f"{ours}/{name}/kernel", "conv", part)
    yield Row(f"{theirs}.bias", f"{ours}/{name}/bias", "vector", part)


def _gpt2_read(config, _):
  scaled = config.get("scale_attn_weights", True)
  size = config.get("n_inner") or 4 * config.get("n_embd", 768)
  return dict(mlp_dim=size, attention_scale=None if scaled else 1.0)


def _inverse_layer(config, path) -> float:
  """Returns the factor on queries where attention is divided by the layer's number, from 1 on."""
  match = re.match(r"decoder/blocks/(\d+)/self_attention/query/", path)
  inverse = match and config.get("scale_attn_by_inverse_layer_idx")
  return 1 / (int(match[1]) + 1) if inverse else 1.0


def heads(output: str, tags: str) -> dict[str, tuple[Row, ...]]:
  """Returns the rows of a decoder's heads, of which two have the names `output` and `tags`."""
  return dict(
    causal=(Row(f"{output}.weight", "output/kernel", "linear", body=False),),
    classification=(Row("score.weight", "head/labels/kernel", "linear", body=False),),
    tagging=linear(tags, "head/labels", body=False),
    qa=linear("qa_outputs", "head/labels", body=False),
  )


def read_head(config, kind):
  """Returns the fields of a classifier's Head: the last token's state, and no bias."""
  del config
  return dict(pool="last", transform="none", bias=False) if kind == "classification" else {}


def classes(name: str, *kinds: str) -> dict[str, str]:
  """Returns the architectures of a decoder without a head, and with the heads for `kinds`."""
  names = dict(
    causal="ForCausalLM",
    classification="ForSequenceClassification",
    tagging="ForTokenClassification",
    qa="ForQuestionAnswering",
  )
  return {name + names[kind]: kind for kind in kinds} | {f"{name}Model": "body"}


LABELS = ("classification", "tagging", "qa")
GPT2 = Family(
  model_type="gpt2",
  prefix="transformer.",
  classes={"GPT2LMHeadModel": "causal"} | classes("GPT2", *LABELS),
  settings=(
    field("vocab_size", "vocab_size", 50257),
    field("n_embd", "dim", 768),
    field("n_layer", "decoder_layers", 12),
    field("n_head", "num_heads", 12),
    field("n_inner", "mlp_dim", None),
    activation("activation_function", "gelu_new"),
    field(("resid_pdrop", "embd_pdrop"), "dropout", 0.1),
    field("attn_pdrop", "attention_dropout", 0.1),
    field("n_positions", "max_len", 1024),
    field("layer_norm_epsilon", "norm_eps", 1e-5),
    field("initializer_range", "init_std", 0.02),
    field("tie_word_embeddings", "tie_output", True),
  ),
  constants=dict(
    encoder_layers=0, positions="learned", norm="layer", norm_position="pre", embed_scale=False
  ),
  fixed=dict(add_cross_attention=False, pruned_heads={}),
  ignored=(
    "classifier_dropout",
    "n_ctx",
    "reorder_and_upcast_attn",  # of 16-bit numbers
    "scale_attn_by_inverse_layer_idx",  # _inverse_layer reads it
    "scale_attn_weights",  # _gpt2_read reads it
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
  ),
  rows=(
    *same("wte", "embedding"),
    *same("wpe", "decoder/embeddings/positions"),
    *norm(f"{_GPT2}.ln_1", f"{BLOCK}/self_norm"),
    *_fused(f"{_GPT2}.attn.c_attn", f"{BLOCK}/self_attention"),
    *linear(f"{_GPT2}.attn.c_proj", f"{BLOCK}/self_attention/out", "conv"),
    *norm(f"{_GPT2}.ln_2", f"{BLOCK}/mlp_norm"),
    *linear(f"{_GPT2}.mlp.c_fc", f"{BLOCK}/mlp/up", "conv"),
    *linear(f"{_GPT2}.mlp.c_proj", f"{BLOCK}/mlp/down", "conv"),
    *norm("ln_f", "decoder/norm"),
  ),
  heads=heads("lm_head", "classifier"),
  read_head=read_head,
  copies={"lm_head.weight": "transformer.wte.weight"},
  computed=r"attn\.(bias|masked_bias)$",
  read=_gpt2_read,
  write=lambda model: dict(scale_attn_weights=model["attention_scale"] != 1.0),
  factor=_inverse_layer,
)


def read_llama(config, tensors):
  """Returns the fields of rotary positions."""
  del tensors
  rope.check_whole(config)
  return rope.read(config)


def write_llama(model):
  """Returns the fields of rotary positions and biases."""
  mlp_bias = model["bias"] if model["mlp_bias"] is None else model["mlp_bias"]
  return dict(rope_parameters=rope.write(model), attention_bias=model["bias"], mlp_bias=mlp_bias)


LLAMA = Family(
  model_type="llama",
  prefix="model.",
  classes=classes("Llama", "causal", *LABELS),
  prefixes=dict(qa="transformer."),
  settings=(
    field("vocab_size", "vocab_size", 32000),
    field("hidden_size", "dim", 4096),
    field("num_hidden_layers", "decoder_layers", 32),
    field("num_attention_heads", "num_heads", 32),
    field("num_key_value_heads", "num_kv_heads", None),
    field("head_dim", "head_dim", None),
    field("intermediate_size", "mlp_dim", 11008),
    activation("hidden_act", "silu"),
    field("max_position_embeddings", "max_len", 2048),
    field("rms_norm_eps", "norm_eps", 1e-6),
    field("attention_dropout", "attention_dropout", 0.0),
    # transformers takes at most 1
    field("initializer_range", "init_std", 0.02, lambda x: x, lambda x: min(x, 1.0)),
    field("tie_word_embeddings", "tie_output", False),
    field("attention_bias", "bias", False),
    field("mlp_bias", "mlp_bias", False),
  ),
  constants=dict(
    encoder_layers=0,
    positions="rotary",
    norm="rms",
    norm_position="pre",
    gated=True,
    embed_scale=False,
    dropout=0.0,
  ),
  fixed=dict(rope_interleaved=False),
  ignored=("is_llama_config", "pretraining_tp", *rope.NAMES),
  rows=(
    *same("embed_tokens", "embedding"),
    *attention(
      f"{_LLAMA}.self_attn", f"{BLOCK}/self_attention", ("q_proj", "k_proj", "v_proj", "o_proj")
    ),
    *norm(f"{_LLAMA}.input_layernorm", f"{BLOCK}/self_norm"),
    *norm(f"{_LLAMA}.post_attention_layernorm", f"{BLOCK}/mlp_norm"),
    *linear(f"{_LLAMA}.mlp.up_proj", f"{BLOCK}/mlp/up"),
    *linear(f"{_LLAMA}.mlp.gate_proj", f"{BLOCK}/mlp/gate"),
    *linear(f"{_LLAMA}.mlp.down_proj", f"{BLOCK}/mlp/down"),
    *norm("norm", "decoder/norm"),
  ),
  heads=heads("lm_head", "score"),
  read_head=read_head,
  copies={"lm_head.weight": "model.embed_tokens.weight"},
  computed=r"rotary_emb\.inv_freq$",
  read=read_llama,
  write=write_llama,
)

STARCODER2 = dataclasses.replace(
  LLAMA,
  model_type="starcoder2",
  classes=classes("Starcoder2", "causal"),
  prefixes={},
  settings=(
    field("vocab_size", "vocab_size", 49152),
    field("hidden_size", "dim", 3072),
    field("num_hidden_layers", "decoder_layers", 30),
    field("num_attention_heads", "num_heads", 24),
    field("num_key_value_heads", "num_kv_heads", 2),
    field("intermediate_size", "mlp_dim", 12288),
    activation("hidden_act", "gelu_pytorch_tanh"),
    field("max_position_embeddings", "max_len", 4096),
    field("norm_epsilon", "norm_eps", 1e-5),
    field("attention_dropout", "attention_dropout", 0.0),
    field(("residual_dropout", "embedding_dropout"), "dropout", 0.0),
    field("initializer_range", "init_std", 0.018042),
    field("tie_word_embeddings", "tie_output", True),
    field("sliding_window", "window", None),
    field("use_bias", "bias", True),
  ),
  constants=dict(
    encoder_layers=0, positions="rotary", norm="layer", norm_position="pre", embed_scale=False
  ),
  fixed={},
  ignored=rope.NAMES,
  rows=(
    *same("embed_tokens", "embedding"),
    *attention(
      f"{_LLAMA}.self_attn", f"{BLOCK}/self_attention", ("q_proj", "k_proj", "v_proj", "o_proj")
    ),
    *norm(f"{_LLAMA}.input_layernorm", f"{BLOCK}/self_norm"),
    *norm(f"{_LLAMA}.post_attention_layernorm", f"{BLOCK}/mlp_norm"),
    *linear(f"{_LLAMA}.mlp.c_fc", f"{BLOCK}/mlp/up"),
    *linear(f"{_LLAMA}.mlp.c_proj", f"{BLOCK}/mlp/down"),
    *norm("norm", "decoder/norm"),
  ),
  write=lambda model: dict(rope_parameters=rope.write(model)),
)

FAMILIES = (GPT2, LLAMA, STARCODER2)
