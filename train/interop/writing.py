"""Writes settings and weights as a Hugging Face directory of the family that has all of them."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from model.config import TransformerConfig
from model.settings import DECODER, LEARNED, RELATIVE
from model.transformer import Transformer
from train.common.errors import UserError
from train.data.roles import Roles
from train.interop import weights
from train.interop.directory import FAMILIES
from train.interop.families import POOLED, Family, Head
from train.interop.settings import settings

# The settings that change no output of a trained model, or only how it is computed.
FREE = (
  "attention_dropout",
  "activation_dropout",
  "attention_impl",
  "remat",
  "scan_layers",
  "dropout",
  "dtype",
  "init_std",
)
WORDS = ("mlm", "causal", "translation")  # the kinds that predict tokens
BARE = ("body", "causal", "translation")  # those without a head


@dataclasses.dataclass(frozen=True)
class Fit:
  """A model in the settings of a family, and the settings that the family lacks."""

  family: Family
  config: dict  # the part of config.json that describes the model
  model: dict  # the same as fields of TransformerConfig
  lacks: tuple[str, ...]  # the settings of ours that config.json cannot express


def fit(family: Family, model: Mapping, kind: str, head: Head) -> Fit:
  """Returns `model` (fields of TransformerConfig) written in a family's settings and read again.

  Biases and token types that only the family has are zeros.
  """
  model = dataclasses.asdict(TransformerConfig(**model))
  if kind not in family.classes.values():
    return Fit(family, {}, {}, ("task.name",))
  name = next(name for name, purpose in family.classes.items() if purpose == kind)
  config = {"model_type": family.model_type, "architectures": [name], **family.fixed}
  lost = []
  for setting in family.settings:
    try:
      config |= dict.fromkeys(setting.theirs, setting.to_theirs(model[setting.ours]))
    except KeyError:
      lost.append(setting.ours)
      config |= dict.fromkeys(setting.theirs, setting.default)
  config |= family.write(model) | family.write_head(head, kind)
  tied = {} if model["tie_output"] else {"lm_head.weight": None}
  try:
    back = settings(config, family, tied, family.model_type)
  except UserError:  # two of the settings exclude one another
    return Fit(family, config, {}, tuple(f"model.{field}" for field in lost) or ("model",))
  here, there = canonical(model, kind), canonical(back, kind)
  lacks = {field for field in here if here[field] != there[field]} | set(lost)
  lacks -= {field for field in ("bias", "qkv_bias", "mlp_bias") if not here[field]}  # zeros
  lacks = [f"model.{field}" for field in sorted(lacks)]
  if kind not in BARE:
    there = family.head(config, kind, model["activation"])
    lacks += [
      name for name, value in _names(head, kind) if value != dict(_names(there, kind))[name]
    ]
  return Fit(family, config, back, tuple(lacks))


def _names(head: Head, kind: str) -> list[tuple[str, Any]]:
  """Returns the settings of a task that its head has, and their values."""
  key = "task.pool_activation" if kind in POOLED else "task.head_activation"
  activation = "" if head.transform == "none" else head.activation
  names = [(key, activation), ("task.transform", head.transform)]
  pooled = [("task.pool", head.pool), ("task.head_bias", head.bias)]
  return names + pooled * (kind in POOLED)


def canonical(model: Mapping, kind: str) -> dict:
  """Returns the settings that matter, each in one form."""
  cfg = TransformerConfig(**model)
  settings = {key: value for key, value in dataclasses.asdict(cfg).items() if key not in FREE}
  settings |= dict(
    num_kv_heads=cfg.kv_heads,
    head_dim=cfg.head_size,
    embedding_dim=cfg.table_dim,
    attention_scale=cfg.scale,
    qkv_bias=cfg.bias if cfg.qkv_bias is None else cfg.qkv_bias,
    mlp_bias=cfg.bias if cfg.mlp_bias is None else cfg.mlp_bias,
    token_types=None,
    **_of_layers(cfg),
    **_of_decoder(cfg),
  )
  learned, distances = cfg.positions in LEARNED, cfg.positions in RELATIVE
  rotary = cfg.positions == "rotary"
  used = dict(
    norm_bias=cfg.norm == "layer",
    max_len=learned,
    position_offset=learned or cfg.positions == "sinusoidal_t2t",
    relative_buckets=distances,
    relative_max_distance=distances,
    rope_theta=rotary,
    rope_scale=rotary,
    rope_original_len=rotary,
    rope_low_turns=cfg.rope_original_len is not None,
    rope_high_turns=cfg.rope_original_len is not None,
    rotary_dim=rotary,
    share_embeddings=bool(cfg.encoder_layers and cfg.decoder_layers),
    tie_output=kind in WORDS,
    output_bias=False,
    logits_scale=kind in WORDS,
  )
  return settings | {field: None for field, matters in used.items() if not matters}


def _of_layers(cfg: TransformerConfig) -> dict:
  """Returns the settings that are patterns, of each layer up to where they repeat."""
  layers = [cfg.layer(index) for index in range(max(cfg.encoder_layers, cfg.decoder_layers))]
  names = ("window", "rope_theta", "rope_scale")
  return {name: tuple(getattr(layer, name) for layer in layers) for name in names}


def _of_decoder(cfg: TransformerConfig) -> dict:
  """Returns the decoder's own settings, as the encoder's are where it has none of its own."""
  if not (cfg.encoder_layers and cfg.decoder_layers):
    cfg = dataclasses.replace(cfg, **dict.fromkeys(DECODER.values()))
  own = cfg.for_decoder()
  used = dict(max_len=cfg.positions in LEARNED)
  values = {name: getattr(own, name) if used.get(name, True) else None for name in DECODER}
  values |= dict(num_kv_heads=own.kv_heads, head_dim=own.head_size)
  return {DECODER[name]: value for name, value in values.items()}


def check_start(fit: Fit, kind: str, roles: Roles) -> None:
  """Raises UserError where the family's decoder gets labels behind another start token."""
  last = (roles.eos, *roles.source_last)[-1]
  if fit.family.starts_with_last and kind in ("classification", "qa") and roles.start != last:
    raise UserError(
      f"a {fit.family.model_type} that gets labels starts with its source's last token, {last}, and"
      f" this model with {roles.start}"
    )


def best(model: Mapping, kind: str, head: Head, first: str = "") -> Fit:
  """Returns the fit of the family that can express the model with its head.

  Of several families it is `first` (a model_type), else the family with the fewest weights. Raises
  UserError, which names the settings that the nearest family lacks, if no family can.
  """
  model = dict(model)
  if (name := model.pop("name", "transformer")) != "transformer":
    raise UserError(
      f"model.name is {name!r}: all families of Hugging Face's models that are written here are"
      " Transformers, and none of them has its weights"
    )
  fits = [fit(family, model, kind, head) for family in FAMILIES.values()]
  whole = [fit for fit in fits if not fit.lacks]
  if not whole:
    near = min(fits, key=lambda fit: ("task.name" in fit.lacks, not fit.model, len(fit.lacks)))
    values = {f"model.{key}": value for key, value in vars(TransformerConfig(**model)).items()}
    values |= {"task.name": kind, **dict(_names(head, kind))}
    lacks = [f"{key} is {values[key]!r}" if key in values else key for key in near.lacks]
    raise UserError(
      f"no family of Hugging Face's models can express this one; the nearest,"
      f" {near.family.model_type}, has no counterpart of: {', '.join(lacks)}"
    )

  def size(fit):
    return sum(map(math.prod, _shapes(fit.model).values()))

  return min(whole, key=lambda fit: (fit.family.model_type != first, size(fit)))


def _shapes(model: Mapping) -> dict[str, tuple[int, ...]]:
  """Returns path -> shape of the weights without a head."""
  return weights.weight_shapes(lambda: Transformer(TransformerConfig(**model), rngs=nnx.Rngs(0)))


def write(folder: pathlib.Path, fit: Fit, kind: str, params: Mapping, more: Mapping) -> list[str]:
  """Writes config.json (with `more`) and the tensors of `params` (path -> array); returns the
  weights that are zeros because the model lacks them."""
  needed, params = _shapes(fit.model), dict(params)
  if any(row.ours == "output_bias" for row in fit.family.heads.get(kind, ())):
    needed["output_bias"] = (fit.model["vocab_size"],)
  else:
    needed.pop("output_bias", None)
  zeros = [name for name in needed if name not in params]
  params |= {name: np.zeros(needed[name], np.float32) for name in zeros}
  # an embedding table that models of this kind do not have is left out
  params = {k: x for k, x in params.items() if k in needed or k.startswith("head/")}
  config = fit.config | weights.switches(fit.family, kind, fit.model, params) | dict(more)
  text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
  (folder / "config.json").write_text(text + "\n", encoding="utf-8")
  weights.write(folder, fit.family, kind, fit.model, params)
  return zeros
