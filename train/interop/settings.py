"""Reads a config.json as the fields of TransformerConfig, by the table of a family."""

import dataclasses
import pathlib
import typing
from collections.abc import Mapping

from model.config import TransformerConfig
from train.common import json_files
from train.common.errors import UserError, did_you_mean
from train.interop.families.base import GENERIC, NEUTRAL, Family

# The types of the fields of config.json that are read beside those in a family's table.
FIELDS = dict(
  architectures=list[str],
  decoder=dict,
  dense_act_fn=str,
  encoder=dict,
  encoder_attention_type=str,
  feed_forward_proj=str,
  global_block_size=int,
  id2label=dict[str, str],
  is_encoder_decoder=bool,
  is_gated_act=bool,
  layer_types=list[str],
  max_window_layers=int,
  model_type=str,
  num_decoder_layers=int,
  num_labels=int,
  num_layers=int,
  partial_rotary_factor=float,
  problem_type=str,
  rope_local_base_freq=float,
  rope_parameters=dict,
  rope_scaling=dict,
  rope_theta=float,
  rotary_emb_base=float,
  rotary_pct=float,
  sliding_window=int,
  sliding_window_pattern=int,
  type_vocab_size=int,
  use_sliding_window=bool,
  vocab_size=int,
)
TYPES = typing.get_type_hints(TransformerConfig)


def settings(config: Mapping, family: Family, tensors, where) -> dict:
  """Returns the fields of TransformerConfig for a config.json; raises UserError, which begins with
  `where`, for a field or a value that has no counterpart."""
  fixed = NEUTRAL | dict(family.fixed)
  known = {*GENERIC, *fixed, *family.ignored}
  model = dict(family.constants)
  for setting in family.settings:
    names = setting.theirs
    known |= set(names)
    values = [config.get(name, setting.default) for name in names]
    if any(value != values[0] for value in values):
      pairs = " and ".join(f"{name} is {value}" for name, value in zip(names, values))
      raise UserError(f"{where}: {pairs}; here they are one number, model.{setting.ours}")
    try:
      model[setting.ours] = setting.to_ours(values[0])
    except (KeyError, TypeError):
      message = f"{where}: {names[0]} is {values[0]!r}, which is not known here"
      raise UserError(message) from None
  for name, value in fixed.items():
    if config.get(name, value) not in (value, value or None):
      raise UserError(f"{where}: {name} is {config[name]!r}; here there is only {value!r}")
  if unknown := sorted(config.keys() - known):
    fields = [f"{name}={config[name]!r}{did_you_mean(name, known)}" for name in unknown]
    raise UserError(
      f"{where}: no counterpart here of {', '.join(fields)}. Remove from the file what changes no"
      " output"
    )
  theirs = {setting.ours: setting.theirs[0] for setting in family.settings}
  _check_types({name: x for name, x in model.items() if x is not None}, theirs, where)
  try:
    model |= family.read(config, tensors)
  except (UserError, ArithmeticError) as error:
    raise UserError(f"{where}: {error}") from None
  _check_types(model, theirs, where)
  try:
    return dataclasses.asdict(TransformerConfig(**model))
  except (TypeError, ValueError) as error:
    raise UserError(f"{where}: {error}") from error


def floats(model: Mapping) -> dict:
  """Returns fields of TransformerConfig with whole numbers as floats where a field may be one."""
  return {
    name: float(value) if type(value) is int and isinstance(0.0, TYPES[name]) else value
    for name, value in model.items()
  }


def _check_types(model, theirs, where):
  for name, value in model.items():
    if not json_files.fits(value, TYPES[name]):
      kind = json_files.type_name(TYPES[name])
      raise UserError(f"{where}: {theirs.get(name, name)} is {value!r}; it must be {kind}")


def json_of(path: pathlib.Path, fields: Mapping, needed: bool = False) -> dict:
  """Returns the content of a JSON file, where `fields` have their types; {} if it is not there."""
  if needed and not path.exists():
    raise UserError(f"{path}: no such file; hf:DIR is a Hugging Face directory")
  content = json_files.read(path) if path.exists() else {}
  json_files.check(content, path, fields)
  return content
