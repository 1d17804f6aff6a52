"""Defines the tables of Mistral, Qwen2 and Qwen3, which differ from Llama's."""

import dataclasses

from model.config import TransformerConfig
from train.interop.families import rope
from train.interop.families.base import changed, field, norm
from train.interop.families.decoders import BLOCK, LABELS, LLAMA, classes


def _write_mistral(model):
  window = model["window"]
  return dict(
    rope_parameters=rope.write(model), sliding_window=window if isinstance(window, int) else None
  )


MISTRAL = dataclasses.replace(
  LLAMA,
  model_type="mistral",
  classes=classes("Mistral", "causal", *LABELS),
  prefixes={},
  settings=(
    *changed(
      LLAMA.settings,
      dict(num_key_value_heads=8, intermediate_size=14336, max_position_embeddings=131072),
      without=("attention_bias", "mlp_bias"),
    ),
    field("sliding_window", "window", 4096),
  ),
  constants=LLAMA.constants | dict(bias=False),
  fixed={},
  ignored=rope.NAMES,
  write=_write_mistral,
)


def _read_qwen(config, tensors):
  layers = config.get("num_hidden_layers", 32)
  window = config.get("sliding_window", 4096) if config.get("use_sliding_window") else None
  first = config.get("max_window_layers", 28)
  types = rope.layer_types(
    config, layers, lambda i: rope.FULL if window is None or i < first else rope.SLIDING
  )
  return LLAMA.read(config, tensors) | dict(window=rope.windows(types, window))


def _write_qwen(model):
  windows = rope.write_windows(model, None)
  return dict(
    rope_parameters=rope.write(model),
    use_sliding_window=windows["sliding_window"] is not None,
    max_window_layers=model["decoder_layers"],
    **windows,
  )


def _write_head_dim(model):
  """Returns the size of heads where it is not the usual one: a Qwen2 has a field for it then."""
  cfg = TransformerConfig(**model)
  return {} if cfg.head_size * cfg.num_heads == cfg.dim else dict(head_dim=cfg.head_size)


QWEN2 = dataclasses.replace(
  LLAMA,
  model_type="qwen2",
  classes=classes("Qwen2", "causal", *LABELS),
  settings=changed(
    LLAMA.settings,
    dict(
      vocab_size=151936,
      num_key_value_heads=32,
      intermediate_size=22016,
      max_position_embeddings=32768,
    ),
    without=("attention_bias", "head_dim", "mlp_bias"),
  ),
  constants=LLAMA.constants | dict(bias=False, qkv_bias=True),
  fixed=dict(use_mrope=False),
  ignored=(*rope.NAMES, *rope.WINDOWS, "head_dim", "use_sliding_window", "max_window_layers"),
  read=lambda config, tensors: _read_qwen(config, tensors) | dict(head_dim=config.get("head_dim")),
  write=lambda model: _write_qwen(model) | _write_head_dim(model),
)

QWEN3 = dataclasses.replace(
  QWEN2,
  model_type="qwen3",
  classes=classes("Qwen3", "causal", *LABELS),
  settings=(
    *QWEN2.settings,
    field("head_dim", "head_dim", 128),
    field("attention_bias", "bias", False),
  ),
  constants=LLAMA.constants | dict(mlp_bias=False, qk_norm=True),
  fixed={},
  read=_read_qwen,
  write=_write_qwen,
  rows=(
    *LLAMA.rows,
    *norm("layers.{}.self_attn.q_norm", f"{BLOCK}/self_attention/query_norm"),
    *norm("layers.{}.self_attn.k_norm", f"{BLOCK}/self_attention/key_norm"),
  ),
)

FAMILIES = (MISTRAL, QWEN2, QWEN3)
