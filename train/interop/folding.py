"""Moves constant factors between a model's settings and its weights: the same function of a text in
the settings that a family has."""

import re
from collections.abc import Mapping

import numpy as np

from model.config import TransformerConfig

# The settings that weights can take in.
FOLDED = ("embed_scale", "attention_scale", "logits_scale")
_QUERY = re.compile(r"/(self|cross)_attention/query/(kernel|bias)$")


def fold(params: Mapping, before: Mapping, after: Mapping, words: bool) -> dict:
  """Returns the weights (path -> array) with which the settings `after` compute what `params`
  compute with the settings `before`.

  Both are fields of TransformerConfig that differ in FOLDED alone. `words`: the model predicts
  tokens, so that its logits count.
  """
  old, new = TransformerConfig(**before), TransformerConfig(**after)
  params = dict(params)

  def multiply(factor: float, *paths: str) -> None:
    for path in paths:
      if factor != 1.0 and path in params:
        weight = np.asarray(params[path], np.float32)
        params[path] = (weight * np.float64(factor)).astype(np.float32)

  multiply(old.scale / new.scale, *filter(_QUERY.search, params))
  root = old.table_dim**0.5
  table = root ** (int(old.embed_scale) - int(new.embed_scale))
  multiply(table, "embedding/embedding", "source_embedding/embedding")
  logits = old.logits_scale / new.logits_scale
  if words and old.tie_output:
    multiply(logits / table, *_before_logits(old))
  elif words:
    multiply(logits, "output/kernel")
  return params


def _before_logits(cfg: TransformerConfig) -> tuple[str, str]:
  """Returns the paths of the norm whose output the logits are computed from."""
  path = "head/norm"
  if cfg.output_transform != "none":
    path = "output_transform/norm"
  elif cfg.decoder_layers:
    last = f"decoder/blocks/{cfg.decoder_layers - 1}/mlp_norm"
    path = "decoder/norm" if cfg.norm_position == "pre" else last
  return f"{path}/scale", f"{path}/bias"
