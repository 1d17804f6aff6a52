"""Defines the tables of the T5s that attend otherwise: umT5 and LongT5."""

import dataclasses
import functools

from train.common.errors import UserError
from train.interop.encoder_decoder_families import (
  MULTILINGUAL,
  SIDES,
  T5,
  t5_classes,
  t5_read,
  t5_write,
)
from train.interop.families import Row, attention, field, norm

_RELATIVE = "SelfAttention.relative_attention_bias.weight"
_OWN_RELATIVE = tuple(
  Row(
    f"{side}.block.{{}}.layer.0.{_RELATIVE}",
    f"{side}/blocks/{{}}/self_attention/relative/embedding",
    "same",
  )
  for side in SIDES
)

# A table of distances for each layer (Chung et al. 2023, section 5).
UMT5 = dataclasses.replace(
  T5,
  model_type="umt5",
  classes=t5_classes("UMT5"),
  settings=MULTILINGUAL,
  constants=T5.constants | dict(relative_per_layer=True),
  rows=(*(row for row in T5.rows if "/relative/" not in row.ours), *_OWN_RELATIVE),
  read=functools.partial(t5_read, usual="gated-gelu", layers=8),
)

ATTENTION_TYPES = {
  "local": "LocalSelfAttention",
  "transient-global": "TransientGlobalSelfAttention",
}


def _encoder_rows(name):
  """Yields the rows of self-attention that LongT5's encoder has under another name."""
  theirs, ours = f"encoder.block.{{}}.layer.0.{name}", "encoder/blocks/{}/self_attention"
  first = f"encoder.block.0.layer.0.{name}"
  yield from attention(theirs, ours, ("q", "k", "v", "o"))
  yield Row(f"{first}.relative_attention_bias.weight", "encoder/relative/embedding", "same")
  if name == ATTENTION_TYPES["transient-global"]:
    yield from norm(f"{theirs}.global_input_layer_norm", f"{ours}/block_norm")
    relative = f"{first}.global_relative_attention_bias.weight"
    yield Row(relative, "encoder/block_relative/embedding", "same")


def _radius(window) -> int:
  if not isinstance(window, int):
    raise KeyError(window)
  return window - 1


def _longt5_read(config, tensors):
  kind = config.get("encoder_attention_type", "local")
  if kind not in ATTENTION_TYPES:
    known = " and ".join(ATTENTION_TYPES)
    raise UserError(f"encoder_attention_type is {kind!r}; there are {known}")
  blocks = None if kind == "local" else config.get("global_block_size", 16)
  return t5_read(config, tensors) | dict(global_blocks=blocks)


def _longt5_write(model):
  kind = "local" if model["global_blocks"] is None else "transient-global"
  size = {} if kind == "local" else dict(global_block_size=model["global_blocks"])
  return t5_write(model) | size | dict(encoder_attention_type=kind)


LONGT5 = dataclasses.replace(
  T5,
  model_type="longt5",
  classes={
    "LongT5ForConditionalGeneration": "translation",
    "LongT5Model": "translation",
    "LongT5EncoderModel": "body",
  },
  settings=(
    *T5.settings,
    field("local_radius", "window", 127, lambda radius: radius + 1, _radius),
  ),
  constants=T5.constants | dict(decoder_window=(None,)),
  ignored=(*T5.ignored, "encoder_attention_type", "global_block_size"),  # _longt5_read reads them
  rows=(*T5.rows, *_encoder_rows(ATTENTION_TYPES["local"])),
  rows_with=T5.rows_with
  | dict(global_blocks=tuple(_encoder_rows(ATTENTION_TYPES["transient-global"]))),
  read=_longt5_read,
  write=_longt5_write,
  heads=dict(translation=T5.heads["translation"]),
)

FAMILIES = (UMT5, LONGT5)
