"""Defines the table of ModernBERT."""

from train.common.errors import UserError
from train.interop.families.base import (
  ACTIVATION_NAMES,
  ACTIVATIONS,
  Family,
  Head,
  Row,
  activation,
  field,
  linear,
  norm,
  same,
)
from train.interop.families.encoders import BLOCK, classes, labels
from train.interop.families.rope import shortest

FULL, SLIDING = "full_attention", "sliding_attention"
THETAS = {FULL: ("global_rope_theta", 160000.0), SLIDING: ("local_rope_theta", 10000.0)}
POOLS = {"cls": "first", "mean": "mean"}


def _layer_types(config) -> list[str]:
  """Returns the kind of attention of each layer; raises UserError for other kinds or numbers."""
  depth, every = config.get("num_hidden_layers", 22), config.get("global_attn_every_n_layers", 3)
  types = config.get("layer_types")
  if types is None:
    return [SLIDING if index % every else FULL for index in range(depth)]
  if not isinstance(types, list) or len(types) != depth or {*types} - {FULL, SLIDING}:
    raise UserError(f"layer_types is {types}; it must be {depth} times {FULL} or {SLIDING}")
  return types


def _ropes(config) -> dict[str, tuple[float, float]]:
  """Returns theta and scale of each kind of layers."""
  given, ropes = config.get("rope_parameters") or {}, {}
  for kind, (name, usual) in THETAS.items():
    own = dict(config.get("rope_scaling") or {}) | dict(given.get(kind) or {})
    rope_type = own.pop("rope_type", own.pop("type", "default"))
    theta = own.pop("rope_theta", config.get(name, usual))
    scale = own.pop("factor", 1.0) if rope_type == "linear" else 1.0
    if rope_type not in ("default", "linear") or own.keys() - {"factor"}:
      raise UserError(f"rope_parameters (rope_scaling) has {rope_type!r} {own}; known: default")
    ropes[kind] = theta, scale
  return ropes


def _read_modernbert(config, tensors) -> dict:
  types, ropes = _layer_types(config), _ropes(config)
  half = config.get("local_attention", 128) // 2
  return dict(
    window=shortest([None if kind == FULL else half + 1 for kind in types]),
    rope_theta=shortest([ropes[kind][0] for kind in types]),
    rope_scale=shortest([ropes[kind][1] for kind in types]),
    bias=bool(config.get("attention_bias") or config.get("mlp_bias")),
  )


def _write_modernbert(model) -> dict:
  def each(name):
    values = model[name] if isinstance(model[name], tuple) else (model[name],)
    return [values[index % len(values)] for index in range(model["encoder_layers"])]

  types = [FULL if window is None else SLIDING for window in each("window")]
  windows = [window for window in each("window") if window is not None] or [65]
  ropes = {}
  for kind, theta, scale in zip(types, each("rope_theta"), each("rope_scale")):
    linear_scale = dict(rope_type="linear", factor=scale) if scale != 1 else {}
    ropes.setdefault(kind, dict(rope_type="default", rope_theta=theta) | linear_scale)
  return dict(
    layer_types=types,
    local_attention=2 * (windows[0] - 1),
    rope_parameters=ropes,
    attention_bias=model["bias"],
    mlp_bias=model["bias"],
  )


def _read_modernbert_head(config, kind) -> dict:
  return dict(
    pool=POOLS[config.get("classifier_pooling", "cls")],
    activation=ACTIVATIONS[config.get("classifier_activation", "gelu")],
    transform="dense_norm",
  )


def _write_modernbert_head(head: Head, kind: str) -> dict:
  names = {pool: name for name, pool in POOLS.items()}
  return dict(
    classifier_pooling=names.get(head.pool, "cls"),
    classifier_activation=ACTIVATION_NAMES.get(head.activation, "gelu"),
  )


def _optional(rows, switch: str, default: bool = False) -> tuple[Row, ...]:
  """Returns rows whose biases are there if config.json has the field `switch`."""
  return tuple(
    row._replace(switch=(switch, default)) if row.how == "vector" else row for row in rows
  )


def _fused(theirs: str, ours, switch: str) -> tuple[Row, ...]:
  """Returns the rows of layers that are one matrix."""
  rows = []
  for part, name in enumerate(ours):
    for row in _optional(linear(theirs, name), switch):
      rows.append(row._replace(part=part, parts=len(ours)))
  return tuple(rows)


_LAYER, _ATTENTION = "layers.{}", f"{BLOCK}/self_attention"
_DENSE = (
  *_optional(linear("head.dense", "head/dense", body=False), "classifier_bias"),
  *norm("head.norm", "head/norm", body=False),
)
_HEAD = (*_DENSE, *labels("classifier"))
MODERNBERT = Family(
  model_type="modernbert",
  prefix="model.",
  classes=classes("ModernBert"),
  settings=(
    field("vocab_size", "vocab_size", 50368),
    field("hidden_size", "dim", 768),
    field("num_hidden_layers", "encoder_layers", 22),
    field("num_attention_heads", "num_heads", 12),
    field("intermediate_size", "mlp_dim", 1152),
    activation("hidden_activation", "gelu"),
    field("embedding_dropout", "dropout", 0.0),
    field("attention_dropout", "attention_dropout", 0.0),
    field("mlp_dropout", "activation_dropout", 0.0),
    field("max_position_embeddings", "max_len", 8192),
    field("norm_eps", "norm_eps", 1e-5),
    field("norm_bias", "norm_bias", False),
    field("initializer_range", "init_std", 0.02),
    field("tie_word_embeddings", "tie_output", True),
  ),
  constants=dict(
    decoder_layers=0,
    positions="rotary",
    norm="layer",
    norm_position="pre",
    first_norm=False,
    embedding_norm=True,
    embed_scale=False,
    gated=True,
    output_bias=True,
  ),
  fixed={},
  read=_read_modernbert,
  write=_write_modernbert,
  ignored=(
    # read by the functions above, or by the rows' switches
    "attention_bias",
    "classifier_activation",
    "classifier_bias",
    "classifier_pooling",
    "decoder_bias",
    "global_attn_every_n_layers",
    "global_rope_theta",
    "layer_types",
    "local_attention",
    "local_rope_theta",
    "mlp_bias",
    "rope_parameters",
    "rope_scaling",
    # without effect on outputs
    "classifier_dropout",
    "deterministic_flash_attn",
    "initializer_cutoff_factor",
    "layer_norm_eps",
    "position_embedding_type",
    "reference_compile",
    "repad_logits_with_grad",
    "sparse_pred_ignore_index",
    "sparse_prediction",
  ),
  rows=(
    *same("embeddings.tok_embeddings", "embedding"),
    *norm("embeddings.norm", "encoder/embeddings/norm"),
    *norm(f"{_LAYER}.attn_norm", f"{BLOCK}/self_norm"),
    *_fused(
      f"{_LAYER}.attn.Wqkv",
      (f"{_ATTENTION}/query", f"{_ATTENTION}/key", f"{_ATTENTION}/value"),
      "attention_bias",
    ),
    *_optional(linear(f"{_LAYER}.attn.Wo", f"{_ATTENTION}/out"), "attention_bias"),
    *norm(f"{_LAYER}.mlp_norm", f"{BLOCK}/mlp_norm"),
    *_fused(f"{_LAYER}.mlp.Wi", (f"{BLOCK}/mlp/gate", f"{BLOCK}/mlp/up"), "mlp_bias"),
    *_optional(linear(f"{_LAYER}.mlp.Wo", f"{BLOCK}/mlp/down"), "mlp_bias"),
    *norm("final_norm", "encoder/norm"),
  ),
  heads=dict(
    body=_DENSE,
    mlm=(
      *_DENSE,
      Row("decoder.bias", "output_bias", "vector", body=False, switch=("decoder_bias", True)),
      Row("decoder.weight", "output/kernel", "linear", body=False),
    ),
    classification=_HEAD,
    tagging=_HEAD,
    qa=_HEAD,
    choice=_HEAD,
  ),
  copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
  computed=r"inv_freq$",
  token_transform="dense_norm",
  read_head=_read_modernbert_head,
  write_head=_write_modernbert_head,
)

FAMILIES = (MODERNBERT,)
