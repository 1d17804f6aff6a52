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
from model.settings import DECODER, DISENTANGLED, FREE, LEARNED, RELATIVE
from model.transformer import Transformer
from train.common.errors import UserError
from train.data.roles import Roles
from train.interop import folding, weights, weights_out
from train.interop.families.base import POOLED, Family, Head
from train.interop.families.known import FAMILIES
from train.interop.settings import floats, settings

WORDS = ("mlm", "causal", "translation")  # the kinds that predict tokens
BARE = ("body", "causal", "translation")  # those without a head


@dataclasses.dataclass(frozen=True)
class Fit:
  """A model in the settings of a family, and the settings that the family lacks."""

  family: Family
  config: dict  # the part of config.json that describes the model
  source: dict  # the model, as fields of TransformerConfig
  model: dict  # the same as config.json is read; differs in FOLDED where weights take these in
  lacks: tuple[str, ...]  # the settings of ours that config.json cannot express

  @property
  def is_folded(self) -> bool:
    """Returns whether weights take in settings that the family lacks."""
    return bool(self.model) and any(
      _numbers(self.source)[field] != _numbers(self.model)[field] for field in folding.FOLDED
    )


def fit(family: Family, model: Mapping, kind: str, head: Head) -> Fit:
  """Returns `model` (fields of TransformerConfig) written in a family's settings and read again.

  Biases and token types that only the family has are zeros. Scales that the family lacks go into
  the weights.
  """
  model = dataclasses.asdict(TransformerConfig(**model))
  direct = _fit(family, model, kind, head)
  if not direct.lacks or not {*direct.lacks} <= {f"model.{field}" for field in folding.FOLDED}:
    return direct
  for logits_scale in (1.0, model["dim"] ** -0.5):  # the families', T5's last
    scales = {field: family.constants.get(field) for field in folding.FOLDED[:2]}
    if scales["embed_scale"] is None:  # config.json has it
      scales["embed_scale"] = model["embed_scale"]
    changed = model | scales | dict(logits_scale=logits_scale)
    folded = _fit(family, changed, kind, head)
    if not folded.lacks:
      return dataclasses.replace(folded, source=model)
  return direct


def _fit(family: Family, model: dict, kind: str, head: Head) -> Fit:
  if kind not in family.classes.values():
    return Fit(family, {}, model, {}, ("task.name",))
  name = next(name for name, purpose in family.classes.items() if purpose == kind)
  config = {"model_type": family.model_type, "architectures": [name], **family.fixed}
  lost, values = [], _numbers(model)
  for setting in family.settings:
    value = setting.default
    try:
      if values[setting.ours] is not None:
        value = setting.to_theirs(values[setting.ours])
    except KeyError:
      lost.append(setting.ours)
    config |= dict.fromkeys(setting.theirs, value)
  config |= family.write(floats(model)) | family.write_head(head, kind)
  tied = {} if model["tie_output"] else {"lm_head.weight": None}
  try:
    back = settings(config, family, tied, family.model_type)
  except UserError:  # two of the settings exclude one another
    return Fit(family, config, model, {}, tuple(f"model.{field}" for field in lost) or ("model",))
  here, there = canonical(model, kind), canonical(back, kind)
  lacks = {field for field in here if here[field] != there[field]} | set(lost)
  lacks -= {field for field in ("bias", "qkv_bias", "mlp_bias") if not here[field]}  # zeros
  lacks = [f"model.{field}" for field in sorted(lacks)]
  if kind not in BARE:
    there = dict(_names(family.head(config, kind, model["activation"]), kind))
    lacks += [name for name, value in _names(head, kind) if value != there[name]]
  return Fit(family, config, model, back, tuple(lacks))


def _numbers(model: Mapping) -> dict:
  """Returns the settings with the numbers that None stands for, and whole floats as floats, as the
  families' strict dataclasses want them. A None that remains means the family's default."""
  cfg = TransformerConfig(**model)
  return floats(vars(cfg)) | dict(
    num_kv_heads=cfg.kv_heads,
    head_dim=cfg.head_size,
    embedding_dim=cfg.table_dim,
    attention_scale=float(cfg.scale),
  )


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
    attention_scale=cfg.self_scale if cfg.encoder_layers and not cfg.decoder_layers else cfg.scale,
    qkv_bias=cfg.bias if cfg.qkv_bias is None else cfg.qkv_bias,
    mlp_bias=cfg.bias if cfg.mlp_bias is None else cfg.mlp_bias,
    token_types=None,
    **_of_layers(cfg),
    **_of_decoder(cfg),
  )
  learned, parts = cfg.positions in LEARNED, cfg.positions in DISENTANGLED
  distances = parts or cfg.positions in RELATIVE
  rotary = cfg.positions == "rotary"
  used = dict(
    norm_bias=cfg.norm == "layer",
    max_len=learned,
    position_offset=learned or cfg.positions == "sinusoidal_t2t",
    relative_buckets=distances,
    relative_max_distance=distances,
    disentangled_terms=parts,
    disentangled_projections=parts,
    disentangled_norm=parts,
    convolution_activation=cfg.convolution is not None,
    rope_theta=rotary,
    rope_scale=rotary,
    rope_original_len=rotary,
    rope_low_turns=cfg.rope_original_len is not None,
    rope_high_turns=cfg.rope_original_len is not None,
    rotary_dim=rotary,
    share_embeddings=bool(cfg.encoder_layers and cfg.decoder_layers),
    tie_output=kind in WORDS,
    output_bias=False,
    output_transform=kind in WORDS,
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
  layers = range(cfg.decoder_layers or cfg.encoder_layers)
  windows = tuple(own.layer(index).window for index in layers)
  values |= dict(num_kv_heads=own.kv_heads, head_dim=own.head_size, window=windows)
  return {DECODER[name]: value for name, value in values.items()}


def check_task(fit: Fit, kind: str, global_attention: str, roles: Roles) -> None:
  """Raises UserError where the family's decoder gets labels behind another start token, or where
  other tokens are global."""
  last, usual = (roles.eos, *roles.source_last)[-1], fit.family.globals_for(kind)
  if fit.model["global_tokens"] and global_attention != usual:
    raise UserError(
      f"task.global_attention is {global_attention!r}, and of a {fit.family.model_type} for {kind}"
      f" {usual!r}"
    )
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
    lacks = ", ".join(_differences(near, kind, head))
    raise UserError(
      f"no family of Hugging Face's models can express this one; the nearest,"
      f" {near.family.model_type}, has no counterpart of: {lacks}."
      " Train with its settings, or start from one of its models (init=hf:DIR)"
    )

  def size(fit):
    return sum(map(math.prod, _shapes(fit.model).values()))

  return min(whole, key=lambda fit: (fit.family.model_type != first, fit.is_folded, size(fit)))


def _differences(near: Fit, kind: str, head: Head) -> list[str]:
  """Returns the settings that a family lacks, each with the family's own value."""
  lines, heads = [], dict(_names(head, kind))
  for key in near.lacks:
    field, there = key.removeprefix("model."), near.model
    if key == "task.name":
      lines.append(f"task.name is {kind!r}")
    elif field in near.source:
      own = f" (its own: {there[field]!r})" if there else ""
      lines.append(f"{key} is {near.source[field]!r}{own}")
    else:
      lines.append(f"{key} is {heads[key]!r}" if key in heads else key)
  return lines


def _shapes(model: Mapping) -> dict[str, tuple[int, ...]]:
  """Returns path -> shape of the weights without a head."""
  return weights.weight_shapes(lambda: Transformer(TransformerConfig(**model), rngs=nnx.Rngs(0)))


def write(folder: pathlib.Path, fit: Fit, kind: str, params: Mapping, more: Mapping) -> list[str]:
  """Writes config.json (with `more`) and the tensors of `params` (path -> array); returns the
  weights that are zeros because the model lacks them."""
  for key in fit.config.keys() & more.keys():
    if fit.config[key] != more[key]:  # RoBERTa's and M2M-100's first position follows padding's id
      raise UserError(
        f"{key} is {more[key]} in the vocabulary, and a {fit.family.model_type} with these settings"
        f" of the model has {fit.config[key]}: no file can say both"
      )
  needed = _shapes(fit.model)
  params = folding.fold(params, fit.source, fit.model, kind in WORDS)
  if "output_bias" in fit.family.rows_of(kind, fit.model):
    needed["output_bias"] = (fit.model["vocab_size"],)
  else:
    needed.pop("output_bias", None)
  zeros = [name for name in needed if name not in params]
  params |= {name: np.zeros(needed[name], np.float32) for name in zeros}
  # an embedding table that models of this kind do not have is left out, and projections, which
  # are in files of their own
  heads = (path for path in params if path.startswith("head/") and "/projections/" not in path)
  params = {path: params[path] for path in (*needed, *heads)}
  on = weights_out.switches(fit.family, kind, fit.model, params)
  config = fit.config | on | dict(more)
  text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
  (folder / "config.json").write_text(text + "\n", encoding="utf-8")
  weights_out.write(folder, fit.family, kind, fit.model, params, on)
  return zeros
