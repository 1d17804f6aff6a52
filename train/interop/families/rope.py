"""Converts the fields of config.json that describe rotary positions and windows, and the patterns
of both over layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from model.config import TransformerConfig
from train.common import json_files
from train.common.errors import UserError

# The fields that are read here, and that tables ignore.
NAMES = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor")
PATTERNS = ("rope_theta", "rope_scale")  # our fields that may differ by layer
WINDOWS = ("layer_types", "sliding_window")
MOST_LAYERS = 10_000
SLIDING, FULL = "sliding_attention", "full_attention"
THETA = 10000.0  # where config.json has no base
# The kinds of rotary positions, and the numbers that each has beside its base.
KINDS = dict(
  default=(),
  linear=("factor",),
  llama3=("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
)
FREE = ("rope_type", "type", "partial_rotary_factor")  # of any kind


def read(config: Mapping) -> dict[str, Any]:
  """Returns our fields of rotary positions that all layers share.

  Raises UserError, which names the field, for a kind of scaling that has no counterpart.
  """
  field = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
  given, theta = config.get(field) or {}, config.get("rope_theta")
  own = given.get("rope_theta")
  if None not in (own, theta) and own != theta:
    message = "rope_theta is %s, and %s has rope_theta %s, which counts"
    logging.warning(message, theta, field, own)
  return read_one(config, given, field, theta)


def read_one(config: Mapping, given: Mapping, field: str, theta: float | None) -> dict[str, Any]:
  """Returns our fields for the parameters `given`, which stand in `field`; `theta` is their base
  where they have none."""
  kind = given.get("rope_type", given.get("type", "default"))
  if not isinstance(kind, str) or kind not in KINDS:
    raise UserError(f"{field} has rope_type {kind!r}; here it is one of {', '.join(KINDS)}")
  numbers = ("rope_theta", *KINDS[kind])
  json_files.check(given, field, dict.fromkeys(numbers, float))
  known = {name: x for name, x in given.items() if x is not None}
  usual = dict(
    rope_theta=THETA if theta is None else theta,
    original_max_position_embeddings=config.get("max_position_embeddings"),
  )
  values = usual | known
  if lacking := [name for name in numbers if values.get(name) is None]:
    raise UserError(f"{field} has rope_type {kind!r} and no {', '.join(lacking)}")
  if unknown := sorted(known.keys() - {*numbers, *FREE}):
    raise UserError(f"{field} has {', '.join(unknown)}, unknown for rope_type {kind!r}")
  fields = dict(rope_theta=float(values["rope_theta"]), rope_scale=float(values.get("factor", 1)))
  if kind == "llama3":
    fields |= dict(
      rope_original_len=int(values["original_max_position_embeddings"]),
      rope_low_turns=float(values["low_freq_factor"]),
      rope_high_turns=float(values["high_freq_factor"]),
    )
  return fields


def check_whole(config: Mapping) -> None:
  """Raises UserError where only a part of each head turns."""
  for given in (config, config.get("rope_scaling") or {}, config.get("rope_parameters") or {}):
    if (part := given.get("partial_rotary_factor")) not in (None, 1):
      raise UserError(f"partial_rotary_factor is {part!r}; here all of a head turns")


def write(model: Mapping, layer: int = 0) -> dict[str, Any]:
  """Returns the rotary parameters of a layer of a model."""
  settings = TransformerConfig(**model).layer(layer)
  theta, scale = float(settings.rope_theta), float(settings.rope_scale)
  if model["rope_original_len"] is not None:
    return dict(
      rope_type="llama3",
      rope_theta=theta,
      factor=scale,
      original_max_position_embeddings=model["rope_original_len"],
      low_freq_factor=float(model["rope_low_turns"]),
      high_freq_factor=float(model["rope_high_turns"]),
    )
  if scale != 1:
    return dict(rope_type="linear", rope_theta=theta, factor=scale)
  return dict(rope_type="default", rope_theta=theta)


def shortest(pattern: Sequence) -> Any:
  """Returns the shortest tuple whose repetition is `pattern`, and of one element the element."""
  for length in range(1, len(pattern) + 1):
    if all(value == pattern[i % length] for i, value in enumerate(pattern)):
      return pattern[0] if length == 1 else tuple(pattern[:length])
  return None


def layer_types(config: Mapping, layers: int, usual: Callable[[int], str]) -> list[str]:
  """Returns the type of each of `layers` layers, by default `usual` of its number."""
  if layers > MOST_LAYERS:
    raise UserError(f"num_hidden_layers is {layers}; at most {MOST_LAYERS} are read")
  types = config.get("layer_types")
  types = list(map(usual, range(layers))) if types is None else types
  if len(types) != layers:
    raise UserError(f"layer_types has {len(types)} types, and num_hidden_layers is {layers}")
  if unknown := sorted({*types} - {SLIDING, FULL}):
    raise UserError(f"layer_types has {unknown[0]!r}; here a type is {SLIDING} or {FULL}")
  return types


def windows(types: Sequence[str], window: int | None) -> Any:
  """Returns our `window` of layers of these types."""
  if window is None and SLIDING in types:
    raise UserError(
      f"layer_types has {SLIDING!r}, and there is no sliding_window, or use_sliding_window is false"
    )
  return shortest([window if kind == SLIDING else None for kind in types])


def write_windows(model: Mapping, usual: int | None) -> dict[str, Any]:
  """Returns `layer_types` and `sliding_window` of a decoder, `usual` where all see all."""
  cfg = TransformerConfig(**model).for_decoder()
  each = [cfg.layer(i).window for i in range(cfg.decoder_layers)]
  types = [FULL if window is None else SLIDING for window in each]
  return dict(layer_types=types, sliding_window=next(filter(None, each), usual))
