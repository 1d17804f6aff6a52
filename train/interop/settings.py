"""A config.json read as the fields of TransformerConfig, by a family's table."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from model.config import TransformerConfig
from train.errors import UserError, nearest
from train.interop.families import GENERIC, NOTHING, Family


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
  try:
    found |= family.read(config, tensors)
  except UserError as error:
    raise UserError(f"{where}: {error}") from None
  fields = {field.name: field.default for field in dataclasses.fields(TransformerConfig)}
  try:
    return dataclasses.asdict(TransformerConfig(**fields | found))
  except (TypeError, ValueError) as error:
    raise UserError(f"{where}: {error}") from error


def json_of(path: pathlib.Path, needed: bool = False, of: type = dict):
  """What a JSON file holds, {} or [] if it is not there."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    if needed:
      raise UserError(f"{path}: no such file; hf:DIR is a Hugging Face directory") from None
    return of()
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: cannot be read as JSON ({error})") from error
  if not isinstance(found, of):
    raise UserError(f"{path}: holds no JSON {'object' if of is dict else 'list'}")
  return found
