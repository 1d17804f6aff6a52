"""Our settings and weights as a Hugging Face directory of the family that has all of them."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx

from model.config import TransformerConfig
from model.transformer import Transformer
from train.common.errors import UserError
from train.common.trees import path_name
from train.interop import weights
from train.interop.directory import FAMILIES
from train.interop.families import Family
from train.interop.settings import settings

# What changes no output of a trained model, or only how it is computed.
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
WORDS = ("mlm", "causal", "translation")  # kinds whose outputs are words


@dataclasses.dataclass(frozen=True)
class Fit:
  """A family that has a place for every setting of a model, or what it lacks."""

  family: Family
  config: dict  # its config.json, as far as the model goes
  model: dict  # the same as fields of TransformerConfig
  lacks: tuple[str, ...]  # our fields that it cannot say


def fit(family: Family, model: Mapping, kind: str) -> Fit:
  """`model` (fields of TransformerConfig) said by a family and read again. Biases and types of
  words that are not there are zeros, which a family that has them can say."""
  model = dataclasses.asdict(TransformerConfig(**model))
  if kind not in family.classes.values():
    return Fit(family, {}, {}, ("task.name",))
  name = next(name for name, one in family.classes.items() if one == kind)
  config = {"model_type": family.model_type, "architectures": [name], **family.fixed}
  lost = []
  for one in family.settings:
    try:
      config |= dict.fromkeys(one.theirs, one.to_theirs(model[one.ours]))
    except (KeyError, StopIteration):
      lost.append(one.ours)
      config |= dict.fromkeys(one.theirs, one.default)
  config |= family.write(model)
  tied = {} if model["tie_output"] else {"lm_head.weight": None}
  try:
    back = settings(config, family, tied, family.model_type)
  except UserError:  # two of the settings exclude one another
    return Fit(family, config, {}, tuple(lost) or ("model",))
  here, there = canonical(model, kind), canonical(back, kind)
  lacks = {field for field in here if here[field] != there[field]} | set(lost)
  if not model["bias"]:
    lacks -= {"bias"}
  return Fit(family, config, back, tuple(sorted(lacks)))


def canonical(model: Mapping, kind: str) -> dict:
  """The settings that matter, each said in one way."""
  cfg = TransformerConfig(**model)
  found = {key: value for key, value in dataclasses.asdict(cfg).items() if key not in FREE}
  found |= dict(
    num_kv_heads=cfg.kv_heads,
    head_dim=cfg.head_size,
    embedding_dim=cfg.table_dim,
    attention_scale=cfg.head_size**-0.5 if cfg.attention_scale is None else cfg.attention_scale,
    token_types=None,
  )
  used = dict(
    max_len=cfg.positions == "learned",
    position_offset=cfg.positions == "learned",
    relative_buckets=cfg.positions == "relative",
    relative_max_distance=cfg.positions == "relative",
    rope_theta=cfg.positions == "rotary",
    share_embeddings=bool(cfg.encoder_layers and cfg.decoder_layers),
    tie_output=kind in WORDS,
    output_bias=False,
    logits_scale=kind in WORDS,
  )
  return found | {field: None for field, matters in used.items() if not matters}


def best(model: Mapping, kind: str, pool_activation: str, first: str = "") -> Fit:
  """The family that says the model, `first` (a model_type) before others, else with the fewest
  tensors of zeros. UserError that names what the nearest family lacks."""
  model = dict(model)
  if (name := model.pop("name", "transformer")) != "transformer":
    raise UserError(
      f"model.name is {name!r}: all families of Hugging Face's models that are written here are"
      " Transformers, and none has a place for its weights"
    )
  fits = [fit(family, model, kind) for family in FAMILIES.values()]
  if kind == "classification":
    fits = [
      one
      if one.family.pool_activation == pool_activation
      else dataclasses.replace(one, lacks=(*one.lacks, "task.pool_activation"))
      for one in fits
    ]
  whole = [one for one in fits if not one.lacks]
  if not whole:
    near = min(fits, key=lambda one: ("task.name" in one.lacks, len(one.lacks)))
    told = [
      f"{field} {kind}" if field == "task.name" else f"model.{field} is {model.get(field)!r}"
      for field in near.lacks
      if field != "task.pool_activation"
    ]
    if "task.pool_activation" in near.lacks:
      told.append(f"task.pool_activation is {pool_activation!r}")
    raise UserError(
      f"no family of Hugging Face's models says this one; the nearest, {near.family.model_type},"
      f" has no counterpart of: {', '.join(told)}"
    )
  return min(whole, key=lambda one: (one.family.model_type != first, _size(one.model)))


def _size(model: Mapping) -> int:
  return sum(int(np.prod(shape)) for shape in shapes(model).values())


def shapes(model: Mapping) -> dict[str, tuple[int, ...]]:
  """path -> shape of the weights without a head."""
  cfg = TransformerConfig(**model)
  state = nnx.state(nnx.eval_shape(lambda: Transformer(cfg, rngs=nnx.Rngs(0))))
  leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state))
  return {path_name(path): leaf.shape for path, leaf in leaves}


def write(
  folder: pathlib.Path,
  found: Fit,
  kind: str,
  params: Mapping[str, np.ndarray],
  more: Mapping,
  labels: Sequence[str] = (),
) -> list[str]:
  """config.json (with `more`) and the tensors; names of weights that were filled with zeros."""
  config = found.config | dict(more)
  if labels:
    config["id2label"] = {str(i): label for i, label in enumerate(labels)}
    config["label2id"] = {label: i for i, label in enumerate(labels)}
  text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
  (folder / "config.json").write_text(text + "\n", encoding="utf-8")
  needed, params = shapes(found.model), dict(params)
  bias = found.family.heads.get(kind, ()) and any(
    row.ours == "output_bias" for row in found.family.heads[kind]
  )
  if bias:
    needed["output_bias"] = (found.model["vocab_size"],)
  else:
    needed.pop("output_bias", None)
  zeros = [name for name in needed if name not in params]
  params |= {name: np.zeros(needed[name], np.float32) for name in zeros}
  useless = [name for name in params if name not in needed and not name.startswith("head/")]
  for name in useless:  # a table that the kind of model has no use for
    del params[name]
  weights.write(folder, found.family, kind, found.model, params)
  return zeros
