"""A config.json read as the fields of TransformerConfig, by a family's table."""

import dataclasses
import pathlib
import typing
from collections.abc import Mapping

from model.config import TransformerConfig
from train.common import json_files
from train.common.errors import UserError, nearest
from train.interop.families import GENERIC, NOTHING, Family

# Types of the fields of config.json that no family's table of settings reads.
FIELDS = dict(
  architectures=list[str],
  decoder_start_token_id=int,
  eos_token_id=int | list[int],
  feed_forward_proj=str,
  forced_bos_token_id=int,
  id2label=dict[str, str],
  is_encoder_decoder=bool,
  model_type=str,
  num_decoder_layers=int,
  num_layers=int,
  problem_type=str,
  rope_parameters=dict,
  rope_scaling=dict,
  type_vocab_size=int,
  vocab_size=int,
)
# Of generation_config.json, or else config.json.
GENERATION = dict(
  do_sample=bool,
  early_stopping=bool | str,
  length_penalty=float,
  max_length=int,
  max_new_tokens=int,
  num_beams=int,
  suppress_tokens=list[int],
  temperature=float,
  top_k=int,
  top_p=float,
)
TYPES = typing.get_type_hints(TransformerConfig)


def settings(config: Mapping, family: Family, tensors, where) -> dict:
  """The fields of TransformerConfig that a config.json says; UserError for what it cannot say."""
  known = {*GENERIC, *NOTHING, *family.ignored, *family.fixed}
  found = dict(family.constants)
  for one in family.settings:
    known |= set(one.theirs)
    values = [config.get(name, one.default) for name in one.theirs]
    if any(value != values[0] for value in values):
      told = " and ".join(f"{name} is {value}" for name, value in zip(one.theirs, values))
      raise UserError(f"{where}: {told}; here they are one number, model.{one.ours}")
    try:
      found[one.ours] = one.to_ours(values[0])
    except (KeyError, TypeError):
      raise UserError(
        f"{where}: {one.theirs[0]} is {values[0]!r}, which is not known here"
      ) from None
  fixed = NOTHING | dict(family.fixed)
  for name, value in fixed.items():
    if config.get(name, value) not in (value, value or None):
      raise UserError(f"{where}: {name} is {config[name]!r}; here there is only {value!r}")
  if unknown := sorted(config.keys() - known):
    near = {name: nearest(name, known) for name in unknown}
    told = [
      f"{name}={config[name]!r}" + (f" (did you mean {near[name]}?)" if near[name] else "")
      for name in unknown
    ]
    raise UserError(
      f"{where}: without counterpart here: {', '.join(told)}; take out of the file what changes no"
      " output"
    )
  theirs = {one.ours: one.theirs[0] for one in family.settings}
  _check_types({name: x for name, x in found.items() if x is not None}, theirs, where)
  try:
    found |= family.read(config, tensors)
  except (UserError, ArithmeticError) as error:
    raise UserError(f"{where}: {error}") from None
  _check_types(found, theirs, where)
  fields = {field.name: field.default for field in dataclasses.fields(TransformerConfig)}
  try:
    return dataclasses.asdict(TransformerConfig(**fields | found))
  except (TypeError, ValueError) as error:
    raise UserError(f"{where}: {error}") from error


def _check_types(found, theirs, where):
  for name, value in found.items():
    if not json_files.fits(value, TYPES[name]):
      kind = json_files.named(TYPES[name])
      raise UserError(f"{where}: {theirs.get(name, name)} is {value!r}; it must be {kind}")


def json_of(path: pathlib.Path, needed: bool = False, of=dict):
  """What a JSON file holds, {} or [] if it is not there."""
  if path.exists():
    return json_files.read(path, of)
  if needed:
    raise UserError(f"{path}: no such file; hf:DIR is a Hugging Face directory")
  return {} if of is dict else []
