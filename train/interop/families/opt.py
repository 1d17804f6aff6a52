"""Defines the tables of OPT and GPT-NeoX."""

from train.common.errors import UserError
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
from train.interop.families.decoders import BLOCK, LABELS, classes, heads, read_head

_OPT, _NEOX = "decoder.layers.{}", "layers.{}"


def _read_opt(config, tensors):
  del tensors
  if config.get("word_embed_proj_dim") not in (None, config.get("hidden_size", 768)):
    raise UserError(
      f"word_embed_proj_dim is {config['word_embed_proj_dim']!r} and hidden_size"
      f" {config.get('hidden_size', 768)}; here a decoder's words are as wide as its states"
    )
  return {}


OPT = Family(
  model_type="opt",
  prefix="model.",
  classes=classes("OPT", "causal", "classification", "qa"),
  settings=(
    field("vocab_size", "vocab_size", 50272),
    field("hidden_size", "dim", 768),
    field("num_hidden_layers", "decoder_layers", 12),
    field("num_attention_heads", "num_heads", 12),
    field("ffn_dim", "mlp_dim", 3072),
    activation("activation_function", "relu"),
    field("dropout", "dropout", 0.1),
    field("attention_dropout", "attention_dropout", 0.0),
    field("max_position_embeddings", "max_len", 2048),
    field("init_std", "init_std", 0.02),
    field("enable_bias", "bias", True),
    field(
      "do_layer_norm_before",
      "norm_position",
      True,
      {True: "pre", False: "post"}.__getitem__,
      {"pre": True, "post": False}.__getitem__,
    ),
    field("tie_word_embeddings", "tie_output", True),
  ),
  constants=dict(
    encoder_layers=0,
    positions="learned",
    position_offset=2,
    norm="layer",
    norm_eps=1e-5,
    embed_scale=False,
  ),
  fixed=dict(_remove_final_layer_norm=False, layer_norm_elementwise_affine=True, layerdrop=0.0),
  ignored=("activation_dropout", "word_embed_proj_dim"),
  rows=(
    *same("decoder.embed_tokens", "embedding"),
    *same("decoder.embed_positions", "decoder/embeddings/positions"),
    *attention(
      f"{_OPT}.self_attn", f"{BLOCK}/self_attention", ("q_proj", "k_proj", "v_proj", "out_proj")
    ),
    *norm(f"{_OPT}.self_attn_layer_norm", f"{BLOCK}/self_norm"),
    *linear(f"{_OPT}.fc1", f"{BLOCK}/mlp/up"),
    *linear(f"{_OPT}.fc2", f"{BLOCK}/mlp/down"),
    *norm(f"{_OPT}.final_layer_norm", f"{BLOCK}/mlp_norm"),
    *norm("decoder.final_layer_norm", "decoder/norm"),
  ),
  heads=heads("lm_head", "classifier"),
  read_head=read_head,
  copies={"lm_head.weight": "model.decoder.embed_tokens.weight"},
  read=_read_opt,
  write=lambda model: dict(word_embed_proj_dim=model["dim"]),
)


def _fused(theirs: str, ours: str):
  for part, name in enumerate(("query", "key", "value")):
    yield Row(f"{theirs}.weight", f"{ours}/{name}/kernel", "linear", part, by_head=True)
    yield Row(f"{theirs}.bias", f"{ours}/{name}/bias", "vector", part, by_head=True)


def _read_neox(config, tensors):
  del tensors
  config = dict(config)
  field_of = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
  given = config.get(field_of) or {}
  part = given.get("partial_rotary_factor")
  if part is None:
    part = config.get("rotary_pct")
  part = 0.25 if part is None else part
  if type(part) not in (int, float):
    raise UserError(f"{field_of}.partial_rotary_factor is {part!r}; it must be a number")
  size = config.get("hidden_size", 6144) // config.get("num_attention_heads", 64)
  turned = int(size * part)
  fields = rope.read_one(config, given, field_of, config.get("rotary_emb_base"))
  return fields | dict(rotary_dim=None if turned == size else turned)


def _write_neox(model):
  size = model["dim"] // model["num_heads"]
  part = (model["rotary_dim"] or size) / size
  return dict(
    rope_parameters=rope.write(model) | dict(partial_rotary_factor=part),
    rotary_pct=part,
    rotary_emb_base=model["rope_theta"],
    attention_bias=model["bias"],
  )


GPT_NEOX = Family(
  model_type="gpt_neox",
  prefix="gpt_neox.",
  classes=classes("GPTNeoX", "causal", *LABELS),
  settings=(
    field("vocab_size", "vocab_size", 50432),
    field("hidden_size", "dim", 6144),
    field("num_hidden_layers", "decoder_layers", 44),
    field("num_attention_heads", "num_heads", 64),
    field("intermediate_size", "mlp_dim", 24576),
    activation("hidden_act", "gelu"),
    field("hidden_dropout", "dropout", 0.0),
    field("attention_dropout", "attention_dropout", 0.0),
    field("max_position_embeddings", "max_len", 2048),
    field("layer_norm_eps", "norm_eps", 1e-5),
    field("initializer_range", "init_std", 0.02),
    field("use_parallel_residual", "parallel", True),
    field("attention_bias", "bias", True),
    field("tie_word_embeddings", "tie_output", False),
  ),
  constants=dict(
    encoder_layers=0,
    positions="rotary",
    norm="layer",
    norm_position="pre",
    mlp_bias=True,
    embed_scale=False,
  ),
  fixed={},
  ignored=("classifier_dropout", "rotary_emb_base", "rotary_pct", *rope.NAMES),
  rows=(
    *same("embed_in", "embedding"),
    *norm(f"{_NEOX}.input_layernorm", f"{BLOCK}/self_norm"),
    *_fused(f"{_NEOX}.attention.query_key_value", f"{BLOCK}/self_attention"),
    *linear(f"{_NEOX}.attention.dense", f"{BLOCK}/self_attention/out"),
    *norm(f"{_NEOX}.post_attention_layernorm", f"{BLOCK}/mlp_norm"),
    *linear(f"{_NEOX}.mlp.dense_h_to_4h", f"{BLOCK}/mlp/up"),
    *linear(f"{_NEOX}.mlp.dense_4h_to_h", f"{BLOCK}/mlp/down"),
    *norm("final_layer_norm", "decoder/norm"),
  ),
  # transformers writes embed_out; its own classes have it as lm_head
  heads=heads("embed_out", "classifier"),
  read_head=read_head,
  copies={
    "lm_head.weight": "embed_out.weight",
    "embed_out.weight": "gpt_neox.embed_in.weight",
  },
  computed=r"attention\.(bias|masked_bias|rotary_emb\.inv_freq)$|rotary_emb\.inv_freq$",
  read=_read_neox,
  write=_write_neox,
)

FAMILIES = (OPT, GPT_NEOX)
